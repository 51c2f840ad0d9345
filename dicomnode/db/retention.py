"""What may go from the spool and what went: files leave, rows stay with `purged_at`."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, func, literal, select, update
from sqlalchemy.orm import Session

from dicomnode.db.studies import StoredFile
from dicomnode.db.tables import (
    Analysis,
    Delivery,
    EvidenceObject,
    ExplanationRow,
    Quarantine,
    SOPInstance,
    Study,
    StudyVersion,
)
from dicomnode.domain.lifecycle import DeliveryState, State

AT_REST = [state for state in State if state.is_final]
ON_THE_ROAD = [state for state in DeliveryState if state.is_open]


@dataclass(frozen=True, slots=True)
class Leaving:
    """Files that the caller removes once this transaction is committed, and the version they are told of."""

    version_id: int
    files: tuple[StoredFile, ...]

    @property
    def size_bytes(self) -> int:
        """How much space that frees."""
        return sum(file.size_bytes for file in self.files)


def purgeable_studies(session: Session, before: datetime, limit: int) -> list[int]:
    """Return studies with files that may go, the first received first: delivered and at rest since `before`."""
    query = (
        select(Study.id)
        .where(Study.purged_at.is_(None), Study.first_received_at <= before, *_is_done(before))
        .order_by(Study.first_received_at)
        .limit(limit)
    )
    return list(session.scalars(query))


def _is_done(before: datetime) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """No version that somebody waits for or that moved since `before`, and no delivery on its way.

    A dead delivery keeps its version in FAILED, which is not at rest; of a replaced version it does not matter.
    """
    at_work = select(literal(1)).where(
        StudyVersion.study_id == Study.id,
        StudyVersion.state.not_in(AT_REST) | (StudyVersion.state_changed_at > before),
    )
    on_its_way = (
        select(literal(1))
        .select_from(Delivery)
        .join(EvidenceObject, EvidenceObject.id == Delivery.evidence_object_id)
        .join(StudyVersion, StudyVersion.id == EvidenceObject.version_id)
        .where(StudyVersion.study_id == Study.id, Delivery.state.in_(ON_THE_ROAD))
    )
    return ~at_work.correlate(Study).exists(), ~on_its_way.correlate(Study).exists()


def purge_study(session: Session, study_id: int, before: datetime, at: datetime) -> Leaving | None:
    """Mark all received files of a study as purged; `None` where something happened to it since it was found."""
    if not _may_go(session, study_id, before):
        return None
    held = (SOPInstance.study_id == study_id, SOPInstance.purged_at.is_(None))
    rows = session.execute(select(SOPInstance.path, SOPInstance.size_bytes, SOPInstance.sha256).where(*held)).all()
    session.execute(update(SOPInstance).where(*held).values(purged_at=at))
    session.execute(update(Study).where(Study.id == study_id).values(purged_at=at))
    return Leaving(_newest_version(session, study_id), tuple(StoredFile(*row) for row in rows))


def _may_go(session: Session, study_id: int, before: datetime) -> bool:
    """Lock the study against new versions and other decisions, then look again."""
    session.execute(select(Study.id).where(Study.id == study_id).with_for_update(key_share=True))
    return session.scalar(select(Study.id).where(Study.id == study_id, *_is_done(before))) is not None


def _newest_version(session: Session, study_id: int) -> int:
    query = select(func.max(StudyVersion.id)).where(StudyVersion.study_id == study_id)
    return session.execute(query).scalar_one()


def studies_with_old_evidence(session: Session, before: datetime, limit: int) -> list[int]:
    """Return studies with results that were made before a moment, are in the spool and may go."""
    query = (
        select(Study.id)
        .join(StudyVersion, StudyVersion.study_id == Study.id)
        .join(EvidenceObject, EvidenceObject.version_id == StudyVersion.id)
        .where(EvidenceObject.purged_at.is_(None), EvidenceObject.created_at <= before, *_is_done(before))
        .distinct()
        .limit(limit)
    )
    return list(session.scalars(query))


def purge_evidence(session: Session, study_id: int, before: datetime, at: datetime) -> Leaving | None:
    """Mark the results of a study as purged that were made before a moment; `None` where that may not be (any more)."""
    if not _may_go(session, study_id, before):
        return None
    versions = select(StudyVersion.id).where(StudyVersion.study_id == study_id)
    held = (
        EvidenceObject.version_id.in_(versions),
        EvidenceObject.created_at <= before,
        EvidenceObject.purged_at.is_(None),
    )
    columns = (EvidenceObject.path, EvidenceObject.size_bytes, EvidenceObject.sha256)
    rows = session.execute(select(*columns).where(*held)).all()
    session.execute(update(EvidenceObject).where(*held).values(purged_at=at))
    files = (*(StoredFile(*row) for row in rows), *_purge_explanations(session, study_id, before, at))
    return Leaving(_newest_version(session, study_id), files)


def _purge_explanations(session: Session, study_id: int, before: datetime, at: datetime) -> list[StoredFile]:
    """Take the maps of a study's findings out of their rows, which say why, and return the files."""
    analyses = (
        select(Analysis.id)
        .join(StudyVersion, StudyVersion.id == Analysis.version_id)
        .where(StudyVersion.study_id == study_id, Analysis.finished_at <= before)
    )
    held = (ExplanationRow.analysis_id.in_(analyses), ExplanationRow.path != "")
    columns = (ExplanationRow.path, ExplanationRow.size_bytes, ExplanationRow.sha256)
    rows = session.execute(select(*columns).where(*held)).all()
    gone = f"removed by [retention] on {at:%Y-%m-%d}"
    session.execute(update(ExplanationRow).where(*held).values(path="", reason=gone))
    return [StoredFile(*row) for row in rows]


def purge_quarantine(session: Session, before: datetime, at: datetime, limit: int) -> list[str]:
    """Mark quarantined objects as purged that were received before a moment; return their files."""
    query = (
        select(Quarantine.id, Quarantine.path)
        .where(Quarantine.received_at <= before, Quarantine.purged_at.is_(None))
        .limit(limit)
    )
    rows = session.execute(query).all()
    session.execute(update(Quarantine).where(Quarantine.id.in_([row.id for row in rows])).values(purged_at=at))
    return [row.path for row in rows]
