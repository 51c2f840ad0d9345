"""A sender asks by N-ACTION whether what it sent is safe, and is told, over its association or a new one."""

import queue as queues
from contextlib import ExitStack

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, build_role, evt

from dicomnode import config, engine, spool
from dicomnode.db import holdings, migrate, studies
from dicomnode.db.session import Database
from dicomnode.db.tables import SOPInstance
from dicomnode.demo import modality
from dicomnode.domain.lifecycle import State
from dicomnode.flow.receive import Reception
from dicomnode.flow.vouch import Vouching
from dicomnode.network.commitment import STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
from dicomnode.network.commitment_scp import CommitmentSCP
from dicomnode.network.scp import StorageSCP
from tests.chaos.ledger import study_images
from tests.hospital import free_port


class Sender:
    """A modality that asks for commitment and notes what it is told."""

    def __init__(self, stack):
        self.told = queues.Queue()
        self.port = free_port()
        server = AE(ae_title="MODALITY")
        server.add_supported_context(STORAGE_COMMITMENT, scu_role=True, scp_role=True)
        handlers = [(evt.EVT_N_EVENT_REPORT, self._told)]
        running = server.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        stack.callback(running.shutdown)

    def _told(self, event):
        self.told.put((event.event_type, event.event_information, event.assoc.requestor.ae_title.strip()))
        return 0x0000, None

    def ask(self, port, images, *, waits=True, ae_title="MODALITY", action=1):
        """Ask and return the status; stay until the answer comes if `waits`."""
        ae = AE(ae_title=ae_title)
        ae.add_requested_context(STORAGE_COMMITMENT)
        information = Dataset()
        information.TransactionUID = generate_uid()
        information.ReferencedSOPSequence = [_reference(image) for image in images]
        handlers = [(evt.EVT_N_EVENT_REPORT, self._told)]
        role = build_role(STORAGE_COMMITMENT, scu_role=True)
        assoc = ae.associate("127.0.0.1", port, ae_title="DICOMNODE", ext_neg=[role], evt_handlers=handlers)
        assert assoc.is_established
        rsp, _ = assoc.send_n_action(information, action, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE)
        answer = self.told.get(timeout=60) if waits else None
        assoc.release()
        return rsp.Status, answer, information.TransactionUID


def _reference(image):
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    return item


class Node:
    def __init__(self, stack, folder, sender, **peer):
        self.root, self.port = folder, free_port()
        spool.prepare(folder)
        self.database = Database(f"sqlite:///{folder}/rows.sqlite")
        stack.callback(self.database.close)
        migrate.upgrade(self.database)
        engine.create_tables(self.database.url)
        settings = config.ReceiverSettings(host="127.0.0.1", port=self.port, min_free_bytes=0)
        self.peers = {
            "modality": config.PeerSettings(
                ae_title="MODALITY", host="127.0.0.1", port=sender.port, sends=True, **peer
            ),
            "viewer": config.PeerSettings(ae_title="VIEWER"),
        }
        vouching = Vouching(self.database, folder, self.peers)
        commitment = CommitmentSCP("DICOMNODE", self.peers, config.DeliverySettings(), vouching.judge)
        reception = Reception(self.database, folder, settings)
        scp = StorageSCP(
            settings, "DICOMNODE", self.peers, reception.store, reception.rejected, on_n_action=commitment.on_n_action
        )
        scp.start()
        stack.callback(scp.stop)

    def send(self, images):
        assert {s.status for s in modality.send(images, "127.0.0.1", self.port, "MODALITY", "DICOMNODE")} == {0}

    def state(self, image):
        with self.database.read() as session:
            return studies.versions_of(session, str(image.StudyInstanceUID))[0][0].state


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def sender(stack):
    return Sender(stack)


@pytest.fixture
def node(stack, tmp_path, sender):
    return Node(stack, tmp_path, sender)


@pytest.mark.parametrize("waits", [True, False], ids=["same association", "new association"])
def test_what_is_stored_is_committed(node, sender, waits):
    images = study_images("commit", 1, 3)
    node.send(images)
    status, answer, transaction = sender.ask(node.port, images, waits=waits)
    kind, information, caller = answer or sender.told.get(timeout=60)
    assert status == 0
    assert kind == 1
    assert information.TransactionUID == transaction
    assert {i.ReferencedSOPInstanceUID for i in information.ReferencedSOPSequence} == {i.SOPInstanceUID for i in images}
    assert "FailedSOPSequence" not in information
    assert caller == ("MODALITY" if waits else "DICOMNODE")


def test_what_is_not_here_or_lost_its_file_is_named_with_the_reason(node, sender):
    stored, lost, never = study_images("commit", 2, 3)
    node.send([stored, lost])
    with node.database.read() as session:
        (row,) = holdings.current_instances(session, [str(lost.SOPInstanceUID)])[str(lost.SOPInstanceUID)]
        assert isinstance(row, SOPInstance)
    (node.root / row.path).unlink()
    _, (kind, information, _), _ = sender.ask(node.port, [stored, lost, never])
    assert kind == 2
    assert [i.ReferencedSOPInstanceUID for i in information.ReferencedSOPSequence] == [stored.SOPInstanceUID]
    reasons = {i.ReferencedSOPInstanceUID: i.FailureReason for i in information.FailedSOPSequence}
    assert reasons == {lost.SOPInstanceUID: 0x0110, never.SOPInstanceUID: 0x0112}


def test_wrong_requests_are_refused(node, sender):
    images = study_images("commit", 3, 1)
    assert sender.ask(node.port, [], waits=False)[0] == 0x0115
    assert sender.ask(node.port, images, waits=False, action=7)[0] == 0x0123
    assert sender.ask(node.port, images, waits=False, ae_title="VIEWER")[0] == 0x0124


@pytest.mark.parametrize(("asked", "state"), [(2, State.QUEUED), (1, State.RECEIVING)], ids=["all", "a part"])
def test_request_for_all_of_a_study_closes_it_where_that_is_set(stack, tmp_path, sender, asked, state):
    node = Node(stack, tmp_path, sender, closes_by_commitment=True)
    images = study_images("commit", 4, 2)
    node.send(images)
    sender.ask(node.port, images[:asked])
    assert node.state(images[0]) == state
