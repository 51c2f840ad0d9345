"""Explanations and codes of images as rows, beside the analyses that they belong to."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicomnode.db.studies import StoredFile
from dicomnode.db.tables import Analysis, ExplanationRow, ImageCodeRow, Study, StudyVersion

CHUNK = 200


@dataclass(frozen=True, slots=True)
class KeptExplanation:
    """A map in the spool, or the reason why there is none (then `file` is None)."""

    bundle_name: str
    label: str
    sop_instance_uid: str
    method: str
    file: StoredFile | None = None
    rows: int = 0
    columns: int = 0
    maximum: float = 0.0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class StudyCode:
    """A code of an image of a study; `weights_digest` says with which others it can be compared."""

    bundle_name: str
    weights_digest: str
    sop_instance_uid: str
    code: bytes


@dataclass(frozen=True, slots=True)
class SimilarImage:
    """An image of another study, and where that one came from and when."""

    study_instance_uid: str
    version_id: int
    sop_instance_uid: str
    source_ae_title: str
    priority: str | None
    received_at: datetime


def add_explanations(session: Session, version_id: int, kept: Iterable[KeptExplanation]) -> None:
    """Add the explanations of a version to its analyses; `remove_results` removes them with those."""
    analyses = _by_bundle(session, version_id)
    session.add_all(
        ExplanationRow(
            analysis_id=analyses[one.bundle_name].id,
            sop_instance_uid=one.sop_instance_uid,
            label=one.label,
            method=one.method,
            path="" if one.file is None else one.file.path,
            sha256="" if one.file is None else one.file.sha256,
            size_bytes=0 if one.file is None else one.file.size_bytes,
            rows=one.rows,
            columns=one.columns,
            maximum=one.maximum,
            reason=one.reason,
        )
        for one in kept
    )
    session.flush()


def explanations_of(session: Session, version_id: int) -> list[tuple[ExplanationRow, str]]:
    """Return the explanations of a version, each with the name of its bundle."""
    query = (
        select(ExplanationRow, Analysis.bundle_name)
        .join(Analysis, Analysis.id == ExplanationRow.analysis_id)
        .where(Analysis.version_id == version_id)
        .order_by(ExplanationRow.id)
    )
    return [(row, name) for row, name in session.execute(query)]


def add_codes(session: Session, version_id: int, codes: Iterable[tuple[str, str, bytes]]) -> None:
    """Add codes (bundle name, SOP Instance UID, float32 bytes) to the analyses of a version."""
    analyses = _by_bundle(session, version_id)
    session.add_all(
        ImageCodeRow(
            analysis_id=analyses[name].id,
            sop_instance_uid=uid,
            weights_digest=analyses[name].weights_digest,
            code=code,
        )
        for name, uid, code in codes
    )
    session.flush()


def _by_bundle(session: Session, version_id: int) -> dict[str, Analysis]:
    return {row.bundle_name: row for row in session.scalars(select(Analysis).where(Analysis.version_id == version_id))}


def codes_of(session: Session, version_id: int) -> list[StudyCode]:
    """Return the codes of the images of a version."""
    query = (
        select(Analysis.bundle_name, ImageCodeRow.weights_digest, ImageCodeRow.sop_instance_uid, ImageCodeRow.code)
        .join(Analysis, Analysis.id == ImageCodeRow.analysis_id)
        .where(Analysis.version_id == version_id)
        .order_by(ImageCodeRow.id)
    )
    return [StudyCode(*row) for row in session.execute(query)]


def all_codes(session: Session, weights_digest: str) -> tuple[list[int], list[bytes]]:
    """Return row ids and codes of all images that these very weights gave a code."""
    query = select(ImageCodeRow.id, ImageCodeRow.code).where(ImageCodeRow.weights_digest == weights_digest)
    rows = session.execute(query).all()
    return [row[0] for row in rows], [row[1] for row in rows]


def earlier_images(session: Session, row_ids: Sequence[int], version_id: int) -> dict[int, SimilarImage]:
    """Return what `row_ids` are images of, for those of other studies that were received before that of the version."""
    study = select(Study).join(StudyVersion, StudyVersion.study_id == Study.id).where(StudyVersion.id == version_id)
    own = session.scalars(study).one()
    query = (
        select(
            ImageCodeRow.id,
            Study.study_instance_uid,
            StudyVersion.id,
            ImageCodeRow.sop_instance_uid,
            StudyVersion.source_ae_title,
            StudyVersion.priority,
            Study.first_received_at,
        )
        .join(Analysis, Analysis.id == ImageCodeRow.analysis_id)
        .join(StudyVersion, StudyVersion.id == Analysis.version_id)
        .join(Study, Study.id == StudyVersion.study_id)
        .where(ImageCodeRow.id.in_(row_ids), Study.id != own.id, Study.first_received_at <= own.first_received_at)
    )
    return {row[0]: SimilarImage(*row[1:]) for row in session.execute(query)}
