"""Operate: what an administrator does by hand while the node runs; every act is rows, with an audit row.

No function talks to a process: a retry is queued, a resend is found by the next sweep, a pause is read by each step.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from dicomnode.db import audit, deadletters, pauses, studies
from dicomnode.db import operate as rows
from dicomnode.db.session import Database, now
from dicomnode.db.tables import Delivery, EvidenceObject
from dicomnode.domain.lifecycle import DeliveryState, Event, Stage, State
from dicomnode.engine import Queue
from dicomnode.errors import LifecycleError
from dicomnode.flow import close
from dicomnode.log import get_logger

log = get_logger(__name__)
BY_HAND = "asked for by an operator"


@dataclass(frozen=True, slots=True)
class Done:
    """Whether an act was done, and in words what happened or why not."""

    is_done: bool
    said: str


def retry(database: Database, queue: Queue, version_id: int, actor: str) -> Done:
    """Let a failed version go on: what failed in delivery is delivered again, everything else is analyzed again."""
    with database.write() as session:
        version = studies.version(session, version_id)
        if version.state != State.FAILED:
            return Done(False, f"is {version.state}, only FAILED can be retried")
        moment = now(session)
        dead = _deliveries(session, version_id, DeliveryState.DEAD)
        if dead:
            return _send_again(session, version_id, dead, moment, actor)
        retried = rows.retry(session, version_id, moment, BY_HAND, actor=actor)
        if retried is None:
            return Done(False, "is not FAILED any more")
        queue.add_study(session, retried.uid, retried.id, retried.run)
    return Done(True, f"queued for analysis, run {retried.run}")


def close_now(database: Database, queue: Queue, version_id: int, actor: str) -> Done:
    """Close a version that is receiving, without waiting for its quiet period."""
    if close.force_close(database, queue, version_id, actor):
        return Done(True, "closed and queued")
    with database.read() as session:
        version = studies.version(session, version_id)
    if version.state != State.RECEIVING:
        return Done(False, f"is {version.state}, only RECEIVING can be closed")
    return Done(False, "an older version of the study is being analyzed; try again when that has ended")


def reanalyze(database: Database, queue: Queue, study_instance_uid: str, actor: str) -> Done:
    """Make a new version of a study with all its instances; its report will name the one before."""
    try:
        with database.write() as session:
            return _reanalyze(session, queue, study_instance_uid, actor)
    except IntegrityError:
        return Done(False, "an image arrived at this moment: a new version is open already")
    except LifecycleError as exc:
        return Done(False, str(exc))


def _reanalyze(session: Session, queue: Queue, study_instance_uid: str, actor: str) -> Done:
    newest, study = studies.versions_of(session, study_instance_uid)[0]
    if newest.state == State.RECEIVING:
        return Done(False, f"version {newest.number} is still receiving; `dicomnode study close` closes it")
    if newest.state in (State.ANALYZING, State.REPORTING, State.QUEUED):
        return Done(False, f"version {newest.number} is {newest.state}: it is analyzed anyway")
    if study.purged_at is not None:
        return Done(False, f"its images were removed by [retention] on {study.purged_at:%Y-%m-%d}")
    moment = now(session)
    opened = studies.begin_version(session, study.id, study_instance_uid, newest.source_ae_title, moment, actor=actor)
    if not studies.close(session, opened, moment, f"analysis again, {BY_HAND}", actor=actor):
        raise LifecycleError("an older version is being analyzed at this moment; try again when that has ended")
    close.enqueue(session, queue, opened)
    return Done(True, f"version {opened.number} with {opened.instance_count} images is queued")


def resend(database: Database, delivery_id: int, actor: str) -> Done:
    """Deliver an object again: the same bytes to the same destination, whatever became of it before."""
    with database.write() as session:
        delivery = session.get(Delivery, delivery_id)
        if delivery is None:
            return Done(False, "there is no such delivery")
        evidence = session.get_one(EvidenceObject, delivery.evidence_object_id)
        studies.lock(session, evidence.version_id)
        session.refresh(evidence)  # retention decides under the same lock
        if evidence.purged_at is not None:
            return Done(False, f"the object was removed by [retention] on {evidence.purged_at:%Y-%m-%d}")
        return _send_again(session, evidence.version_id, [delivery], now(session), actor)


def _send_again(session: Session, version_id: int, deliveries: list[Delivery], moment: datetime, actor: str) -> Done:
    studies.lock(session, version_id)
    count = rows.send_again(session, [delivery.id for delivery in deliveries], moment)
    if count == 0:
        return Done(False, "is on its way already")
    destinations = sorted({delivery.destination for delivery in deliveries})
    audit.record(
        session,
        "delivery again",
        at=moment,
        actor=actor,
        version_id=version_id,
        deliveries=[str(delivery.id) for delivery in deliveries],
        destinations=destinations,
    )
    studies.advance(session, version_id, Event.RESENT, moment, BY_HAND, actor=actor)
    return Done(True, f"{count} of {len(deliveries)} objects go to {', '.join(destinations)} again")


def send_now(database: Database, actor: str, *, destination: str = "") -> int:
    """Let waiting deliveries (to one destination) start at once instead of after their back-off; return how many."""
    with database.write() as session:
        moment = now(session)
        count = rows.end_back_off(session, moment, destination)
        audit.record(session, "back-off ended", at=moment, actor=actor, destination=destination, deliveries=count)
    return count


def pause(database: Database, stage: Stage, destination: str, actor: str, reason: str) -> bool:
    """Let nothing new start in a stage; `False` where it is paused already."""
    with database.write() as session:
        return pauses.add(session, stage, destination, at=now(session), actor=actor, reason=reason)


def resume(database: Database, stage: Stage, destination: str, actor: str) -> bool:
    """End a pause; `False` where there was none."""
    with database.write() as session:
        return pauses.remove(session, stage, destination, at=now(session), actor=actor)


def _deliveries(session: Session, version_id: int, state: DeliveryState) -> list[Delivery]:
    return [d for d, _, _ in deadletters.deliveries(session, version_id=version_id, state=state, limit=10_000)]
