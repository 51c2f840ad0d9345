"""Report: findings become evidence objects, durable in the spool before the first send, and deliveries (T5)."""

import hashlib
from datetime import datetime
from pathlib import Path

import pydicom
from pydicom import Dataset
from sqlalchemy.orm import Session

from dicomnode import __version__, spool
from dicomnode.config import NodeSettings, PeerSettings, Settings
from dicomnode.db import audit, deliveries, results, studies
from dicomnode.db.session import Database, now
from dicomnode.domain.findings import Priority
from dicomnode.domain.lifecycle import Event, State
from dicomnode.domain.study import derived_uid
from dicomnode.engine import Queue
from dicomnode.evidence import Case, NodeIdentity, Predecessor, encoded, find_encoders
from dicomnode.failpoint import failpoint
from dicomnode.flow import route
from dicomnode.flow.finish import finish_version
from dicomnode.log import get_logger

log = get_logger(__name__)

FINDINGS_REPORT, SUMMARY_IMAGE = "measurement_report", "summary_image"


class Report:
    """The report step with what it needs: rows, the spool at `root`, the queue of deliveries."""

    def __init__(self, database: Database, root: Path, queue: Queue, settings: Settings) -> None:
        self._database = database
        self._root = root
        self._queue = queue
        self._settings = settings
        self._encoders = find_encoders()

    def report(self, version_id: int) -> None:
        """Encode the findings of a version, keep the objects, and put them on their way."""
        case = self._case(version_id)
        if case is None:
            return
        failpoint("report.read")
        objects = [self._keep(case, encoder.name, ds) for encoder in self._encoders for ds in encoder.encode(case)]
        with self._database.write() as session:
            moment = now(session)
            if studies.advance(session, version_id, Event.REPORTED, moment) is None:
                return
            routed = self._route(session, version_id, moment)
            rounds: set[str] = set()
            for evidence in objects:
                wanted = destinations({name: self._settings.peers[name] for name in routed}, evidence.encoder)
                due = results.add_evidence(session, version_id, evidence, wanted, moment)
                rounds.update(delivery.destination for delivery in due)
            deliveries.know(session, sorted(rounds))
            for destination in sorted(rounds - self._queue.rounds(session)):  # one round does all
                self._queue.add_round(session, destination, f"version/{version_id}/{moment.isoformat()}")
            finish_version(session, version_id, moment)
            failpoint("report.enqueued")
        failpoint("report.committed")
        log.info("study reported", version=version_id, objects=len(objects))

    def _route(self, session: Session, version_id: int, moment: datetime) -> list[str]:
        """Return where the results go, and note why."""
        version = studies.version(session, version_id)
        modalities = [series.modality for _, series in studies.members(session, version_id)]
        known = route.facts(
            version.source_ae_title,
            modalities,
            results.results_of(session, version_id),
            Priority(version.priority or Priority.ROUTINE),
        )
        found = route.destinations(self._settings, known)
        why = [f"{name}: {reason}" for name, reason in found.items()] or ["nowhere: no route matches"]
        audit.record(session, "routed", at=moment, version_id=version_id, why=why)
        return list(found)

    def _case(self, version_id: int) -> Case | None:
        with self._database.read() as session:
            version = studies.version(session, version_id)
            if version.state != State.REPORTING:
                return None
            found = results.results_of(session, version_id)
            assessed = {uid for result in found for uid in result.assessed}
            paths = [i.path for i, _ in studies.members(session, version_id) if i.sop_instance_uid in assessed]
            before = results.predecessor(session, version.study_id, version.number, FINDINGS_REPORT)
            study_uid = studies.study_of(session, version).study_instance_uid
        return Case(
            version_uid=version.uid,
            version_number=version.number,
            sources=tuple(_header(self._root / path) for path in paths),
            results=found,
            priority=Priority(version.priority or Priority.ROUTINE),
            created_at=version.state_changed_at,
            node=node_identity(self._settings.node),
            predecessors=()
            if before is None
            else (Predecessor(study_uid, before.series_instance_uid, before.sop_class_uid, before.sop_instance_uid),),
        )

    def _keep(self, case: Case, encoder: str, ds: Dataset) -> results.Evidence:
        content = encoded(ds)
        failpoint("report.encoded")
        uid = str(ds.SOPInstanceUID)
        digest = hashlib.sha256(content).hexdigest()
        # the content is in the name: a worker that was thought dead can never change the bytes under a row
        folder = hashlib.sha256(case.version_uid.encode()).hexdigest()[:32]
        name = f"{spool.EVIDENCE}/{folder}/{uid}-{digest[:16]}.dcm"
        spool.keep(self._root, spool.stage(self._root, (content,)), name)
        failpoint("report.kept")
        return results.Evidence(
            encoder=encoder,
            sop_class_uid=str(ds.SOPClassUID),
            sop_instance_uid=uid,
            series_instance_uid=str(ds.SeriesInstanceUID),
            description=str(ds.get("SeriesDescription", "")),
            file=studies.StoredFile(name, len(content), digest),
        )


def destinations(peers: dict[str, PeerSettings], encoder: str) -> list[str]:
    """Return the names of the peers that want what `encoder` makes."""
    return [name for name, peer in peers.items() if encoder != SUMMARY_IMAGE or peer.summary]


def node_identity(node: NodeSettings) -> NodeIdentity:
    """Return who speaks in the results; the device UID follows from AE title and serial number."""
    return NodeIdentity(
        ae_title=node.ae_title,
        manufacturer="dicomnode",
        model_name="dicomnode",
        station_name=node.station_name,
        serial_number=node.serial_number,
        device_uid=derived_uid("device", node.ae_title, node.serial_number),
        software_version=__version__,
    )


def _header(path: Path) -> Dataset:
    return pydicom.dcmread(path, stop_before_pixels=True, force=True)
