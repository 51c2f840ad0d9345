"""What the demo sees: the rows of the node, and beside each result object what the PACS itself holds of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from pydicom.uid import Comprehensive3DSRStorage
from sqlalchemy.orm import Session

from dicomnode.db import results, studies
from dicomnode.db.session import Database
from dicomnode.db.tables import Delivery, EvidenceObject, Study, StudyVersion
from dicomnode.demo.pacs import Accepted
from dicomnode.domain.findings import BundleResult
from dicomnode.domain.lifecycle import DeliveryState, State


@dataclass(frozen=True, slots=True)
class ObjectLine:
    """A result object on its way to the PACS: what the row says, and how often the PACS has it.

    `seconds` lie between the last image of the study and the answer of the PACS; `path` is the PACS's file.
    """

    sop_instance_uid: str
    description: str
    is_report: bool
    delivery: DeliveryState
    attempts: int
    dimse_status: int | None
    error: str
    seconds: float | None
    accepted: int = 0
    differing: int = 0
    path: Path | None = None

    @property
    def is_settled(self) -> bool:
        """Whether the node says that the PACS has it, and the PACS says so too."""
        return self.delivery.is_settled and self.accepted > 0


@dataclass(frozen=True, slots=True)
class VersionLine:
    """A study version as it stands; `findings` and `anomaly` are words."""

    study_instance_uid: str
    number: int
    state: State
    reason: str
    images: int
    urgency: str
    findings: str
    anomaly: str
    objects: tuple[ObjectLine, ...]

    @property
    def rests(self) -> bool:
        """Whether nothing more happens to it by itself."""
        return self.state.is_final or self.state is State.FAILED

    @property
    def reports(self) -> tuple[ObjectLine, ...]:
        """Its Structured Reports."""
        return tuple(line for line in self.objects if line.is_report)


class Watch:
    """Looks at the versions of some studies; what cannot change any more is read once."""

    def __init__(self, database: Database, study_instance_uids: Sequence[str]) -> None:
        self._database = database
        self._order = {uid: position for position, uid in enumerate(study_instance_uids)}
        self._resting: dict[tuple[int, str], VersionLine] = {}

    def look(self) -> list[VersionLine]:
        """Return the versions by study and number, without what the PACS says."""
        with self._database.read() as session:
            found = studies.newest_versions(session, 2 * len(self._order) + 10)
            lines = [self._line(session, version, study) for version, study in found]
        known = [line for line in lines if line.study_instance_uid in self._order]
        return sorted(known, key=lambda line: (self._order[line.study_instance_uid], line.number))

    def _line(self, session: Session, version: StudyVersion, study: Study) -> VersionLine:
        key = version.id, version.state
        line = self._resting.get(key) or _version_line(session, version, study)
        if line.rests:
            self._resting[key] = line
        return line


def with_pacs(versions: Sequence[VersionLine], accepted: Sequence[Accepted]) -> list[VersionLine]:
    """Return the versions with what the PACS holds; ask it after the rows, so that it is never behind them."""
    held = {entry.sop_instance_uid: entry for entry in accepted}
    return [_with_pacs(version, held) for version in versions]


def _with_pacs(version: VersionLine, held: Mapping[str, Accepted]) -> VersionLine:
    def joined(line: ObjectLine) -> ObjectLine:
        entry = held.get(line.sop_instance_uid)
        if entry is None:
            return line
        return replace(line, accepted=entry.count, differing=entry.differing, path=entry.path)

    return replace(version, objects=tuple(joined(line) for line in version.objects))


def _version_line(session: Session, version: StudyVersion, study: Study) -> VersionLine:
    found = results.results_of(session, version.id)
    state = State(version.state)
    is_open = state is State.RECEIVING
    return VersionLine(
        study_instance_uid=study.study_instance_uid,
        number=version.number,
        state=state,
        reason=version.reason,
        images=studies.received_count(session, study.id) if is_open else version.instance_count,
        urgency=(version.priority or "") if state is not State.SKIPPED else "",  # nobody looked at it
        findings=findings_in_words(found),
        anomaly=anomaly_in_words(found),
        objects=tuple(
            _object_line(delivery, evidence, version.last_instance_at)
            for delivery, evidence in results.deliveries_of(session, version.id)
        ),
    )


def _object_line(delivery: Delivery, evidence: EvidenceObject, last_instance_at: datetime) -> ObjectLine:
    settled_at = delivery.settled_at
    return ObjectLine(
        sop_instance_uid=evidence.sop_instance_uid,
        description=evidence.description,
        is_report=evidence.sop_class_uid == Comprehensive3DSRStorage,
        delivery=DeliveryState(delivery.state),
        attempts=delivery.attempts,
        dimse_status=delivery.dimse_status,
        error=delivery.error,
        seconds=None if settled_at is None else (settled_at - last_instance_at).total_seconds(),
    )


def findings_in_words(found: Sequence[BundleResult]) -> str:
    """Return what the classifiers suspect; where they suspect nothing, what they looked for. Never "normal"."""
    findings = [finding for result in found for finding in result.findings]
    suspected = [f"{f.label} suspected ({100 * f.probability:.0f} %)" for f in findings if f.is_suspected]
    if suspected or not findings:
        return ", ".join(suspected)
    return f"no suspected finding from: {', '.join(f.label for f in findings)}"


def anomaly_in_words(found: Sequence[BundleResult]) -> str:
    """Return whether the image is unlike those that the models know, with the score and its limit."""
    scores = [result.anomaly for result in found if result.anomaly is not None]
    return ", ".join(
        f"{'unusual image' if a.is_unusual else 'not unusual'}: {a.score:.3g} (limit {a.threshold:.3g})" for a in scores
    )
