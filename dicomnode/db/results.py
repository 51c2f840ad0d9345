"""Analyses, findings, evidence objects and their deliveries as rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from dicomnode.db.studies import StoredFile
from dicomnode.db.tables import (
    Analysis,
    Delivery,
    EvidenceObject,
    ExplanationRow,
    FindingRow,
    ImageCodeRow,
    PredictionRow,
    StudyVersion,
)
from dicomnode.domain.codes import ABNORMAL
from dicomnode.domain.findings import (
    AnomalyFinding,
    BundleIdentity,
    BundleResult,
    Code,
    Finding,
    Prediction,
    Priority,
    WhenUnusual,
)
from dicomnode.domain.lifecycle import DeliveryState

CLASS, ANOMALY, WITHHELD = "class", "anomaly", "withheld"
SHADOW_POSITION = 1000  # after every active bundle
UNFINISHED = "the shadow analysis did not finish"


@dataclass(frozen=True, slots=True)
class Evidence:
    """An encoded result in the spool."""

    encoder: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    description: str
    file: StoredFile


def add_results(
    session: Session,
    version_id: int,
    results: tuple[BundleResult, ...],
    priority: Priority | None,
    at: datetime,
    seconds: float,
    backends: Mapping[str, str] | None = None,
) -> None:
    """Add the results of a version; those of an earlier attempt are replaced.

    `backends` says by bundle what ran its network.
    """
    remove_results(session, version_id)
    for position, result in enumerate(results):
        analysis = _add_result(session, version_id, position, result, at, seconds)
        analysis.backend = (backends or {}).get(result.bundle.name, "")
    session.execute(update(StudyVersion).where(StudyVersion.id == version_id).values(priority=priority))


def remove_results(session: Session, version_id: int) -> None:
    """Remove the analyses of a version with what they hold."""
    for analysis in session.scalars(select(Analysis).where(Analysis.version_id == version_id)).all():
        _remove(session, analysis)


def _remove(session: Session, analysis: Analysis) -> None:
    for table in (PredictionRow, FindingRow, ExplanationRow, ImageCodeRow):
        for row in session.scalars(select(table).where(table.analysis_id == analysis.id)).all():
            session.delete(row)
    session.flush()
    session.delete(analysis)
    session.flush()


def begin_shadow(session: Session, version_id: int, bundle: BundleIdentity, at: datetime) -> bool:
    """Write that a shadow bundle starts on a version; `False` where it did so before, whatever came of it."""
    query = select(Analysis.id).where(Analysis.version_id == version_id, Analysis.bundle_name == bundle.name)
    if session.scalars(query).first() is not None:
        return False
    unfinished = BundleResult(bundle, not_applicable=UNFINISHED)
    _add_result(session, version_id, SHADOW_POSITION, unfinished, at, 0.0).is_shadow = True
    return True


def finish_shadow(
    session: Session, version_id: int, result: BundleResult, at: datetime, seconds: float, backend: str
) -> bool:
    """Write the result of a shadow bundle that began; `False` where its beginning is gone: the version runs anew."""
    query = select(Analysis).where(
        Analysis.version_id == version_id, Analysis.bundle_name == result.bundle.name, Analysis.is_shadow
    )
    begun = session.scalars(query).one_or_none()
    if begun is None:
        return False
    _remove(session, begun)
    analysis = _add_result(session, version_id, SHADOW_POSITION, result, at, seconds)
    analysis.is_shadow, analysis.backend = True, backend
    return True


def _add_result(
    session: Session, version_id: int, position: int, result: BundleResult, at: datetime, seconds: float
) -> Analysis:
    bundle = result.bundle
    analysis = Analysis(
        version_id=version_id,
        position=position,
        bundle_name=bundle.name,
        bundle_version=bundle.version,
        bundle_kind=bundle.kind,
        bundle_title=bundle.title,
        bundle_digest=bundle.digest,
        weights_digest=bundle.weights_digest,
        parameters=list(bundle.parameters),
        assessed=list(result.assessed),
        not_applicable=result.not_applicable,
        finished_at=at,
        seconds=seconds,
        when_unusual=result.when_unusual,
    )
    session.add(analysis)
    session.flush()
    session.add_all(
        PredictionRow(
            analysis_id=analysis.id,
            sop_instance_uid=p.sop_instance_uid,
            label=p.label,
            value=p.value,
            threshold=p.threshold,
        )
        for p in result.predictions
    )
    session.add_all(_finding_row(analysis.id, CLASS, finding) for finding in result.findings)
    session.add_all(_finding_row(analysis.id, WITHHELD, finding) for finding in result.withheld)
    if result.anomaly is not None:
        session.add(_anomaly_row(analysis.id, result.anomaly))
    session.flush()
    return analysis


def _finding_row(analysis_id: int, kind: str, finding: Finding) -> FindingRow:
    return FindingRow(
        analysis_id=analysis_id,
        kind=kind,
        label=finding.label,
        value=finding.probability,
        threshold=finding.threshold,
        is_positive=kind == CLASS and finding.is_suspected,
        priority=finding.priority,
        code=_code_json(finding.code),
        site=_code_json(finding.site) if finding.site else None,
        sop_instance_uid=finding.sop_instance_uid,
        is_from_unusual=finding.is_from_unusual,
    )


def _anomaly_row(analysis_id: int, anomaly: AnomalyFinding) -> FindingRow:
    return FindingRow(
        analysis_id=analysis_id,
        kind=ANOMALY,
        label=anomaly.label,
        value=anomaly.score,
        threshold=anomaly.threshold,
        percentile=anomaly.percentile,
        is_positive=anomaly.is_unusual,
        priority=Priority.ROUTINE,
        code=_code_json(ABNORMAL),
        site=None,
        sop_instance_uid=anomaly.sop_instance_uid,
    )


def _code_json(code: Code) -> dict[str, str]:
    return {"value": code.value, "scheme": code.scheme, "meaning": code.meaning}


def results_of(session: Session, version_id: int) -> tuple[BundleResult, ...]:
    """Return the results of a version, equal to what was added; shadow bundles are not among them."""
    query = (
        select(Analysis)
        .where(Analysis.version_id == version_id, Analysis.is_shadow.is_(False))
        .order_by(Analysis.position)
    )
    return tuple(_result(session, analysis) for analysis in session.scalars(query))


def _result(session: Session, analysis: Analysis) -> BundleResult:
    predictions = session.scalars(
        select(PredictionRow).where(PredictionRow.analysis_id == analysis.id).order_by(PredictionRow.id)
    )
    rows = session.scalars(
        select(FindingRow).where(FindingRow.analysis_id == analysis.id).order_by(FindingRow.id)
    ).all()
    anomalies = [
        AnomalyFinding(r.label, r.value, r.threshold, r.percentile or 0.0, r.sop_instance_uid)
        for r in rows
        if r.kind == ANOMALY
    ]
    return BundleResult(
        bundle=BundleIdentity(
            name=analysis.bundle_name,
            version=analysis.bundle_version,
            kind=analysis.bundle_kind,
            title=analysis.bundle_title,
            digest=analysis.bundle_digest,
            weights_digest=analysis.weights_digest,
            parameters=tuple(analysis.parameters),
        ),
        predictions=tuple(Prediction(p.sop_instance_uid, p.label, p.value, p.threshold) for p in predictions),
        findings=tuple(_finding(r) for r in rows if r.kind == CLASS),
        anomaly=anomalies[0] if anomalies else None,
        assessed=tuple(analysis.assessed),
        not_applicable=analysis.not_applicable,
        withheld=tuple(_finding(r) for r in rows if r.kind == WITHHELD),
        when_unusual=WhenUnusual(analysis.when_unusual),
    )


def _finding(row: FindingRow) -> Finding:
    return Finding(
        label=row.label,
        code=Code(**row.code),
        site=Code(**row.site) if row.site else None,
        probability=row.value,
        threshold=row.threshold,
        priority=Priority(row.priority),
        sop_instance_uid=row.sop_instance_uid,
        is_from_unusual=row.is_from_unusual,
    )


def add_evidence(
    session: Session, version_id: int, evidence: Evidence, destinations: list[str], at: datetime
) -> list[Delivery]:
    """Add an evidence object with one due delivery a destination; what is there from an earlier attempt stays.

    Returns the deliveries that are due now: those that are new, and those that were dead.
    """
    row = session.scalars(
        select(EvidenceObject).where(EvidenceObject.sop_instance_uid == evidence.sop_instance_uid)
    ).one_or_none()
    if row is None:
        row = EvidenceObject(
            version_id=version_id,
            encoder=evidence.encoder,
            sop_class_uid=evidence.sop_class_uid,
            sop_instance_uid=evidence.sop_instance_uid,
            series_instance_uid=evidence.series_instance_uid,
            description=evidence.description,
            path=evidence.file.path,
            size_bytes=evidence.file.size_bytes,
            sha256=evidence.file.sha256,
            created_at=at,
        )
        session.add(row)
        session.flush()
    known = {d.destination: d for d in session.scalars(select(Delivery).where(Delivery.evidence_object_id == row.id))}
    dead = [d for d in known.values() if d.destination in destinations and d.state == DeliveryState.DEAD]
    for delivery in dead:
        delivery.state, delivery.created_at = DeliveryState.DUE, at
        delivery.next_at, delivery.settled_at = at, None
    new = [
        Delivery(
            evidence_object_id=row.id,
            destination=destination,
            state=DeliveryState.DUE,
            attempts=0,
            created_at=at,
            next_at=at,
        )
        for destination in destinations
        if destination not in known
    ]
    session.add_all(new)
    session.flush()
    return [*new, *dead]


def predecessor(session: Session, study_id: int, number: int, encoder: str) -> EvidenceObject | None:
    """Return the object that `encoder` made for the newest earlier version of the study that has one."""
    query = (
        select(EvidenceObject)
        .join(StudyVersion, StudyVersion.id == EvidenceObject.version_id)
        .where(StudyVersion.study_id == study_id, StudyVersion.number < number, EvidenceObject.encoder == encoder)
        .where(EvidenceObject.variant_of_id.is_(None))
        .order_by(StudyVersion.number.desc(), EvidenceObject.id.desc())
        .limit(1)
    )
    return session.scalars(query).one_or_none()


def deliveries_of(session: Session, version_id: int) -> list[tuple[Delivery, EvidenceObject]]:
    """Return the deliveries of a version with what they deliver: the object chosen for the peer, once one was."""
    query = (
        select(Delivery, EvidenceObject)
        .join(EvidenceObject, EvidenceObject.id == func.coalesce(Delivery.sent_object_id, Delivery.evidence_object_id))
        .where(EvidenceObject.version_id == version_id)
        .order_by(Delivery.id)
    )
    return [(delivery, evidence) for delivery, evidence in session.execute(query)]


def delivery_counts(session: Session, version_id: int) -> dict[DeliveryState, int]:
    """Return how many deliveries of a version stand in each state."""
    query = (
        select(Delivery.state, func.count())
        .join(EvidenceObject, EvidenceObject.id == Delivery.evidence_object_id)
        .where(EvidenceObject.version_id == version_id)
        .group_by(Delivery.state)
    )
    return {DeliveryState(state): count for state, count in session.execute(query)}
