"""What the node holds of a study while it still arrives: asked before a version is closed early, and by senders."""

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicomnode.db.tables import SOPInstance, Study, StudyVersion
from dicomnode.domain.lifecycle import State


def receiving_from(
    session: Session, ae_titles: list[str], before: datetime, limit: int
) -> list[tuple[StudyVersion, Study]]:
    """Return receiving versions from these sources without an instance since `before`, the newest first."""
    query = (
        select(StudyVersion, Study)
        .join(Study, Study.id == StudyVersion.study_id)
        .where(
            StudyVersion.state == State.RECEIVING,
            StudyVersion.source_ae_title.in_(ae_titles),
            StudyVersion.last_instance_at <= before,
        )
        .order_by(StudyVersion.last_instance_at.desc())
        .limit(limit)
    )
    return [(version, study) for version, study in session.execute(query)]


def current_instances(session: Session, sop_instance_uids: list[str]) -> dict[str, list[SOPInstance]]:
    """Return the current revisions by SOP Instance UID (several rows where it stands in several studies)."""
    found: dict[str, list[SOPInstance]] = {}
    for start in range(0, len(sop_instance_uids), 500):
        part = sop_instance_uids[start : start + 500]
        query = select(SOPInstance).where(SOPInstance.sop_instance_uid.in_(part), SOPInstance.is_current)
        for row in session.scalars(query):
            found.setdefault(row.sop_instance_uid, []).append(row)
    return found


def current_uids(session: Session, study_id: int) -> set[str]:
    """Return the SOP Instance UIDs that a study has now."""
    query = select(SOPInstance.sop_instance_uid).where(SOPInstance.study_id == study_id, SOPInstance.is_current)
    return set(session.scalars(query))


def receiving_version(session: Session, study_id: int) -> int | None:
    """Return the id of the version that is open for a study."""
    query = select(StudyVersion.id).where(StudyVersion.study_id == study_id, StudyVersion.state == State.RECEIVING)
    return session.scalar(query)
