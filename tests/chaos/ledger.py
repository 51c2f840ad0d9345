"""The sender's side: studies of two or three small images, and a ledger of what the node acknowledged."""

import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pydicom import Dataset

from dicomnode.demo import modality
from dicomnode.demo.objects import Study, dx, patient
from dicomnode.errors import DicomnodeError
from tests.hospital import WHEN

SIDE = 32


def study_images(run: str, number: int, images: int) -> list[Dataset]:
    """Return the images of a study, the same for the same numbers."""
    noise = np.random.default_rng(number)
    study, who = Study(run, number, WHEN), patient(number)
    return [
        dx(noise.integers(0, 255, (SIDE, SIDE), dtype=np.uint8), patient=who, study=study, number=image)
        for image in range(1, images + 1)
    ]


class Ledger:
    """A file with a line for each acknowledged instance, durable before the next one is sent."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self.acknowledged: dict[str, str] = {}
        """Study Instance UID by SOP Instance UID."""
        self.unanswered = 0

    def add(self, study_instance_uid: str, sop_instance_uid: str) -> None:
        with self._lock:
            with self._path.open("a") as file:
                file.write(f"{study_instance_uid} {sop_instance_uid}\n")
                file.flush()
                os.fsync(file.fileno())
            self.acknowledged[sop_instance_uid] = study_instance_uid

    def miss(self) -> None:
        with self._lock:
            self.unanswered += 1

    @property
    def studies(self) -> set[str]:
        return set(self.acknowledged.values())


def send_until_acknowledged(
    images: Sequence[Dataset],
    ports: Sequence[int],
    ledger: Ledger,
    give_up: Callable[[], bool],
    choose: random.Random | None = None,
) -> None:
    """Send each of `images` to one of `ports` until it is acknowledged; stop when `give_up()`."""
    left = list(images)
    while left and not give_up():
        try:
            answers = modality.send(left[:1], "127.0.0.1", (choose or random).choice(ports), "MODALITY", "DICOMNODE")
        except DicomnodeError:
            answers = []
        if answers and answers[0].status == 0:
            ledger.add(str(left[0].StudyInstanceUID), answers[0].sop_instance_uid)
            left.pop(0)
        else:
            ledger.miss()
            time.sleep(0.1)


class Senders:
    """Threads that send `studies` studies, some with an image that comes late."""

    def __init__(
        self, run: str, studies: int, ports: Sequence[int], ledger: Ledger, seed: int, threads: int = 2
    ) -> None:
        self._numbers = iter(range(1, studies + 1))
        self._run, self._ports, self._ledger, self._seed = run, ports, ledger, seed
        self._lock = threading.Lock()
        self._late: list[Dataset] = []
        self.stop = threading.Event()
        self.sent = 0
        self.pause_s = 0.0
        self._threads = [threading.Thread(target=self._send, args=(n,)) for n in range(threads)]

    def __enter__(self) -> "Senders":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def is_done(self) -> bool:
        return not any(thread.is_alive() for thread in self._threads)

    def _send(self, thread: int) -> None:
        choose = random.Random(self._seed + thread)
        while not self.stop.is_set():
            with self._lock:
                number = next(self._numbers, None)
                late = self._late.pop(0) if self._late and (number is None or choose.random() < 0.5) else None
            if late is not None:
                self._deliver([late], choose)
            if number is None:
                if late is None:
                    return
                continue
            images = study_images(self._run, number, choose.choice((2, 2, 3)))
            if choose.random() < 0.1:
                with self._lock:
                    self._late.append(images.pop())
            self._deliver(images, choose)
            with self._lock:
                self.sent += 1
            self.stop.wait(self.pause_s)

    def _deliver(self, images: Sequence[Dataset], choose: random.Random) -> None:
        send_until_acknowledged(images, self._ports, self._ledger, self.stop.is_set, choose)
