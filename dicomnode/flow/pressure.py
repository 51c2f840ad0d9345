"""Back-pressure: when a receiver takes nothing more for a while, and the events that say so.

Standard: PS3.4 B.2.3: 0xA7xx tells the sender that the fault is ours and may pass.
"""

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dicomnode import spool
from dicomnode.config import ReceiverSettings
from dicomnode.db import audit, intake, pauses
from dicomnode.db.session import Database, now
from dicomnode.domain.lifecycle import Stage
from dicomnode.errors import Paused, QueueFull, SpoolFull
from dicomnode.log import get_logger

log = get_logger(__name__)
LOOK_S, SHARE = 1.0, 0.05
"""The rows are counted once a second, more seldom where counting would take more than this share of the time."""
RELIEF = 0.1
"""An episode ends when the value is this far on the good side of its limit: no event at every image around it."""
SPOOL_FULL, QUEUE_FULL = "spool full", "queue full"


@dataclass(frozen=True, slots=True)
class _Look:
    holds_until_s: float
    queued: int
    is_paused: bool


class BackPressure:
    """What a receiver asks before it takes an object; the database is asked at most once a second, whatever arrives.

    The first refusal of an episode is an event (a log line and an audit row), and so is its end.
    """

    def __init__(
        self, database: Database, root: Path, settings: ReceiverSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._root = root
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: _Look | None = None
        self._episodes: set[str] = set()

    def check_space(self, wanted_bytes: int) -> None:
        """Raise `SpoolFull` where an object of this size would leave too little space."""
        limit = self._settings.min_free_bytes
        try:
            spool.check_space(self._root, limit, wanted_bytes)
        except SpoolFull as exc:
            self._begin(SPOOL_FULL, str(exc))
            raise
        if SPOOL_FULL in self._episodes:
            free = shutil.disk_usage(self._root).free
            if free >= limit * (1 + RELIEF):
                self._end(SPOOL_FULL, f"{free} bytes are free")

    def check_queue(self, study_instance_uid: str) -> None:
        """Raise `QueueFull` for a new study while too many wait, `Paused` for all while an operator says so.

        Instances of a study that is known are taken: a study that is here in part is worse than one that waits.
        """
        look = self._look()
        if look.is_paused:
            raise Paused("receiving is paused: dicomnode queue resume receive")
        limit = self._settings.max_queued_studies
        if look.queued <= limit * (1 - RELIEF) and QUEUE_FULL in self._episodes:
            self._end(QUEUE_FULL, f"{look.queued} studies are queued")
        if look.queued < limit:
            return
        with self._database.read() as session:
            if intake.is_known_study(session, study_instance_uid):
                return
        text = f"{look.queued} studies are queued, receiver.max_queued_studies is {limit}"
        self._begin(QUEUE_FULL, text)
        raise QueueFull(text)

    def _look(self) -> _Look:
        with self._lock:
            began = self._clock()
            if self._seen is None or began >= self._seen.holds_until_s:
                with self._database.read() as session:
                    queued = intake.queued_count(session, self._settings.max_queued_studies)
                    is_paused = pauses.is_paused(session, Stage.RECEIVE)
                ended = self._clock()
                self._seen = _Look(began + max(LOOK_S, (ended - began) / SHARE), queued, is_paused)
            return self._seen

    def _begin(self, what: str, text: str) -> None:
        with self._lock:
            if what in self._episodes:
                return
            self._record(what, text)
            self._episodes.add(what)
        log.error(what, detail=text)

    def _end(self, what: str, text: str) -> None:
        with self._lock:
            if what not in self._episodes:
                return
            self._record(f"{what} no longer", text)
            self._episodes.discard(what)
        log.info(f"{what} no longer", detail=text)

    def _record(self, what: str, text: str) -> None:
        with self._database.write() as session:
            audit.record(session, what, at=now(session), detail=text)
