"""Collects images of many callers into batches: one forward pass of every network for the lot.

A batch that fails is repeated image by image, so that one bad image harms only itself.
"""

import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dicomnode.errors import UnsuitableInput

Outputs = NDArray[np.float64]
Run = Callable[[Tensor], Outputs]
"""A network: inputs (B, 1, rows, columns) to outputs (B, K)."""
Answer = Outputs | UnsuitableInput


@dataclass(frozen=True)
class _Item:
    """An image: its input (1, rows, columns) for each network that asked, and who waits for the answers."""

    inputs: Mapping[str, Tensor]
    answers: "Future[dict[str, Answer]]" = field(default_factory=Future)


class Batcher:
    """A thread that runs networks over batches; `submit` may be called from any thread while it is open."""

    def __init__(self, networks: Mapping[str, Run], batch_images: int, batch_wait_ms: float) -> None:
        self._networks = networks
        self._batch_images = batch_images
        self._wait_s = batch_wait_ms / 1000
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._is_open = True
        self._thread = threading.Thread(target=self._loop, name="batcher", daemon=True)
        self._thread.start()

    def submit(self, inputs: Mapping[str, Tensor]) -> "Future[dict[str, Answer]]":
        """Return the outputs to come (K,) by network, or why a network could not; `inputs` are by network too."""
        item = _Item(inputs)
        with self._lock:
            if not self._is_open:
                raise RuntimeError("the batcher is closed")
            self._queue.put(item)
        return item.answers

    def close(self) -> None:
        """Answer what was submitted and end the thread."""
        with self._lock:
            if self._is_open:
                self._is_open = False
                self._queue.put(None)
        self._thread.join()

    def _loop(self) -> None:
        is_last = False
        while not is_last:
            items, is_last = self._collect()
            try:
                answers = _answers(items, self._networks)
            except BaseException as exc:  # noqa: BLE001  outermost loop of the thread: those who wait must hear of it
                for item in items:
                    item.answers.set_exception(exc)
                continue
            for item, answer in zip(items, answers, strict=True):
                item.answers.set_result(answer)

    def _collect(self) -> tuple[list[_Item], bool]:
        """Return a batch and whether the batcher was closed after it."""
        first = self._queue.get()
        if first is None:
            return [], True
        items = [first]
        deadline = time.monotonic() + self._wait_s
        while len(items) < self._batch_images:
            try:
                item = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if item is None:
                return items, True
            items.append(item)
        return items, False


def _answers(items: list[_Item], networks: Mapping[str, Run]) -> list[dict[str, Answer]]:
    answers: list[dict[str, Answer]] = [{} for _ in items]
    for name, run in networks.items():
        asked = [number for number, item in enumerate(items) if name in item.inputs]
        if not asked:
            continue
        found = run_batch(run, [items[number].inputs[name] for number in asked])
        for number, answer in zip(asked, found, strict=True):
            answers[number][name] = answer
    return answers


def run_batch(run: Run, inputs: list[Tensor]) -> list[Answer]:
    """Return the outputs of each input; where the batch fails, each is tried alone and only the bad one is refused."""
    try:
        outputs = run(torch.stack(inputs))  # (B, K)
    except (RuntimeError, ValueError, MemoryError) as exc:
        if len(inputs) == 1:
            return [UnsuitableInput(f"the network failed on the image: {exc}")]
        return [run_batch(run, [one])[0] for one in inputs]
    bad = UnsuitableInput("the network gave no finite number for the image")
    return [row if np.isfinite(row).all() else bad for row in outputs]
