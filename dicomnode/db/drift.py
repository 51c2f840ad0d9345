"""References of bundles, windows of scores by source, and drift measurements, as rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from dicomnode.db.tables import Analysis, BundleReference, Drift, PredictionRow, StudyVersion
from dicomnode.domain.drift import Measurement, Reference
from dicomnode.domain.lifecycle import State

RECENT, DAY = "recent", "day"
ANOMALY = "anomaly"


@dataclass(frozen=True, slots=True)
class Stream:
    """What one source sends through one bundle."""

    source_ae_title: str
    bundle_name: str
    bundle_version: str
    bundle_kind: str
    bundle_digest: str


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of images, the newest first, how many lie beyond the threshold, and when the analyses ended."""

    values: tuple[float, ...]
    flagged: int
    start: datetime
    end: datetime


def remember_references(session: Session, references: Sequence[Reference]) -> int:
    """Add the references of a bundle that are not known yet and return how many; the digest makes them immutable."""
    known = {(row.bundle_digest, row.label) for row in session.scalars(select(BundleReference))}
    new = [reference for reference in references if (reference.bundle_digest, reference.label) not in known]
    session.add_all(
        BundleReference(
            bundle_digest=reference.bundle_digest,
            label=reference.label,
            quantiles=None if reference.quantiles is None else list(reference.quantiles),
            flag_rate=reference.flag_rate,
        )
        for reference in new
    )
    session.flush()
    return len(new)


def references_of(session: Session, bundle_digest: str) -> list[Reference]:
    """Return the references of all outputs of a bundle."""
    query = select(BundleReference).where(BundleReference.bundle_digest == bundle_digest).order_by(BundleReference.id)
    return [
        Reference(row.bundle_digest, row.label, None if row.quantiles is None else tuple(row.quantiles), row.flag_rate)
        for row in session.scalars(query)
    ]


def streams(session: Session, since: datetime) -> list[Stream]:
    """Return sources with the bundles that assessed something of theirs since `since`."""
    columns = (
        StudyVersion.source_ae_title,
        Analysis.bundle_name,
        Analysis.bundle_version,
        Analysis.bundle_kind,
        Analysis.bundle_digest,
    )
    query = (
        select(*columns)
        .join(StudyVersion, StudyVersion.id == Analysis.version_id)
        .where(Analysis.finished_at >= since, Analysis.not_applicable == "", Analysis.is_shadow.is_(False))
        .distinct()
        .order_by(*columns)
    )
    return [Stream(*row) for row in session.execute(query)]


def recent_scores(session: Session, stream: Stream, label: str, since: datetime, limit: int) -> Scores | None:
    """Return the last `limit` scores since `since`, None where there is none.

    A study of several versions counts once: its images are in each of them.
    """
    analyses = _analyses(stream).where(Analysis.finished_at >= since).order_by(Analysis.id.desc()).limit(limit)
    return _scores(session, stream, label, analyses, limit)


def day_scores(session: Session, stream: Stream, label: str, start: datetime, end: datetime) -> Scores | None:
    """Return the scores of the analyses that ended in [start, end), None where there is none."""
    return _scores(
        session, stream, label, _analyses(stream).where(Analysis.finished_at >= start, Analysis.finished_at < end), None
    )


def _analyses(stream: Stream) -> Select[int]:
    return (
        select(Analysis.id)
        .join(StudyVersion, StudyVersion.id == Analysis.version_id)
        .where(
            StudyVersion.source_ae_title == stream.source_ae_title,
            StudyVersion.state != State.SUPERSEDED,
            Analysis.bundle_digest == stream.bundle_digest,
            Analysis.is_shadow.is_(False),
        )
    )


def _scores(session: Session, stream: Stream, label: str, analyses: Select[int], limit: int | None) -> Scores | None:
    query = (
        select(PredictionRow.value, PredictionRow.threshold, Analysis.finished_at)
        .join(Analysis, Analysis.id == PredictionRow.analysis_id)
        .where(PredictionRow.label == label, PredictionRow.analysis_id.in_(analyses.scalar_subquery()))
        .order_by(PredictionRow.id.desc())
        .limit(limit)
    )
    rows = session.execute(query).all()
    if not rows:
        return None
    is_score = stream.bundle_kind == ANOMALY
    flagged = sum(row.value > row.threshold if is_score else row.value >= row.threshold for row in rows)
    moments = [row.finished_at for row in rows]
    return Scores(tuple(row.value for row in rows), flagged, min(moments), max(moments))


def last_measured_at(session: Session) -> datetime | None:
    """Return when drift was measured last."""
    return session.scalar(select(Drift.at).order_by(Drift.at.desc()).limit(1))


def lock(session: Session) -> None:
    """Let one process at a time write measurements."""
    session.execute(select(BundleReference.id).order_by(BundleReference.id).limit(1).with_for_update())


def has_day(session: Session, stream: Stream, label: str, end: datetime) -> bool:
    """Return whether the day that ended at `end` is measured already."""
    return session.scalar(_rows(stream, label, DAY).where(Drift.window_end == end).limit(1)) is not None


def last_recent(session: Session, stream: Stream, label: str) -> Drift | None:
    """Return the newest measurement of recent images."""
    return session.scalar(_rows(stream, label, RECENT).order_by(Drift.id.desc()).limit(1))


def _rows(stream: Stream, label: str, period: str) -> Select[Drift]:
    return select(Drift).where(
        Drift.source_ae_title == stream.source_ae_title,
        Drift.bundle_digest == stream.bundle_digest,
        Drift.label == label,
        Drift.period == period,
    )


def add_measurement(
    session: Session,
    stream: Stream,
    label: str,
    period: str,
    window: tuple[datetime, datetime],
    found: Measurement,
    at: datetime,
) -> None:
    """Add the measurement of a window (start, end)."""
    session.add(
        Drift(
            at=at,
            source_ae_title=stream.source_ae_title,
            bundle_name=stream.bundle_name,
            bundle_version=stream.bundle_version,
            bundle_digest=stream.bundle_digest,
            label=label,
            period=period,
            window_start=window[0],
            window_end=window[1],
            n=found.n,
            psi=found.psi,
            flag_rate=found.flag_rate,
            lower=found.lower,
            upper=found.upper,
            state=found.state,
        )
    )
    session.flush()


def newest(session: Session, since: datetime) -> list[Drift]:
    """Return the newest recent window of each source, bundle and label that was measured since `since`."""
    ids = (
        select(func.max(Drift.id))
        .where(Drift.period == RECENT, Drift.at >= since)
        .group_by(Drift.source_ae_title, Drift.bundle_digest, Drift.label)
    )
    query = select(Drift).where(Drift.id.in_(ids.scalar_subquery()))
    return list(session.scalars(query.order_by(Drift.source_ae_title, Drift.bundle_name, Drift.label, Drift.id)))


def days(session: Session, since: datetime) -> list[Drift]:
    """Return the windows of whole days that ended since `since`, the newest first: points of the control chart."""
    query = select(Drift).where(Drift.period == DAY, Drift.window_end >= since)
    return list(session.scalars(query.order_by(Drift.window_end.desc(), Drift.source_ae_title, Drift.id)))
