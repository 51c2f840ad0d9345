"""Housekeeping: what a node does beside its work; one thread of the deliver role, on one of all hosts at a time."""

import shutil
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy.exc import IntegrityError

from dicomnode.config import Settings
from dicomnode.db import audit, chores, clock
from dicomnode.db.session import Database, now
from dicomnode.errors import Transient
from dicomnode.flow import purge, reconcile
from dicomnode.log import get_logger

log = get_logger(__name__)
TICK_S = 5.0
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
SPACE_EVERY = timedelta(minutes=1)
SET_BACK = timedelta(seconds=1)


class Clock:
    """Notices that the clock of the database was set back and heals the rows that would wait for it.

    A clock that was set forward heals itself: heartbeats are new within seconds, what closed early gets a next version.
    """

    def __init__(self, longest_wait: timedelta) -> None:
        self._longest_wait = longest_wait
        self._last: datetime | None = None

    def look(self, database: Database, at: datetime) -> bool:
        """Return whether `at` lies before the moment of the last look; the first look heals in any case."""
        is_behind = self._last is None or at < self._last - SET_BACK
        before, self._last = self._last, at
        if is_behind:
            with database.write() as session:
                moved = clock.bring_back(session, at, self._longest_wait)
                if before is not None or moved:
                    audit.record(session, "clock set back", at=at, moments=moved)
                    log.warning("the clock was set back", moments=moved)
        return is_behind


def run_due(
    database: Database, root: Path, settings: Settings, stop: threading.Event, *, at_start: bool = False
) -> list[str]:
    """Do the chores that are due and that no other process does; return their names."""
    keep = settings.retention
    tasks: Mapping[str, tuple[timedelta, Callable[[], object]]] = {
        "purge": (HOUR, lambda: purge.purge_aged(database, root, keep, stop)),
        "reconcile": (HOUR if at_start else DAY, lambda: reconcile.reconcile(database, root, stop, time.time())),
    }
    if shutil.disk_usage(root).free < keep.target_free_bytes:
        space = lambda: purge.purge_for_space(database, root, keep.target_free_bytes, stop)  # noqa: E731
        tasks = {"space": (SPACE_EVERY, space), **tasks}
    return [name for name, (every, task) in tasks.items() if _run(database, name, every, task)]


def _run(database: Database, name: str, every: timedelta, task: Callable[[], object]) -> bool:
    try:
        with database.write() as session:
            if not chores.claim(session, name, now(session), every):
                return False
    except IntegrityError:
        return False
    task()
    with database.write() as session:
        chores.end(session, name, now(session))
    return True


def run_forever(database: Database, settings: Settings, stop: threading.Event) -> None:
    """Keep house until `stop`; a database that is away for a while is waited for."""
    watch = Clock(timedelta(seconds=settings.delivery.max_retry_s))
    at_start = True
    while not stop.wait(TICK_S):
        try:
            with database.read() as session:
                at = now(session)
            watch.look(database, at)
            run_due(database, settings.node.data_dir, settings, stop, at_start=at_start)
            at_start = False
        except Transient as exc:
            log.warning("housekeeping waits", error=str(exc))
        except Exception:
            log.exception("housekeeping failed")
