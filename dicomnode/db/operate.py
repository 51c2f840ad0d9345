"""What an operator changes by hand in the rows: runs of a version, deliveries again."""

from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from dicomnode.db import studies
from dicomnode.db.session import changed_rows
from dicomnode.db.tables import Delivery, Destination, StudyVersion
from dicomnode.domain.lifecycle import DeliveryState, Event, State


def retry(session: Session, version_id: int, at: datetime, reason: str, *, actor: str) -> StudyVersion | None:
    """Queue a failed version for one more run with fresh attempts; `None` where it has not failed (any more)."""
    if studies.advance(session, version_id, Event.RETRIED, at, reason, actor=actor) is None:
        return None
    session.execute(
        update(StudyVersion).where(StudyVersion.id == version_id).values(run=StudyVersion.run + 1, attempts=0)
    )
    return session.get_one(StudyVersion, version_id, populate_existing=True)


def requeue(session: Session, version_id: int) -> StudyVersion | None:
    """Count one more run of a version that is still queued, `None` where it is not."""
    queued = (StudyVersion.id == version_id, StudyVersion.state == State.QUEUED)
    if changed_rows(session, update(StudyVersion).where(*queued).values(run=StudyVersion.run + 1)) == 0:
        return None
    return session.get_one(StudyVersion, version_id, populate_existing=True)


def send_again(session: Session, delivery_ids: list[int], at: datetime) -> int:
    """Let the next round send deliveries whatever became of them, with fresh patience; return how many.

    What is due already is on its way and is left alone. An open circuit is probed at once.
    """
    again = update(Delivery).where(Delivery.id.in_(delivery_ids), Delivery.state != DeliveryState.DUE)
    values = {"state": DeliveryState.DUE, "next_at": at, "created_at": at, "settled_at": None, "error": ""}
    count = changed_rows(session, again.values(**values))
    named = select(Delivery.destination).where(Delivery.id.in_(delivery_ids))
    probed = update(Destination).where(Destination.name.in_(named), Destination.next_probe_at > at)
    session.execute(probed.values(next_probe_at=at))
    return count


def end_back_off(session: Session, at: datetime, destination: str = "") -> int:
    """Let waiting deliveries (to one destination) be due at once, an open circuit probed; return how many."""
    waiting = update(Delivery).where(Delivery.state == DeliveryState.WAITING, Delivery.next_at > at)
    probed = update(Destination).where(Destination.next_probe_at > at)
    if destination:
        waiting = waiting.where(Delivery.destination == destination)
        probed = probed.where(Destination.name == destination)
    session.execute(probed.values(next_probe_at=at))
    return changed_rows(session, waiting.values(next_at=at))
