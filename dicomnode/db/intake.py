"""What decides whether an arriving instance is taken, and under which name."""

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


def purges(session: Session, header: InstanceHeader) -> int:
    """Return how many revisions of an instance retention has purged: the next file must not get the name of one."""
    query = (
        select(func.count())
        .select_from(SOPInstance)
        .join(Study, Study.id == SOPInstance.study_id)
        .where(
            Study.study_instance_uid == header.study_instance_uid,
            SOPInstance.sop_instance_uid == header.sop_instance_uid,
            SOPInstance.purged_at.is_not(None),
        )
    )
    return session.execute(query).scalar_one()
