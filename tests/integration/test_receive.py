"""From a real association to file and row, on both databases."""

import threading
from datetime import UTC, datetime

import numpy as np
import pydicom
import pytest
from sqlalchemy import select, update

from dicomnode import spool
from dicomnode.config import PeerSettings, ReceiverSettings
from dicomnode.db import studies
from dicomnode.db.tables import AuditEvent, EvidenceObject, Peer, Quarantine, SOPInstance, StudyVersion
from dicomnode.db.tables import Study as StudyRow
from dicomnode.demo import modality
from dicomnode.demo.objects import Study, dx, patient
from dicomnode.domain.lifecycle import Stage, State
from dicomnode.errors import PeerRefused
from dicomnode.evidence import encoded
from dicomnode.flow import operate
from dicomnode.flow.pressure import BackPressure
from dicomnode.flow.receive import Reception
from dicomnode.network.scp import StorageSCP
from dicomnode.network.status import Status

PEERS = {"xray": PeerSettings(ae_title="XRAY", sends=True), "viewer": PeerSettings(ae_title="VIEWER")}


@pytest.fixture
def node(database, tmp_path):
    """A receiver with its spool; `send(*datasets)` gives the statuses."""
    spool.prepare(tmp_path / "spool")
    settings = ReceiverSettings(host="127.0.0.1", port=0, min_free_bytes=0)
    reception = Reception(database, tmp_path / "spool", settings)
    scp = StorageSCP(settings, "NODE", PEERS, on_store=reception.store, on_rejected=reception.rejected)
    scp.start()
    yield Node(scp, tmp_path / "spool", reception)
    scp.stop()


class Node:
    def __init__(self, scp, root, reception):
        self.scp, self.root, self.reception = scp, root, reception

    def send(self, *datasets, ae_title="XRAY"):
        return [s.status for s in modality.send(datasets, "127.0.0.1", self.scp.port, ae_title, "NODE")]


def chest(number=1, value=100, study=1):
    pixels = np.full((16, 16), value, np.uint8)
    when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    return dx(pixels, patient=patient(study), study=Study("test", study, when), number=number)


def rows(database, table):
    with database.read() as session:
        return session.scalars(select(table).order_by(table.id)).all()


def test_acknowledged_instance_has_a_file_with_its_bytes_and_a_row(node, database):
    image = chest()
    assert node.send(image) == [Status.SUCCESS]
    (row,) = rows(database, SOPInstance)
    assert (node.root / row.path).read_bytes().endswith(bytes(_request(image).dataset))
    assert pydicom.dcmread(node.root / row.path).file_meta.MediaStorageSOPInstanceUID == image.SOPInstanceUID
    assert (node.root / row.path).stat().st_size == row.size_bytes
    assert row.calling_ae_title == "XRAY"
    assert [v.state for v in rows(database, StudyVersion)] == [State.RECEIVING]


def test_same_bytes_again_change_nothing(node, database):
    node.send(chest())
    before = rows(database, StudyVersion)[0].last_instance_at
    assert node.send(chest()) == [Status.SUCCESS]
    assert len(rows(database, SOPInstance)) == 1
    assert rows(database, StudyVersion)[0].last_instance_at == before


def test_other_bytes_of_the_same_uid_are_kept_as_a_revision(node, database):
    assert node.send(chest(value=1), chest(value=2)) == [Status.SUCCESS] * 2
    assert [(i.revision, i.is_current) for i in rows(database, SOPInstance)] == [(1, False), (2, True)]
    assert len({i.path for i in rows(database, SOPInstance)}) == 2


def test_our_own_evidence_that_comes_back_is_no_new_study(node, database):
    report = chest()
    node.send(chest(study=2))
    with database.write() as session:
        session.add(
            EvidenceObject(
                version_id=rows(database, StudyVersion)[0].id,
                encoder="measurement_report",
                sop_class_uid=str(report.SOPClassUID),
                sop_instance_uid=str(report.SOPInstanceUID),
                series_instance_uid="1.2",
                path="x",
                size_bytes=1,
                sha256="x",
                created_at=datetime.now(UTC),
            )
        )
    assert node.send(report) == [Status.SUCCESS]
    assert len(rows(database, StudyVersion)) == 1


def test_data_set_that_contradicts_its_command_is_quarantined(node, database):
    image, other = chest(1), chest(2)
    request = _request(image, sop_instance_uid=str(other.SOPInstanceUID))
    assert node.reception.store(request).status == Status.DATA_SET_DOES_NOT_MATCH
    (row,) = rows(database, Quarantine)
    assert row.dimse_status == 0xA900
    assert "the command says" in row.reason
    assert (node.root / row.path).is_file()
    assert rows(database, SOPInstance) == []


