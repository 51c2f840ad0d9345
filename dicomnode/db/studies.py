"""Studies, their versions and instances: what arrives, what closes, where each version stands."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, func, insert, literal, select, update
from sqlalchemy.orm import Session, aliased

from dicomnode.db import audit
from dicomnode.db.session import changed_rows
from dicomnode.db.tables import EvidenceObject, Series, SOPInstance, Study, StudyVersion, StudyVersionInstance
from dicomnode.domain.lifecycle import TRANSITIONS, Event, State, sources
from dicomnode.domain.study import InstanceHeader, version_uid


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A received object in the spool."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sent it."""

    ae_title: str
    address: str


def is_own_evidence(session: Session, sop_instance_uid: str) -> bool:
    """Return whether the node itself made this object (a PACS may route our results back to us)."""
    found = session.scalar(select(EvidenceObject.id).where(EvidenceObject.sop_instance_uid == sop_instance_uid))
    return found is not None


def add_instance(session: Session, header: InstanceHeader, file: StoredFile, sender: Sender, at: datetime) -> int:
    """Add a received instance and return the id of the version that is open for it.

    Opens version n+1 where none is receiving. Other bytes of a known SOP Instance UID become a new revision. A race
    with another receiver shows as an `IntegrityError`: run the transaction again.
    """
    study_id = _study(session, header, at)
    version_id = _receiving_version(session, study_id, header.study_instance_uid, sender, at)
    revision = _next_revision(session, study_id, header.sop_instance_uid)
    session.add(
        SOPInstance(
            study_id=study_id,
            series_id=_series(session, study_id, header),
            sop_instance_uid=header.sop_instance_uid,
            revision=revision,
            is_current=True,
            sop_class_uid=header.sop_class_uid,
            transfer_syntax_uid=header.transfer_syntax_uid,
            instance_number=header.attributes.get("InstanceNumber", ""),
            path=file.path,
            size_bytes=file.size_bytes,
            sha256=file.sha256,
            calling_ae_title=sender.ae_title,
            calling_address=sender.address,
            received_at=at,
        )
    )
    if revision > 1:
        audit.record(
            session,
            "instance revised",
            at=at,
            version_id=version_id,
            sop_instance_uid=header.sop_instance_uid,
            revision=revision,
            sender=sender.ae_title,
        )
    session.flush()
    return version_id


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a version: what a worker that was thought dead no longer holds."""

    run: int
    number: int


def advance(
    session: Session,
    version_id: int,
    event: Event,
    at: datetime,
    reason: str = "",
    *,
    actor: str = audit.NODE,
    attempt: Attempt | None = None,
) -> State | None:
    """Move a version by `event` and return its new state, `None` where it stood elsewhere (another won).

    With `attempt` it moves only while that is the newest one.
    """
    lock(session, version_id)
    fence = () if attempt is None else (StudyVersion.run == attempt.run, StudyVersion.attempts == attempt.number)
    for before in sources(event):
        after = TRANSITIONS[before, event]
        changed = changed_rows(
            session,
            update(StudyVersion)
            .where(StudyVersion.id == version_id, StudyVersion.state == before, *fence)
            .values(state=after, state_changed_at=at, reason=reason),
        )
        if changed:
            audit.record(
                session,
                str(event),
                at=at,
                actor=actor,
                version_id=version_id,
                before=str(before),
                state=str(after),
                reason=reason,
            )
            return after
    return None


def lock(session: Session, version_id: int) -> None:
    """Let no other transaction decide over the versions of this version's study until this one ends; receiving goes on.

    What a version may do depends on other versions and on deliveries, which a compare-and-set does not see.
    """
    study_id = select(StudyVersion.study_id).where(StudyVersion.id == version_id).scalar_subquery()
    session.execute(select(Study.id).where(Study.id == study_id).with_for_update(key_share=True))


def quiet_versions(session: Session, before: datetime, limit: int = 200) -> list[StudyVersion]:
    """Return receiving versions without an instance since `before`, oldest first.

    A version waits while an older one of its study is analyzed or reported, so that its report can name that one.
    """
    query = (
        select(StudyVersion)
        .where(StudyVersion.state == State.RECEIVING, StudyVersion.last_instance_at <= before, ~_sibling_is_busy())
        .order_by(StudyVersion.last_instance_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return list(session.scalars(query))


def _sibling_is_busy() -> ColumnElement[bool]:
    sibling = aliased(StudyVersion)
    return (
        select(literal(1))
        .where(sibling.study_id == StudyVersion.study_id, sibling.state.in_([State.ANALYZING, State.REPORTING]))
        .correlate(StudyVersion)
        .exists()
    )


def close(session: Session, version: StudyVersion, at: datetime, reason: str, *, actor: str = audit.NODE) -> bool:
    """Freeze the membership of a receiving version and queue it; older versions that rest become SUPERSEDED.

    Returns `False` where an instance arrived since `version` was read, another closed it, or an older version is being
    analyzed or reported.
    """
    lock(session, version.id)
    changed = changed_rows(
        session,
        update(StudyVersion)
        .where(
            StudyVersion.id == version.id,
            StudyVersion.state == State.RECEIVING,
            StudyVersion.last_instance_at == version.last_instance_at,
            ~_sibling_is_busy(),
        )
        .values(closed_at=at),
    )
    if changed == 0 or advance(session, version.id, Event.QUIET, at, reason, actor=actor) is None:
        return False
    members = select(literal(version.id), SOPInstance.id).where(
        SOPInstance.study_id == version.study_id, SOPInstance.is_current
    )
    session.execute(insert(StudyVersionInstance).from_select(["version_id", "sop_instance_id"], members))
    count = session.scalar(
        select(func.count()).select_from(StudyVersionInstance).where(StudyVersionInstance.version_id == version.id)
    )
    session.execute(
        update(StudyVersion)
        .where(StudyVersion.id == version.id)
        .values(instance_count=count, run=StudyVersion.run + 1, attempts=0)
    )
    supersede_older(session, version.study_id, version.number, at)
    return True


def supersede_older(session: Session, study_id: int, number: int, at: datetime) -> None:
    """Move the older versions of a study that rest (queued, failed, skipped, done) to SUPERSEDED."""
    query = select(StudyVersion.id).where(
        StudyVersion.study_id == study_id,
        StudyVersion.number < number,
        StudyVersion.state.in_(sources(Event.NEWER)),
    )
    for version_id in session.scalars(query).all():
        advance(session, version_id, Event.NEWER, at, f"version {number} replaces it")


def superseding(session: Session, version_id: int) -> StudyVersion | None:
    """Return the newest closed version of the same study after this one."""
    version = session.get_one(StudyVersion, version_id)
    query = select(StudyVersion).where(
        StudyVersion.study_id == version.study_id,
        StudyVersion.number > version.number,
        StudyVersion.state != State.RECEIVING,
    )
    return session.scalars(query.order_by(StudyVersion.number.desc()).limit(1)).one_or_none()


def start_attempt(session: Session, version_id: int) -> Attempt:
    """Count one more attempt at a version and return it."""
    session.execute(
        update(StudyVersion).where(StudyVersion.id == version_id).values(attempts=StudyVersion.attempts + 1)
    )
    query = select(StudyVersion.run, StudyVersion.attempts).where(StudyVersion.id == version_id)
    run, number = session.execute(query).one()
    return Attempt(run, number)


def members(session: Session, version_id: int) -> list[tuple[SOPInstance, Series]]:
    """Return the instances of a closed version with their series, in a stable order."""
    query = (
        select(SOPInstance, Series)
        .join(StudyVersionInstance, StudyVersionInstance.sop_instance_id == SOPInstance.id)
        .join(Series, Series.id == SOPInstance.series_id)
        .where(StudyVersionInstance.version_id == version_id)
        .order_by(Series.series_instance_uid, SOPInstance.sop_instance_uid)
    )
    return [(instance, series) for instance, series in session.execute(query)]


def received_count(session: Session, study_id: int) -> int:
    """Return how many instances a study has now."""
    query = (
        select(func.count()).select_from(SOPInstance).where(SOPInstance.study_id == study_id, SOPInstance.is_current)
    )
    return session.execute(query).scalar_one()


def version(session: Session, version_id: int) -> StudyVersion:
    """Return a version as its row stands now."""
    return session.get_one(StudyVersion, version_id)


def version_or_none(session: Session, version_id: int) -> StudyVersion | None:
    """Return a version, `None` where there is no such row."""
    return session.get(StudyVersion, version_id)


def study_of(session: Session, version: StudyVersion) -> Study:
    """Return the study of a version."""
    return session.get_one(Study, version.study_id)


def counts_by_state(session: Session) -> dict[State, int]:
    """Return how many versions stand in each state."""
    query = select(StudyVersion.state, func.count()).group_by(StudyVersion.state)
    found = {row[0]: row[1] for row in session.execute(query)}
    return {state: found.get(state, 0) for state in State}


def newest_versions(session: Session, limit: int, state: State | None = None) -> list[tuple[StudyVersion, Study]]:
    """Return versions with their studies, the last opened first; of one state the last received first."""
    query = select(StudyVersion, Study).join(Study, Study.id == StudyVersion.study_id).limit(limit)
    if state is None:
        query = query.order_by(StudyVersion.id.desc())
    else:
        query = query.where(StudyVersion.state == state).order_by(StudyVersion.last_instance_at.desc())
    return [(v, s) for v, s in session.execute(query)]


def versions_of(session: Session, study_instance_uid: str) -> list[tuple[StudyVersion, Study]]:
    """Return all versions of a study, the newest first."""
    query = (
        select(StudyVersion, Study)
        .join(Study, Study.id == StudyVersion.study_id)
        .where(Study.study_instance_uid == study_instance_uid)
        .order_by(StudyVersion.number.desc())
    )
    return [(v, s) for v, s in session.execute(query)]


def _study(session: Session, header: InstanceHeader, at: datetime) -> int:
    uid = header.study_instance_uid
    found = session.scalar(select(Study.id).where(Study.study_instance_uid == uid))
    if found is not None:
        return found
    get = header.attributes.get
    study = Study(
        study_instance_uid=uid,
        patient_name=get("PatientName", ""),
        patient_id=get("PatientID", ""),
        issuer_of_patient_id=get("IssuerOfPatientID", ""),
        patient_birth_date=get("PatientBirthDate", ""),
        patient_sex=get("PatientSex", ""),
        patient_age=get("PatientAge", ""),
        accession_number=get("AccessionNumber", ""),
        study_date=get("StudyDate", ""),
        study_time=get("StudyTime", ""),
        study_description=get("StudyDescription", ""),
        referring_physician_name=get("ReferringPhysicianName", ""),
        first_received_at=at,
    )
    session.add(study)
    session.flush()
    return study.id


def _series(session: Session, study_id: int, header: InstanceHeader) -> int:
    uid = header.series_instance_uid
    found = session.scalar(select(Series.id).where(Series.study_id == study_id, Series.series_instance_uid == uid))
    if found is not None:
        return found
    get = header.attributes.get
    series = Series(
        study_id=study_id,
        series_instance_uid=uid,
        modality=get("Modality", ""),
        series_number=get("SeriesNumber", ""),
        series_description=get("SeriesDescription", ""),
        protocol_name=get("ProtocolName", ""),
        body_part_examined=get("BodyPartExamined", ""),
        view_position=get("ViewPosition", ""),
        laterality=get("Laterality", ""),
        manufacturer=get("Manufacturer", ""),
        manufacturer_model_name=get("ManufacturerModelName", ""),
        station_name=get("StationName", ""),
    )
    session.add(series)
    session.flush()
    return series.id


def _receiving_version(session: Session, study_id: int, uid: str, sender: Sender, at: datetime) -> int:
    """Touch the open version of a study, or open the next one.

    The update waits for a sweep that is closing the version and then sees that it is no longer receiving.
    """
    open_version = (StudyVersion.study_id == study_id, StudyVersion.state == State.RECEIVING)
    last = session.scalar(select(StudyVersion.last_instance_at).where(*open_version))
    moment = at if last is None else max(at, last + timedelta(microseconds=1))
    changed = changed_rows(session, update(StudyVersion).where(*open_version).values(last_instance_at=moment))
    if changed:
        return session.execute(select(StudyVersion.id).where(*open_version)).scalar_one()
    return begin_version(session, study_id, uid, sender.ae_title, at).id


def begin_version(
    session: Session, study_id: int, uid: str, source_ae_title: str, at: datetime, *, actor: str = audit.NODE
) -> StudyVersion:
    """Open the next version of the study with Study Instance UID `uid`; an `IntegrityError` where one is receiving.

    The update of the study's row waits for retention, which decides over the files of the study meanwhile.
    """
    session.execute(update(Study).where(Study.id == study_id).values(purged_at=None))
    highest = session.scalar(select(func.max(StudyVersion.number)).where(StudyVersion.study_id == study_id)) or 0
    opened = StudyVersion(
        study_id=study_id,
        number=highest + 1,
        uid=version_uid(uid, highest + 1),
        state=State.RECEIVING,
        state_changed_at=at,
        source_ae_title=source_ae_title,
        opened_at=at,
        last_instance_at=at,
    )
    session.add(opened)
    session.flush()
    audit.record(
        session,
        "version opened",
        at=at,
        actor=actor,
        version_id=opened.id,
        number=opened.number,
        sender=source_ae_title,
    )
    return opened


def _next_revision(session: Session, study_id: int, sop_instance_uid: str) -> int:
    same = (SOPInstance.study_id == study_id, SOPInstance.sop_instance_uid == sop_instance_uid)
    session.execute(update(SOPInstance).where(*same, SOPInstance.is_current).values(is_current=False))
    return (session.scalar(select(func.max(SOPInstance.revision)).where(*same)) or 0) + 1
