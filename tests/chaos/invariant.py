"""What must hold when everything has settled, whatever was killed."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import select

from dicomnode.db import results, studies
from dicomnode.db.session import Database
from dicomnode.db.tables import Delivery, EvidenceObject, SOPInstance, Study, StudyVersion
from dicomnode.demo.pacs import DemoPACS
from dicomnode.domain.lifecycle import DeliveryState, State
from dicomnode.network.part10 import file_header

LIVE = (State.DONE,)


def unsettled(database: Database, studies_wanted: set[str]) -> list[str]:
    """Return why there is more to come: studies without a settled live version."""
    with database.read() as session:
        rows = session.execute(
            select(Study.study_instance_uid, StudyVersion.state, StudyVersion.id, StudyVersion.reason).join(
                StudyVersion, StudyVersion.study_id == Study.id
            )
        ).all()
    waiting = [
        f"version {row.id} is {row.state} {row.reason}"
        for row in rows
        if row.state not in (State.DONE, State.SUPERSEDED)
    ]
    known = {row.study_instance_uid for row in rows}
    return waiting + [f"study {uid} is unknown" for uid in studies_wanted - known]


def violations(
    database: Database, root: Path, acknowledged: Mapping[str, str], pacs: Mapping[str, DemoPACS]
) -> list[str]:
    """Return in words what is lost, doubled or different; `acknowledged` maps SOP to Study Instance UIDs.

    Every acknowledged instance is stored once with its bytes, and in exactly one live version of its study; that one is
    analyzed and its evidence was accepted by each destination, no object with other bytes, none that no row knows.
    """
    found: list[str] = []
    with database.read() as session:
        current = session.scalars(select(SOPInstance).where(SOPInstance.is_current)).all()
        by_uid: dict[str, list[SOPInstance]] = {}
        for row in current:
            by_uid.setdefault(row.sop_instance_uid, []).append(row)
        for uid in acknowledged:
            rows = by_uid.get(uid, [])
            if len(rows) != 1:
                found.append(f"LOST: acknowledged instance {uid} has {len(rows)} rows")
        found += [text for row in current for text in _file(root, row)]
        for study in session.scalars(select(Study)):
            found += _study(session, study, [row for row in current if row.study_id == study.id], pacs)
        known = {
            (delivery.destination, evidence.sop_instance_uid): evidence.sha256
            for delivery, evidence in session.execute(
                select(Delivery, EvidenceObject).join(EvidenceObject, EvidenceObject.id == Delivery.evidence_object_id)
            )
        }
    for name, peer in pacs.items():
        for object_ in peer.accepted:
            if object_.differing:
                found.append(f"DOUBLE: {name} got {object_.sop_instance_uid} with {object_.differing} other contents")
            if (name, object_.sop_instance_uid) not in known:
                found.append(f"DOUBLE: {name} got {object_.sop_instance_uid}, which no row knows")
    return found


def _study(session, study, current, pacs) -> list[str]:
    versions = session.scalars(select(StudyVersion).where(StudyVersion.study_id == study.id)).all()
    live = [version for version in versions if version.state != State.SUPERSEDED]
    if [version.state for version in live] != [State.DONE]:
        return [f"LOST: study {study.id} has the live versions {[v.state for v in live]}"]
    (version,) = live
    found = []
    members = {instance.id for instance, _ in studies.members(session, version.id)}
    if members != {row.id for row in current}:
        found.append(f"LOST: version {version.id} has {len(members)} of {len(current)} instances")
    analyzed = results.results_of(session, version.id)
    wanted = {row.sop_instance_uid for row in current}
    if not analyzed or any(set(result.assessed) != wanted for result in analyzed):
        found.append(f"LOST: version {version.id} is not analyzed with all its instances")
    deliveries = results.deliveries_of(session, version.id)
    encoders = {evidence.encoder for _, evidence in deliveries}
    for name, peer in pacs.items():
        accepted = {a.sop_instance_uid for a in peer.accepted}
        mine = [(delivery, evidence) for delivery, evidence in deliveries if delivery.destination == name]
        for encoder in encoders:
            objects = {e.sop_instance_uid for _, e in mine if e.encoder == encoder}
            if len(objects) != 1 or not objects <= accepted:
                found.append(f"LOST: version {version.id}: {name} has {len(objects & accepted)} of 1 {encoder}")
        if any(not DeliveryState(delivery.state).is_settled for delivery, _ in mine):
            found.append(f"LOST: version {version.id}: deliveries to {name} are not settled")
    return found


def _file(root: Path, row: SOPInstance) -> list[str]:
    path = root / row.path
    if not path.is_file():
        return [f"LOST: {row.path} of instance {row.id} is gone"]
    content = path.read_bytes()
    header = file_header(row.sop_class_uid, row.sop_instance_uid, row.transfer_syntax_uid)
    same = content.startswith(header) and hashlib.sha256(content[len(header) :]).hexdigest() == row.sha256
    return [] if same and len(content) == row.size_bytes else [f"LOST: {row.path} has other bytes than were received"]
