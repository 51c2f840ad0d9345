"""Sweep: twice a second, what time has made due is found in the rows and put on the engine's queues."""

import threading
from pathlib import Path

from dicomnode import spool
from dicomnode.config import Settings
from dicomnode.db import processes, results
from dicomnode.db.session import Database, now
from dicomnode.domain.lifecycle import DeliveryState
from dicomnode.engine import Engine, Queue
from dicomnode.errors import Transient
from dicomnode.flow.close import close_quiet_studies
from dicomnode.flow.drift import DriftWatch
from dicomnode.log import get_logger

log = get_logger(__name__)
STAGED_FOR_A_DAY_S = 86400.0


def sweep(database: Database, queue: Queue, settings: Settings) -> None:
    """Close quiet studies and enqueue deliveries whose back-off is over."""
    close_quiet_studies(database, queue, settings)
    requeue_waiting(database, queue)


def requeue_waiting(database: Database, queue: Queue) -> int:
    """Enqueue the deliveries whose back-off is over; return how many."""
    with database.read() as session:
        if not results.waiting_deliveries(session, now(session)):
            return 0
    with database.write() as session:
        waiting = results.waiting_deliveries(session, now(session))
        for delivery in waiting:
            delivery.state = DeliveryState.DUE
            queue.add_delivery(session, delivery.id, delivery.destination, delivery.attempts)
        return len(waiting)


def take_over_lost_work(database: Database, engine: Engine) -> int:
    """Give the work of processes that are silent or known to be dead back to its queue."""
    with database.read() as session:
        living = [process.executor_id for process in processes.alive(session, now(session))]
    return engine.take_over([*living, engine.executor_id])


def run_forever(database: Database, queue: Queue, engine: Engine, settings: Settings, stop: threading.Event) -> None:
    """Sweep until `stop`; a database that is away for a while is waited for."""
    watch = DriftWatch(database, settings.drift)
    while not stop.wait(settings.study.sweep_interval_s):
        try:
            sweep(database, queue, settings)
            take_over_lost_work(database, engine)
            watch.measure_if_due()
        except Transient as exc:
            log.warning("sweep waits", error=str(exc))
        except Exception:
            log.exception("sweep failed")


def clear_staging(root: Path, now_s: float) -> None:
    """Remove what a crash left in staging a day ago: it has no row and was never acknowledged."""
    removed = spool.sweep_staging(root, STAGED_FOR_A_DAY_S, now_s)
    if removed:
        log.warning("removed staged files without a row", files=removed)
