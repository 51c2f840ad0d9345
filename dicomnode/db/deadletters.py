"""Dead letters: the study versions and deliveries that failed for good, with what an operator needs to decide."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicomnode.db.tables import AuditEvent, Delivery, EvidenceObject, Study, StudyVersion
from dicomnode.domain.lifecycle import DeliveryState, Event, State

FailedStage = Literal["analyze", "report", "deliver"]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A version that failed in a stage; one in delivery has a dead letter for each delivery that is dead.

    `tries` counts runs of the analysis, or attempts to deliver; `next_at` is `None` where only an operator goes on.
    """

    version_id: int
    study_instance_uid: str
    number: int
    stage: FailedStage
    reason: str
    failed_at: datetime
    tries: int
    next_at: datetime | None = None
    dimse_status: int | None = None
    destination: str = ""
    delivery_id: int | None = None


def dead_letters(
    session: Session,
    *,
    limit: int,
    since: datetime | None = None,
    stages: Sequence[FailedStage] = ("analyze", "report", "deliver"),
) -> list[DeadLetter]:
    """Return what failed (since a moment) and waits for an operator, the last failure first, of `limit` versions."""
    query = (
        select(StudyVersion, Study.study_instance_uid)
        .join(Study, Study.id == StudyVersion.study_id)
        .where(StudyVersion.state == State.FAILED)
        .order_by(StudyVersion.state_changed_at.desc(), StudyVersion.id.desc())
        .limit(limit)
    )
    if since is not None:
        query = query.where(StudyVersion.state_changed_at >= since)
    found = [letter for version, uid in session.execute(query) for letter in _letters(session, version, uid)]
    return [letter for letter in found if letter.stage in stages]


def _letters(session: Session, version: StudyVersion, study_instance_uid: str) -> list[DeadLetter]:
    letter = partial(DeadLetter, version.id, study_instance_uid, version.number)
    dead = deliveries(session, state=DeliveryState.DEAD, version_id=version.id, limit=1000)
    if not dead:
        return [
            letter(
                stage=_stage(session, version.id),
                reason=version.reason,
                failed_at=version.state_changed_at,
                tries=version.attempts,
            )
        ]
    return [
        letter(
            stage="deliver",
            reason=delivery.error,
            failed_at=delivery.settled_at or version.state_changed_at,
            tries=delivery.attempts,
            dimse_status=delivery.dimse_status,
            destination=delivery.destination,
            delivery_id=delivery.id,
        )
        for delivery, _, _ in dead
    ]


def _stage(session: Session, version_id: int) -> FailedStage:
    """Return the stage that gave up, as its audit row says."""
    query = select(AuditEvent.detail).where(AuditEvent.version_id == version_id, AuditEvent.action == Event.GAVE_UP)
    detail = session.scalars(query.order_by(AuditEvent.id.desc()).limit(1)).first() or {}
    return "report" if detail.get("before") == State.REPORTING else "analyze"


def deliveries(
    session: Session,
    *,
    limit: int,
    state: DeliveryState | None = None,
    destination: str = "",
    version_id: int | None = None,
) -> list[tuple[Delivery, EvidenceObject, StudyVersion]]:
    """Return deliveries with what they deliver, the newest first."""
    query = (
        select(Delivery, EvidenceObject, StudyVersion)
        .join(EvidenceObject, EvidenceObject.id == Delivery.evidence_object_id)
        .join(StudyVersion, StudyVersion.id == EvidenceObject.version_id)
        .order_by(Delivery.id.desc())
        .limit(limit)
    )
    if state is not None:
        query = query.where(Delivery.state == state)
    if destination:
        query = query.where(Delivery.destination == destination)
    if version_id is not None:
        query = query.where(EvidenceObject.version_id == version_id)
    return [(d, e, v) for d, e, v in session.execute(query)]


def unsettled_by_destination(session: Session) -> dict[str, dict[DeliveryState, tuple[int, datetime]]]:
    """Return for each destination how many deliveries are in each unsettled state, and the earliest next attempt."""
    states = (DeliveryState.DUE, DeliveryState.WAITING, DeliveryState.UNCOMMITTED, DeliveryState.DEAD)
    query = (
        select(Delivery.destination, Delivery.state, func.count(), func.min(Delivery.next_at))
        .where(Delivery.state.in_(states))
        .group_by(Delivery.destination, Delivery.state)
    )
    found: dict[str, dict[DeliveryState, tuple[int, datetime]]] = {}
    for destination, state, count, next_at in session.execute(query):
        found.setdefault(destination, {})[DeliveryState(state)] = (count, next_at)
    return found
