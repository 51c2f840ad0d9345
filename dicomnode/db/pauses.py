"""Pauses: rows that keep new work of a stage from starting, on every host and over restarts."""

from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from dicomnode.db import audit
from dicomnode.db.session import changed_rows
from dicomnode.db.tables import Pause
from dicomnode.domain.lifecycle import Stage

EVERYWHERE = ""
"""The destination of a pause that holds for all of them (and for stages that know no destination)."""


def add(session: Session, stage: Stage, destination: str, *, at: datetime, actor: str, reason: str) -> bool:
    """Pause a stage, or the deliveries to one destination; `False` where it is paused already."""
    if session.get(Pause, (stage, destination)) is not None:
        return False
    session.add(Pause(stage=stage, destination=destination, since=at, actor=actor[:64], reason=reason[:1024]))
    audit.record(session, "paused", at=at, actor=actor, stage=str(stage), destination=destination, reason=reason)
    return True


def remove(session: Session, stage: Stage, destination: str, *, at: datetime, actor: str) -> bool:
    """End a pause; `False` where there was none."""
    paused = delete(Pause).where(Pause.stage == stage, Pause.destination == destination)
    if changed_rows(session, paused) == 0:
        return False
    audit.record(session, "resumed", at=at, actor=actor, stage=str(stage), destination=destination)
    return True


def listed(session: Session) -> list[Pause]:
    """Return all pauses, the oldest first."""
    return list(session.scalars(select(Pause).order_by(Pause.since)))


def is_paused(session: Session, stage: Stage, destination: str = EVERYWHERE) -> bool:
    """Return whether nothing new may start in a stage (for a destination)."""
    query = select(Pause.stage).where(Pause.stage == stage, Pause.destination.in_({EVERYWHERE, destination}))
    return session.scalars(query.limit(1)).first() is not None
