"""What decides whether an arriving instance is taken, and under which name."""

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicomnode.db.tables import SOPInstance, Study, StudyVersion
from dicomnode.domain.lifecycle import State
from dicomnode.domain.study import InstanceHeader


def queued_count(session: Session, limit: int) -> int:
    """Return how many versions are queued, at most `limit`."""
    queued = select(StudyVersion.id).where(StudyVersion.state == State.QUEUED).limit(limit).subquery()
    return session.execute(select(func.count()).select_from(queued)).scalar_one()


def is_known_study(session: Session, study_instance_uid: str) -> bool:
    """Return whether an instance of this study was received before."""
    return session.scalar(select(Study.id).where(Study.study_instance_uid == study_instance_uid)) is not None


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of an arriving instance: whether its very bytes are here, how many revisions retention removed."""

    is_known: bool
    purges: int


def seen(session: Session, header: InstanceHeader, sha256: str) -> Seen:
    """Return what the rows know of an instance with these bytes."""
    query = (
        select(SOPInstance.sha256, SOPInstance.is_current, SOPInstance.purged_at)
        .join(Study, Study.id == SOPInstance.study_id)
        .where(
            Study.study_instance_uid == header.study_instance_uid,
            SOPInstance.sop_instance_uid == header.sop_instance_uid,
        )
    )
    revisions = session.execute(query).all()
    return Seen(
        is_known=any(r.is_current and r.sha256 == sha256 and r.purged_at is None for r in revisions),
        purges=sum(r.purged_at is not None for r in revisions),
    )
