"""Storage commitment, on both databases: delivered means committed where the peer can."""

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, build_role

from dicomnode.config import PeerSettings, ReceiverSettings
from dicomnode.db import audit
from dicomnode.domain.lifecycle import State
from dicomnode.flow.commit import Commitments
from dicomnode.network.scp import StorageSCP, StoreAnswer
from tests.acceptor import Acceptor
from tests.committer import COMMITMENT, Committer
from tests.hospital import SR, wait_for
from tests.outbox import PATIENT, WAIT_S, Outbox

LISTENING = PATIENT.model_copy(update={"commitment_wait_s": 60.0, "commitment_timeout_s": 1000.0})
PARTING = PATIENT.model_copy(update={"commitment_wait_s": 0.0, "commitment_timeout_s": 1000.0})


@pytest.fixture
def pacs():
    pacs = Committer()
    yield pacs
    pacs.close()


@pytest.fixture
def make_outbox(database, tmp_path, pacs):
    def make(settings=LISTENING, **peer):
        return Outbox(database, tmp_path / "spool", {"pacs": pacs.peer.model_copy(update=peer)}, settings)

    return make


@pytest.fixture
def receiver(database):
    """Our receiver, where a PACS reports on an association of its own."""
    peers = {"pacs": PeerSettings(ae_title="PACS")}
    scp = StorageSCP(
        ReceiverSettings(host="127.0.0.1", port=0),
        "DICOMNODE",
        peers,
        lambda _request: StoreAnswer(),
        lambda _rejection: None,
        on_commitment=Commitments(database, LISTENING).settle,
    )
    scp.start()
    yield scp
    scp.stop(deadline_s=0)


def test_delivered_means_committed_where_the_peer_answers_on_the_same_association(make_outbox, pacs):
    outbox = make_outbox()
    versions = [outbox.add("pacs"), outbox.add("pacs")]
    outbox.deliver()
    assert outbox.states() == ["committed", "committed"]
    assert pacs.asked == [["2.25.1001", "2.25.1002"]]
    assert pacs.reported == [0]
    assert [outbox.state(version) for version in versions] == [State.DONE, State.DONE]
    with outbox.database.read() as session:
        actions = [event.action for event in audit.events_of(session, versions[0])]
    assert actions[-3:] == ["delivery uncommitted", "delivery committed", "DELIVERED"]


def test_peer_may_answer_on_an_association_of_its_own_to_our_receiver(make_outbox, pacs, receiver):
    pacs.back = ("127.0.0.1", receiver.port)
    outbox = make_outbox()
    version = outbox.add("pacs")
    outbox.deliver()
    wait_for(lambda: outbox.row().state == "committed")
    assert outbox.state(version) is State.DONE
    wait_for(lambda: pacs.reported == [0])


def test_version_is_not_done_before_the_peer_has_committed(make_outbox, pacs):
    pacs.silent = 1
    outbox = make_outbox(PARTING)
    version = outbox.add("pacs")
    outbox.deliver()
    row = outbox.row()
    assert (row.state, row.dimse_status, row.attempts) == ("uncommitted", 0, 1)
    assert "awaited" in row.error
    assert outbox.state(version) is State.DELIVERING


def test_without_an_answer_it_is_asked_again_with_growing_waits_and_sent_only_once(make_outbox, pacs):
    pacs.silent = 2
    outbox = make_outbox(PARTING)
    outbox.add("pacs")
    waits = []
    for _ in range(2):
        outbox.deliver()
        outbox.deliver()
        waits.append((outbox.row().next_at - outbox.attempts()[0].at).total_seconds())
        outbox.pass_time(WAIT_S)
    assert len(pacs.asked) == 2
    assert waits[0] >= 999
    make_outbox(LISTENING).deliver()
    wait_for(lambda: outbox.row().state == "committed")
    assert pacs.received == ["2.25.1001"]
    assert len(pacs.asked) == 3
    assert outbox.row().commitment_requests == 3


