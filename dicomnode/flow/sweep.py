"""Sweep: twice a second, what time has made due is found in the rows and put on the engine's queues."""

import threading

from dicomnode.config import Settings
from dicomnode.db import processes
from dicomnode.db.session import Database, now
from dicomnode.engine import Engine, Queue
from dicomnode.errors import Transient
from dicomnode.flow.close import close_quiet_studies
from dicomnode.flow.deliver import order_rounds
from dicomnode.flow.drift import DriftWatch
from dicomnode.log import get_logger

log = get_logger(__name__)


def sweep(database: Database, queue: Queue, settings: Settings) -> None:
    """Close quiet studies and order rounds to the destinations that have something to do."""
    close_quiet_studies(database, queue, settings)
    order_rounds(database, queue)


def take_over_lost_work(database: Database, engine: Engine) -> int:
    """Give the work of processes that are silent or known to be dead back to its queue."""
    with database.read() as session:
        living = {process.executor_id for process in processes.alive(session, now(session))}
        lost = engine.holders(session) - living - {engine.executor_id}
    return engine.take_over(lost)


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
