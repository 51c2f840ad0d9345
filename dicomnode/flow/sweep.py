"""Sweep: twice a second, what time has made due is found in the rows and put on the engine's queues."""

import math
import threading
import time
from datetime import timedelta

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


def sweep(database: Database, queue: Queue, settings: Settings) -> None:
    """Close quiet studies and order rounds to the destinations that have something to do."""
    failpoint("sweep.started")
    close_quiet_studies(database, queue, settings)
    order_rounds(database, queue)


class Reaper:
    """What one process does for all: it gives lost work back to its queue, and removes what the engine need not keep.

    After a pause of its own (the database was away, the host slept) nobody is called silent until everybody had the
    time to be heard again.
    """

    def __init__(self, database: Database, queue: Queue, engine: Engine, settings: Settings) -> None:
        self._database = database
        self._queue = queue
        self._engine = engine
        self._settings = settings
        self._last: float | None = None
        self._trusted_from = -math.inf
        self._next_retention = 0.0

    def run(self, moment_s: float) -> None:
        """Do what is due at `moment_s`, a monotonic clock; nothing where another process leads."""
        silent_s = processes.SILENT_AFTER_S
        paused = self._last is not None and moment_s - self._last > silent_s
        if paused and moment_s > self._trusted_from + silent_s:  # not again and again on a machine that only crawls
            self._trusted_from = moment_s + silent_s
        self._last = moment_s
        with self._database.read() as session:
            living = processes.alive(session, now(session))
            if processes.leader(living) != self._engine.executor_id:
                return
            known = {self._engine.executor_id, *(process.executor_id for process in living)}
            lost = self._engine.holders(session) - known
        if moment_s >= self._trusted_from:
            self._engine.take_over(lost)
        if moment_s >= self._next_retention:
            self._next_retention = moment_s + RETENTION_INTERVAL_S
            self._remove_finished()

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