def test_object_that_the_peer_lost_is_sent_again(make_outbox, pacs):
    pacs.failures["2.25.1001"] = 0x0112
    outbox = make_outbox()
    outbox.add("pacs")
    outbox.add("pacs")
    outbox.deliver()
    assert outbox.states() == ["waiting", "committed"]
    assert outbox.rows()[0].error == "not committed: 0x0112 (no such SOP instance)"
    outbox.pass_time(WAIT_S)
    outbox.deliver()
    assert outbox.states() == ["committed", "committed"]
    assert pacs.received == ["2.25.1001", "2.25.1002", "2.25.1001"]


def test_object_that_the_peer_never_keeps_is_dead_with_the_reason(make_outbox, pacs):
    pacs.failures["2.25.1001"] = 0x0122
    outbox = make_outbox()
    version = outbox.add("pacs")
    outbox.deliver()
    assert outbox.row().state == "dead"
    assert outbox.row().error == "not committed: 0x0122 (SOP class not supported)"
    assert outbox.state(version) is State.FAILED


def test_refused_request_is_shown_and_asked_again(make_outbox, pacs):
    pacs.action_status = 0x0213
    outbox = make_outbox()
    outbox.add("pacs")
    outbox.deliver()
    assert outbox.row().state == "uncommitted"
    assert "refused: 0x0213 (resource limitation)" in outbox.row().error
    pacs.action_status = 0
    outbox.pass_time(WAIT_S)
    outbox.deliver()
    assert outbox.row().state == "committed"


def test_peer_that_cannot_commit_although_declared_so_is_named(database, tmp_path):
    pacs = Acceptor({SR: ["1.2.840.10008.1.2.1"]})
    peer = pacs.peer.model_copy(update={"commitment": True})
    outbox = Outbox(database, tmp_path / "spool", {"pacs": peer})
    outbox.add("pacs")
    outbox.deliver()
    pacs.close()
    assert outbox.row().state == "uncommitted"
    assert "does not accept the Storage Commitment Push Model" in outbox.row().error


def test_where_commitment_is_switched_off_what_was_sent_is_enough(make_outbox, pacs):
    pacs.silent = 9
    outbox = make_outbox(PARTING)
    version = outbox.add("pacs")
    outbox.deliver()
    again = make_outbox(PARTING, commitment=False)
    again.pass_time(WAIT_S)
    again.deliver()
    assert outbox.row().state == "sent"
    assert outbox.state(version) is State.DONE


def result_of(transaction_uid, uid):
    result, item = Dataset(), Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = SR, uid
    result.TransactionUID, result.ReferencedSOPSequence = transaction_uid, [item]
    return result


def report(receiver, result, event_type=1, **role):
    caller = AE("PACS")
    caller.add_requested_context(COMMITMENT)
    extended = [build_role(COMMITMENT, **role)] if role else []
    assoc = caller.associate("127.0.0.1", receiver.port, ext_neg=extended)
    if not assoc.is_established:
        return "no association"
    try:
        return Committer.report(assoc, result, event_type)
    finally:
        assoc.release()


@pytest.mark.parametrize(
    ("transaction_uid", "event_type", "status"), [("2.25.5", 1, 0x0115), ("2.25.5", 7, 0x0113), ("", 1, 0x0115)]
)
def test_report_that_nobody_asked_for_changes_nothing(make_outbox, pacs, receiver, transaction_uid, event_type, status):
    pacs.silent = 1
    outbox = make_outbox(PARTING)
    outbox.add("pacs")
    outbox.deliver()
    assert report(receiver, result_of(transaction_uid, "2.25.1001"), event_type, scp_role=True) == status
    assert outbox.row().state == "uncommitted"


def test_late_answer_to_the_first_request_counts_after_the_second(make_outbox, pacs, receiver):
    pacs.silent = 2
    outbox = make_outbox(PARTING)
    outbox.add("pacs")
    outbox.deliver()
    first = outbox.row().transaction_uid
    outbox.pass_time(WAIT_S)
    outbox.deliver()
    assert outbox.row().transaction_uid != first
    assert report(receiver, result_of(first, "2.25.1001"), scp_role=True) == 0
    assert outbox.row().state == "committed"


def test_only_an_scp_may_report(receiver):
    assert report(receiver, result_of("2.25.5", "2.25.1001")) == "no association"
