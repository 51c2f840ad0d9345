"""Sweep: twice a second, what time has made due is found in the rows and put on the engine's queues."""

import math
import threading
import time
from datetime import datetime, timedelta

from dicomnode.config import Settings
from dicomnode.db import processes
from dicomnode.db.session import Database, now
from dicomnode.engine import Engine, Queue
from dicomnode.errors import Transient
from dicomnode.failpoint import failpoint
from dicomnode.flow.close import close_quiet_studies
from dicomnode.flow.deliver import order_rounds
from dicomnode.flow.drift import DriftWatch
from dicomnode.log import get_logger

log = get_logger(__name__)
RETENTION_INTERVAL_S = 3600.0
JUMP_S = processes.SILENT_AFTER_S / 2


def sweep(database: Database, queue: Queue, settings: Settings) -> None:
    """Close quiet studies and order rounds to the destinations that have something to do."""
    failpoint("sweep.started")
    close_quiet_studies(database, queue, settings)
    order_rounds(database, queue)


class Reaper:
    """What one process does for all: it gives lost work back to its queue, and removes what the engine need not keep.

    After a pause of its own (the database was away, the host slept) and after a jump of the database's clock nobody is
    called silent until everybody had the time to be heard again.
    """

    def __init__(self, database: Database, queue: Queue, engine: Engine, settings: Settings) -> None:
        self._database = database
        self._queue = queue
        self._engine = engine
        self._settings = settings
        self._last: tuple[float, datetime] | None = None
        self._trusted_from = -math.inf
        self._next_retention = 0.0

    def run(self, moment_s: float) -> None:
        """Do what is due at `moment_s`, a monotonic clock; nothing where another process leads."""
        with self._database.read() as session:
            at = now(session)
            self._distrust(moment_s, at)
            living = processes.alive(session, at)
            if processes.leader(living) != self._engine.executor_id:
                return
            known = {self._engine.executor_id, *(process.executor_id for process in living)}
            lost = self._engine.holders(session) - known
        if moment_s >= self._trusted_from:
            self._engine.take_over(lost)
        if moment_s >= self._next_retention:
            self._next_retention = moment_s + RETENTION_INTERVAL_S
            self._remove_finished()

    def _distrust(self, moment_s: float, at: datetime) -> None:
        """Begin a time in which nobody is called silent, where heartbeats may look older than they are."""
        silent_s = processes.SILENT_AFTER_S
        if self._last is not None:
            last_s, last_at = self._last
            paused, jumped = moment_s - last_s, (at - last_at).total_seconds() - (moment_s - last_s)
            was_heard = moment_s > self._trusted_from + silent_s  # not again and again on a machine that only crawls
            if jumped > JUMP_S or (paused > silent_s and was_heard):
                self._trusted_from = moment_s + silent_s
        self._last = moment_s, at

    def _remove_finished(self) -> None:
        with self._database.read() as session:
            before = now(session) - timedelta(days=self._settings.database.keep_workflows_days)
        if removed := self._queue.remove_finished(before):
            log.info("removed finished work from the engine", workflows=removed)


def run_forever(database: Database, queue: Queue, engine: Engine, settings: Settings, stop: threading.Event) -> None:
    """Sweep until `stop`; a database that is away for a while is waited for."""
    watch = DriftWatch(database, settings.drift)
    reaper = Reaper(database, queue, engine, settings)
    while not stop.wait(settings.study.sweep_interval_s):
        try:
            sweep(database, queue, settings)
            reaper.run(time.monotonic())
            watch.measure_if_due()
        except Transient as exc:
            log.warning("sweep waits", error=str(exc))
        except Exception:
            log.exception("sweep failed")
