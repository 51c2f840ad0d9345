"""Heartbeats: which processes of the node are alive, by the database's clock."""

from datetime import datetime, timedelta

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from dicomnode.db.session import changed_rows
from dicomnode.db.tables import Heartbeat

SILENT_AFTER_S = 10.0


def beat(session: Session, *, executor_id: str, role: str, host: str, pid: int, at: datetime) -> None:
    """Write that a process is alive."""
    known = update(Heartbeat).where(Heartbeat.executor_id == executor_id).values(seen_at=at)
    if changed_rows(session, known) == 0:
        session.add(Heartbeat(executor_id=executor_id, role=role, host=host, pid=pid, started_at=at, seen_at=at))


def forget(session: Session, executor_id: str) -> bool:
    """Write that a process has ended, so that its work may be taken at once; return whether it was ever ready."""
    return changed_rows(session, delete(Heartbeat).where(Heartbeat.executor_id == executor_id)) == 1


def alive(session: Session, at: datetime) -> list[Heartbeat]:
    """Return the processes that were heard within `SILENT_AFTER_S`."""
    heard_since = at - timedelta(seconds=SILENT_AFTER_S)
    return list(session.scalars(select(Heartbeat).where(Heartbeat.seen_at >= heard_since)))


def receiving_since(session: Session, at: datetime) -> datetime | None:
    """Return since when all live receivers have been listening, `None` where none is alive.

    A study is only quiet if its sender could reach us: after the restart of any receiver the quiet period starts again.
    """
    return max((p.started_at for p in alive(session, at) if p.role == "receive"), default=None)


def leader(living: list[Heartbeat]) -> str | None:
    """Return the executor that does what one process does for all: of the living that sweep, the longest-running."""
    sweeping = sorted((p.started_at, p.executor_id) for p in living if p.role == "deliver")
    return sweeping[0][1] if sweeping else None
