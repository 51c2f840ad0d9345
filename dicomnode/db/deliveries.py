"""Deliveries and destinations as rows: what is due, who sends it, what came of each attempt.

One process at a time serves a destination: its row is the lease, `served_by` the fence.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import case, exists, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from dicomnode.db.pauses import EVERYWHERE
from dicomnode.db.session import changed_rows
from dicomnode.db.studies import StoredFile
from dicomnode.db.tables import (
    Delivery,
    DeliveryAttempt,
    Destination,
    EvidenceObject,
    Pause,
    StorageCommitment,
    StudyVersion,
)
from dicomnode.domain.findings import Priority
from dicomnode.domain.lifecycle import CircuitState, DeliveryState, Stage
from dicomnode.domain.patience import Circuit

TO_SEND = (DeliveryState.DUE, DeliveryState.WAITING)
LONGEST_ERROR = 2000


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An evidence object, or a variant of one, as it lies in the spool."""

    object_id: int
    sop_class_uid: str
    sop_instance_uid: str
    path: str


@dataclass(frozen=True, slots=True)
class Due:
    """A delivery that may be sent now. `is_chosen` says that this object was sent before, and no other may be."""

    delivery_id: int
    version_id: int
    destination: str
    attempts: int
    created_at: datetime
    content: StoredObject
    is_chosen: bool


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of one attempt."""

    state: DeliveryState
    outcome: str
    next_at: datetime
    sop_instance_uid: str
    duration_ms: float
    dimse_status: int | None
    http_status: int | None
    error: str


def know(session: Session, names: Iterable[str]) -> None:
    """Add the rows of destinations that are new."""
    for name in names:
        if session.get(Destination, name) is None:
            try:
                with session.begin_nested():
                    session.add(Destination(name=name))
            except IntegrityError:  # another process was first
                continue


def to_serve(session: Session, at: datetime) -> list[str]:
    """Return the destinations that have something to do now, by name; a paused one waits."""
    waits = exists().where(
        Delivery.destination == Destination.name,
        Delivery.state.in_((*TO_SEND, DeliveryState.UNCOMMITTED)),
    )
    paused = select(Pause.stage).where(
        Pause.stage == Stage.DELIVER, Pause.destination.in_([EVERYWHERE, Destination.name])
    )
    query = select(Destination.name).where(
        ~paused.exists(),
        or_(Destination.next_probe_at.is_(None), Destination.next_probe_at <= at),
        or_(
            (Destination.state == CircuitState.CLOSED) & waits.where(Delivery.next_at <= at),
            (Destination.state != CircuitState.CLOSED) & waits,
        ),
    )
    return list(session.scalars(query.order_by(Destination.name)))


def lock(session: Session, name: str) -> Destination | None:
    """Return the row of a destination, which no other transaction changes until this one ends."""
    return session.scalars(
        select(Destination).where(Destination.name == name).with_for_update().execution_options(populate_existing=True)
    ).one_or_none()


def serve(session: Session, name: str, executor_id: str, alive: Iterable[str], at: datetime) -> Destination | None:
    """Take a destination for `executor_id` and return its row; `None` where another living process serves it."""
    row = lock(session, name)
    if row is None or (row.served_by != executor_id and row.served_by in set(alive)):
        return None
    if row.served_by is not None and row.state == CircuitState.HALF_OPEN:
        row.next_probe_at = at  # who probed is gone
    row.served_by, row.busy_at = executor_id, at
    session.flush()
    return row


def is_served_by(session: Session, name: str, executor_id: str) -> bool:
    """Return whether the process still has the destination: one that was frozen may have lost it."""
    return session.scalar(select(Destination.served_by).where(Destination.name == name)) == executor_id


def release(session: Session, name: str, executor_id: str) -> None:
    """Leave a destination to others."""
    session.execute(
        update(Destination)
        .where(Destination.name == name, Destination.served_by == executor_id)
        .values(served_by=None, busy_at=None)
    )


def circuit(row: Destination) -> Circuit:
    """Return the circuit of a destination."""
    return Circuit(row.name, CircuitState(row.state), row.failures, row.opened_at, row.next_probe_at, row.last_error)


def set_circuit(row: Destination, new: Circuit) -> None:
    """Write a circuit into its row."""
    row.state, row.failures, row.last_error = new.state, new.failures, new.last_error[:LONGEST_ERROR]
    row.opened_at, row.next_probe_at = new.opened_at, new.next_probe_at


def due(session: Session, name: str, at: datetime, limit: int) -> list[Due]:
    """Return what may be sent to a destination now, the most urgent first, then the oldest."""
    rank = case({str(priority): priority.rank for priority in Priority}, value=StudyVersion.priority, else_=9)
    query = (
        select(Delivery, EvidenceObject)
        .join(EvidenceObject, EvidenceObject.id == func.coalesce(Delivery.sent_object_id, Delivery.evidence_object_id))
        .join(StudyVersion, StudyVersion.id == EvidenceObject.version_id)
        .where(Delivery.destination == name, Delivery.state.in_(TO_SEND), Delivery.next_at <= at)
        .order_by(rank, Delivery.id)
        .limit(limit)
    )
    return [_due(delivery, evidence) for delivery, evidence in session.execute(query)]


def _due(delivery: Delivery, evidence: EvidenceObject) -> Due:
    return Due(
        delivery_id=delivery.id,
        version_id=evidence.version_id,
        destination=delivery.destination,
        attempts=delivery.attempts,
        created_at=delivery.created_at,
        content=_stored(evidence),
        is_chosen=delivery.sent_object_id is not None,
    )


def _stored(evidence: EvidenceObject) -> StoredObject:
    return StoredObject(evidence.id, evidence.sop_class_uid, evidence.sop_instance_uid, evidence.path)


def variant(session: Session, object_id: int, sop_class_uid: str) -> StoredObject | None:
    """Return the variant of an evidence object in a SOP Class, if it was made before."""
    query = select(EvidenceObject).where(
        EvidenceObject.variant_of_id == object_id, EvidenceObject.sop_class_uid == sop_class_uid
    )
    found = session.scalars(query).one_or_none()
    return None if found is None else _stored(found)


def add_variant(
    session: Session, object_id: int, sop_class_uid: str, sop_instance_uid: str, file: StoredFile, at: datetime
) -> StoredObject:
    """Add the variant of an evidence object in a SOP Class and return it; one that is there stays."""
    known = variant(session, object_id, sop_class_uid)
    if known is not None:
        return known
    original = session.get_one(EvidenceObject, object_id)
    row = EvidenceObject(
        version_id=original.version_id,
        variant_of_id=object_id,
        encoder=original.encoder,
        sop_class_uid=sop_class_uid,
        sop_instance_uid=sop_instance_uid,
        series_instance_uid=original.series_instance_uid,
        description=original.description,
        path=file.path,
        size_bytes=file.size_bytes,
        sha256=file.sha256,
        created_at=at,
    )
    session.add(row)
    session.flush()
    return _stored(row)


def choose(session: Session, chosen: Mapping[int, int]) -> None:
    """Fix which object each delivery sends, by delivery id: from now on no other one."""
    for delivery_id, object_id in chosen.items():
        session.execute(
            update(Delivery)
            .where(Delivery.id == delivery_id, Delivery.sent_object_id.is_(None))
            .values(sent_object_id=object_id)
        )


def settle(session: Session, what: Due, attempt: Attempt, at: datetime) -> bool:
    """Write what came of one attempt; `False` where another settled it meanwhile."""
    number = what.attempts + 1
    changed = changed_rows(
        session,
        update(Delivery)
        .where(Delivery.id == what.delivery_id, Delivery.state.in_(TO_SEND), Delivery.attempts == what.attempts)
        .values(
            state=attempt.state,
            attempts=number,
            next_at=attempt.next_at,
            dimse_status=attempt.dimse_status,
            http_status=attempt.http_status,
            error=attempt.error[:LONGEST_ERROR],
            settled_at=None if attempt.state.is_open else at,
        ),
    )
    if changed == 0:
        return False
    session.add(
        DeliveryAttempt(
            delivery_id=what.delivery_id,
            number=number,
            at=at,
            duration_ms=attempt.duration_ms,
            sop_instance_uid=attempt.sop_instance_uid,
            dimse_status=attempt.dimse_status,
            http_status=attempt.http_status,
            outcome=attempt.outcome,
            error=attempt.error[:LONGEST_ERROR],
        )
    )
    return True


def park(session: Session, name: str, error: str, until: datetime) -> None:
    """Let what is due for a destination wait, without an attempt."""
    session.execute(
        update(Delivery)
        .where(Delivery.destination == name, Delivery.state == DeliveryState.DUE)
        .values(state=DeliveryState.WAITING, error=error[:LONGEST_ERROR], next_at=until)
    )


def wake(session: Session, name: str, at: datetime) -> int:
    """Make all that waits for a destination due at once; return how many deliveries."""
    return changed_rows(
        session,
        update(Delivery)
        .where(Delivery.destination == name, Delivery.state == DeliveryState.WAITING)
        .values(state=DeliveryState.DUE, next_at=at),
    )


def give_up(session: Session, name: str, older_than: datetime, at: datetime, days: float) -> list[int]:
    """Move what has waited since before `older_than` to dead; return the versions that it belongs to."""
    query = (
        select(Delivery, EvidenceObject.version_id)
        .join(EvidenceObject, EvidenceObject.id == Delivery.evidence_object_id)
        .where(
            Delivery.destination == name,
            Delivery.state.in_((*TO_SEND, DeliveryState.UNCOMMITTED)),
            Delivery.created_at < older_than,
        )
        .limit(500)
    )
    versions = []
    for delivery, version_id in session.execute(query).all():
        delivery.state, delivery.settled_at = DeliveryState.DEAD, at
        delivery.error = f"given up after {days:g} days (delivery.give_up_after_days): {delivery.error}"[:LONGEST_ERROR]
        versions.append(version_id)
    session.flush()
    return sorted(set(versions))


def attempts_of(session: Session, delivery_id: int) -> list[DeliveryAttempt]:
    """Return the attempts of a delivery, the first first."""
    query = select(DeliveryAttempt).where(DeliveryAttempt.delivery_id == delivery_id).order_by(DeliveryAttempt.number)
    return list(session.scalars(query))


def destinations(session: Session) -> list[Destination]:
    """Return all destinations, by name."""
    return list(session.scalars(select(Destination).order_by(Destination.name)))


def uncommitted(session: Session, name: str, at: datetime, limit: int) -> list[tuple[Delivery, StoredObject]]:
    """Return what a destination has to be asked to commit to now."""
    query = (
        select(Delivery, EvidenceObject)
        .join(EvidenceObject, EvidenceObject.id == Delivery.sent_object_id)
        .where(Delivery.destination == name, Delivery.state == DeliveryState.UNCOMMITTED, Delivery.next_at <= at)
        .order_by(Delivery.next_at)
        .limit(limit)
    )
    return [(delivery, _stored(evidence)) for delivery, evidence in session.execute(query)]


def version_of(session: Session, object_id: int) -> int:
    """Return the version that an evidence object belongs to."""
    return session.get_one(EvidenceObject, object_id).version_id


def add_commitment(session: Session, transaction_uid: str, name: str, instances: int, at: datetime) -> None:
    """Add a request for storage commitment."""
    session.add(StorageCommitment(transaction_uid=transaction_uid, destination=name, asked_at=at, instances=instances))


def note_uncommitted(session: Session, transaction_uid: str, error: str) -> None:
    """Write why the destination was not (successfully) asked to commit under a transaction."""
    session.execute(
        update(Delivery)
        .where(Delivery.transaction_uid == transaction_uid, Delivery.state == DeliveryState.UNCOMMITTED)
        .values(error=error[:LONGEST_ERROR])
    )


def commitment(session: Session, transaction_uid: str) -> StorageCommitment | None:
    """Return a request for storage commitment, `None` where it is not ours."""
    return session.get(StorageCommitment, transaction_uid, populate_existing=True)


def uncommitted_instance(session: Session, name: str, sop_instance_uid: str) -> tuple[Delivery, int] | None:
    """Return the delivery of an object that a destination has not committed to, with its version's id."""
    query = (
        select(Delivery, EvidenceObject.version_id)
        .join(EvidenceObject, EvidenceObject.id == Delivery.sent_object_id)
        .where(
            Delivery.destination == name,
            Delivery.state == DeliveryState.UNCOMMITTED,
            EvidenceObject.sop_instance_uid == sop_instance_uid,
        )
        .with_for_update(of=Delivery)
    )
    found = session.execute(query).one_or_none()
    return None if found is None else (found[0], found[1])
