"""Analyses, findings, evidence objects and their deliveries as rows."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from dicomnode.db.session import changed_rows
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


@dataclass(frozen=True, slots=True)
class Evidence:
    """An encoded result in the spool."""

    encoder: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    description: str
    file: StoredFile


@dataclass(frozen=True, slots=True)
class DueDelivery:
    """What a delivery step needs of the rows."""

    delivery_id: int
    version_id: int
    destination: str
    path: str
    sop_instance_uid: str
    attempts: int
    created_at: datetime


def add_results(
    session: Session,
    version_id: int,
    results: tuple[BundleResult, ...],
    priority: Priority | None,
    at: datetime,
    seconds: float,
) -> None:
    """Add the results of a version; those of an earlier attempt are replaced."""
    remove_results(session, version_id)
    for position, result in enumerate(results):
        _add_result(session, version_id, position, result, at, seconds)
    session.execute(update(StudyVersion).where(StudyVersion.id == version_id).values(priority=priority))


def remove_results(session: Session, version_id: int) -> None:
    """Remove the analyses of a version with what they hold."""
    for analysis in session.scalars(select(Analysis).where(Analysis.version_id == version_id)).all():
        for table in (PredictionRow, FindingRow, ExplanationRow, ImageCodeRow):
            for row in session.scalars(select(table).where(table.analysis_id == analysis.id)).all():
                session.delete(row)
        session.flush()
        session.delete(analysis)
    session.flush()


def _add_result(
    session: Session, version_id: int, position: int, result: BundleResult, at: datetime, seconds: float
) -> None:
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
    """Return the results of a version, equal to what was added."""
    query = select(Analysis).where(Analysis.version_id == version_id).order_by(Analysis.position)
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

    Returns the deliveries that are new.
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
    known = set(session.scalars(select(Delivery.destination).where(Delivery.evidence_object_id == row.id)))
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
    return new


def predecessor(session: Session, study_id: int, number: int, encoder: str) -> EvidenceObject | None:
    """Return the object that `encoder` made for the newest earlier version of the study that has one."""
    query = (
        select(EvidenceObject)
        .join(StudyVersion, StudyVersion.id == EvidenceObject.version_id)
        .where(StudyVersion.study_id == study_id, StudyVersion.number < number, EvidenceObject.encoder == encoder)
        .order_by(StudyVersion.number.desc(), EvidenceObject.id.desc())
        .limit(1)
    )
    return session.scalars(query).one_or_none()


def deliveries_of(session: Session, version_id: int) -> list[tuple[Delivery, EvidenceObject]]:
    """Return the deliveries of a version with what they deliver."""
    query = (
        select(Delivery, EvidenceObject)
        .join(EvidenceObject, EvidenceObject.id == Delivery.evidence_object_id)
        .where(EvidenceObject.version_id == version_id)
        .order_by(Delivery.id)
    )
    return [(delivery, evidence) for delivery, evidence in session.execute(query)]


def due_delivery(session: Session, delivery_id: int) -> DueDelivery | None:
    """Return a delivery that is due, `None` where it is not (any more)."""
    query = (
        select(Delivery, EvidenceObject)
        .join(EvidenceObject, EvidenceObject.id == Delivery.evidence_object_id)
        .where(Delivery.id == delivery_id, Delivery.state == DeliveryState.DUE)
    )
    found = session.execute(query).one_or_none()
    if found is None:
        return None
    delivery, evidence = found
    return DueDelivery(
        delivery_id=delivery.id,
        version_id=evidence.version_id,
        destination=delivery.destination,
        path=evidence.path,
        sop_instance_uid=evidence.sop_instance_uid,
        attempts=delivery.attempts,
        created_at=delivery.created_at,
    )


def settle_delivery(
    session: Session,
    due: DueDelivery,
    state: DeliveryState,
    *,
    at: datetime,
    dimse_status: int | None,
    error: str,
    wait: timedelta = timedelta(0),
) -> bool:
    """Write the outcome of one attempt; `False` where another settled it meanwhile."""
    done = state is not DeliveryState.WAITING
    changed = changed_rows(
        session,
        update(Delivery)
        .where(Delivery.id == due.delivery_id, Delivery.state == DeliveryState.DUE, Delivery.attempts == due.attempts)
        .values(
            state=state,
            attempts=due.attempts + 1,
            dimse_status=dimse_status,
            error=error,
            next_at=at + wait,
            settled_at=at if done else None,
        ),
    )
    return changed == 1


def waiting_deliveries(session: Session, at: datetime, limit: int = 200) -> list[Delivery]:
    """Return deliveries whose back-off is over."""
    query = (
        select(Delivery)
        .where(Delivery.state == DeliveryState.WAITING, Delivery.next_at <= at)
        .order_by(Delivery.next_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return list(session.scalars(query))


def delivery_counts(session: Session, version_id: int) -> dict[DeliveryState, int]:
    """Return how many deliveries of a version stand in each state."""
    query = (
        select(Delivery.state, func.count())
        .join(EvidenceObject, EvidenceObject.id == Delivery.evidence_object_id)
        .where(EvidenceObject.version_id == version_id)
        .group_by(Delivery.state)
    )
    return {DeliveryState(state): count for state, count in session.execute(query)}
