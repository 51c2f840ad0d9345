"""Files and rows side by side: which file of the spool has a row, which row should have a file."""

from datetime import datetime
from typing import Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicomnode.db.tables import AuditEvent, EvidenceObject, ExplanationRow, Quarantine, SOPInstance, StudyVersion

Kind = Literal["instance", "evidence"]
TABLES: dict[Kind, type[SOPInstance | EvidenceObject]] = {"instance": SOPInstance, "evidence": EvidenceObject}
FILES_MISSING = "files missing"


def paths_beside(session: Session, kind: Kind, sop_instance_uid: str) -> dict[str, bool]:
    """Return the files of the study (or of the version) that an object belongs to, and whether each was purged."""
    if kind == "instance":
        study = select(SOPInstance.study_id).where(SOPInstance.sop_instance_uid == sop_instance_uid)
        query = select(SOPInstance.path, SOPInstance.purged_at).where(SOPInstance.study_id.in_(study))
    else:
        version = select(EvidenceObject.version_id).where(EvidenceObject.sop_instance_uid == sop_instance_uid)
        query = select(EvidenceObject.path, EvidenceObject.purged_at).where(EvidenceObject.version_id.in_(version))
    return {path: purged_at is not None for path, purged_at in session.execute(query)}


def quarantined(session: Session, paths: list[str]) -> dict[str, bool]:
    """Return which of these files are quarantined objects, and whether each was purged."""
    query = select(Quarantine.path, Quarantine.purged_at).where(Quarantine.path.in_(paths))
    return {path: purged_at is not None for path, purged_at in session.execute(query)}


def maps(session: Session, paths: list[str]) -> set[str]:
    """Return which of these files are maps of an explanation."""
    return set(session.scalars(select(ExplanationRow.path).where(ExplanationRow.path.in_(paths))))


def held(session: Session, kind: Kind, after_id: int, before: datetime, limit: int) -> list[tuple[int, str, int]]:
    """Return (id, path, id of the newest version) of rows that should have a file since `before`, in order of id."""
    if kind == "instance":
        newest = (
            select(func.max(StudyVersion.id))
            .where(StudyVersion.study_id == SOPInstance.study_id)
            .correlate(SOPInstance)
            .scalar_subquery()
        )
        query = select(SOPInstance.id, SOPInstance.path, newest).where(SOPInstance.received_at <= before)
    else:
        query = select(EvidenceObject.id, EvidenceObject.path, EvidenceObject.version_id).where(
            EvidenceObject.created_at <= before
        )
    table = TABLES[kind]
    query = query.where(table.id > after_id, table.purged_at.is_(None)).order_by(table.id).limit(limit)
    return [(row[0], row[1], row[2]) for row in session.execute(query)]


def is_reported_missing(session: Session, version_id: int) -> bool:
    """Return whether there is an event already that says that files of a version are missing."""
    query = select(AuditEvent.id).where(AuditEvent.version_id == version_id, AuditEvent.action == FILES_MISSING)
    return session.scalars(query.limit(1)).first() is not None