def test_cut_data_set_is_quarantined_with_its_reason(node, database):
    request = _request(chest(), keep=-7)
    assert node.reception.store(request).status == Status.CANNOT_UNDERSTAND
    (row,) = rows(database, Quarantine)
    assert row.dimse_status == 0xC000
    assert row.reason


def test_unknown_peer_is_rejected_and_remembered_with_the_setting(node, database):
    with pytest.raises(PeerRefused):
        node.send(chest(), ae_title="STRANGER")
    (peer,) = rows(database, Peer)
    assert peer.ae_title == "STRANGER"
    assert "sends = true" in peer.last_rejection
    assert rows(database, SOPInstance) == []


def test_peer_that_may_not_store_gets_not_authorized(node, database):
    assert node.send(chest(), ae_title="VIEWER") == [Status.NOT_AUTHORIZED]
    assert rows(database, SOPInstance) == []


def with_settings(node, database, **settings):
    node.reception._pressure = BackPressure(database, node.root, ReceiverSettings(**settings))


def test_full_disk_is_our_fault_and_may_pass(node, database):
    with_settings(node, database, min_free_bytes=1 << 60)
    assert node.send(chest()) == [Status.OUT_OF_RESOURCES]
    with_settings(node, database, min_free_bytes=0)
    assert node.send(chest()) == [Status.SUCCESS]


def test_full_queue_takes_no_new_study_and_all_of_a_known_one(node, database):
    node.send(chest(study=1), chest(study=2))
    with database.write() as session:
        queued = studies.version(session, 1)
        studies.close(session, queued, datetime.now(UTC), "quiet")
    with_settings(node, database, min_free_bytes=0, max_queued_studies=1)
    assert node.send(chest(study=3), chest(2, study=1), chest(2, study=2)) == [Status.OUT_OF_RESOURCES, 0, 0]
    events = [e.action for e in rows(database, AuditEvent) if e.version_id is None]
    assert events == ["queue full"]


def test_paused_receiver_asks_the_sender_to_come_again(node, database):
    operate.pause(database, Stage.RECEIVE, "", "operator jo", "")
    assert node.send(chest()) == [Status.OUT_OF_RESOURCES]
    operate.resume(database, Stage.RECEIVE, "", "operator jo")
    with_settings(node, database, min_free_bytes=0)
    assert node.send(chest()) == [Status.SUCCESS]


def test_purged_instance_that_comes_again_is_stored_again_under_another_name(node, database):
    node.send(chest())
    (first,) = rows(database, SOPInstance)
    with database.write() as session:
        session.execute(update(SOPInstance).values(purged_at=datetime.now(UTC)))
        session.execute(update(StudyRow).values(purged_at=datetime.now(UTC)))
        session.execute(update(StudyVersion).values(state=State.DONE))
    (node.root / first.path).unlink()
    assert node.send(chest(), chest()) == [Status.SUCCESS] * 2
    _, second = rows(database, SOPInstance)
    assert (second.revision, second.is_current, second.sha256) == (2, True, first.sha256)
    assert second.path != first.path
    assert (node.root / second.path).is_file()
    assert [v.state for v in rows(database, StudyVersion)] == [State.DONE, State.RECEIVING]
    assert rows(database, StudyRow)[0].purged_at is None


def test_eight_senders_of_one_study_lose_nothing(node, database):
    statuses = []

    def send_some(first):
        statuses.extend(node.send(*(chest(number=first + i) for i in range(5))))

    threads = [threading.Thread(target=send_some, args=(100 * n,)) for n in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [Status.SUCCESS] * 40
    assert len(rows(database, SOPInstance)) == 40
    assert len(rows(database, StudyVersion)) == 1


def test_one_instance_from_four_senders_at_once_is_one_row(node, database):
    statuses = []
    threads = [threading.Thread(target=lambda: statuses.extend(node.send(chest()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [Status.SUCCESS] * 4
    assert len(rows(database, SOPInstance)) == 1


def test_patient_is_in_the_row_as_the_source_says(node, database):
    image = chest()
    image.SpecificCharacterSet = "ISO_IR 100"
    image.PatientName = "MÜLLER^JÜRGEN"
    node.send(image)
    with database.read() as session:
        ((_, study),) = studies.versions_of(session, str(image.StudyInstanceUID))
    assert study.patient_name == "MÜLLER^JÜRGEN"


def _request(image, *, sop_instance_uid=None, keep=None):
    from dicomnode.network.scp import StoreRequest

    content = encoded(image)
    dataset = content[content.index(b"\x08\x00\x05\x00" if "SpecificCharacterSet" in image else b"\x08\x00\x08\x00") :]
    return StoreRequest(
        sop_class_uid=str(image.SOPClassUID),
        sop_instance_uid=sop_instance_uid or str(image.SOPInstanceUID),
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        calling_ae_title="XRAY",
        calling_address="127.0.0.1",
        dataset=memoryview(dataset[:keep]),
    )
