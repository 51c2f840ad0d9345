"""Rounds to a destination, on both databases: what is sent, what waits, what is dead, and why."""

import threading
from datetime import timedelta

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicomnode.config import PeerSettings
from dicomnode.db import deliveries, processes
from dicomnode.db.session import now
from dicomnode.db.tables import Delivery, Destination
from dicomnode.demo.pacs import DemoPACS
from dicomnode.domain.lifecycle import State
from dicomnode.domain.patience import back_off
from dicomnode.errors import DatabaseUnavailable
from dicomnode.evidence import variant_uid
from dicomnode.flow.deliver import order_rounds
from tests.acceptor import Acceptor
from tests.hospital import SR, free_port
from tests.outbox import PATIENT, WAIT_S, Outbox

VERIFICATION, EXPLICIT, IMPLICIT = "1.2.840.10008.1.1", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
COMPREHENSIVE, ENHANCED = "1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.88.22"


@pytest.fixture
def pacs(tmp_path):
    with DemoPACS(tmp_path / "pacs") as pacs:
        yield pacs


def peer_of(pacs):
    return PeerSettings(ae_title=pacs.ae_title, host="127.0.0.1", port=pacs.port, destination=True)


@pytest.fixture
def outbox(database, tmp_path, pacs):
    return Outbox(database, tmp_path / "spool", {"pacs": peer_of(pacs)})


@pytest.fixture
def acceptor():
    running = []

    def start(contexts, answer=lambda _event: 0):
        running.append(Acceptor({VERIFICATION: [IMPLICIT]} | contexts, answer))
        return running[-1]

    yield start
    for one in running:
        one.close()


@pytest.fixture
def one_report(database, tmp_path, acceptor):
    """An outbox with one report, and the acceptor that it goes to."""

    def start(contexts, answer=lambda _event: 0):
        pacs = acceptor(contexts, answer)
        outbox = Outbox(database, tmp_path / "spool", {"pacs": pacs.peer})
        outbox.add("pacs")
        return outbox, pacs

    return start


def counts(pacs):
    return [accepted.count for accepted in pacs.accepted]


def test_all_that_is_due_goes_over_one_association_the_most_urgent_first(database, tmp_path, acceptor):
    pacs = acceptor({SR: [EXPLICIT]})
    outbox = Outbox(database, tmp_path / "spool", {"pacs": pacs.peer})
    versions = [outbox.add("pacs", priority=priority) for priority in ("routine", "critical", "urgent")]
    outbox.deliver()
    assert [uid for uid, _, _ in pacs.received] == ["2.25.1002", "2.25.1003", "2.25.1001"]
    assert len(pacs.calling) == 1
    assert [outbox.state(version) for version in versions] == [State.DONE] * 3
    (attempt,) = outbox.attempts()
    assert (attempt.number, attempt.outcome, attempt.dimse_status) == (1, "accepted", 0)
    assert attempt.duration_ms > 0
    assert outbox.destination().accepts == [SR]
    assert outbox.destination().served_by is None


def test_more_than_an_association_carries_goes_over_the_next(database, tmp_path, acceptor):
    pacs = acceptor({SR: [EXPLICIT]})
    settings = PATIENT.model_copy(update={"objects_an_association": 2})
    outbox = Outbox(database, tmp_path / "spool", {"pacs": pacs.peer}, settings)
    for _ in range(5):
        outbox.add("pacs")
    outbox.deliver()
    assert outbox.states() == ["sent"] * 5
    assert len(pacs.calling) == 3


def test_refused_object_is_dead_with_status_and_comment_and_stops_no_other(one_report):
    def answer(event):
        response = Dataset()
        response.Status = 0xA900 if event.request.AffectedSOPInstanceUID == "2.25.1001" else 0
        response.ErrorComment = "no such patient"
        return response

    outbox, _ = one_report({SR: [EXPLICIT]}, answer)
    outbox.add("pacs")
    outbox.deliver()
    assert outbox.states() == ["dead", "sent"]
    (attempt,) = outbox.attempts()
    assert (attempt.dimse_status, attempt.outcome) == (0xA900, "refused")
    assert attempt.error == "0xA900 (data set does not match SOP class): no such patient"
    assert outbox.destination().failures == 0


def test_version_with_a_dead_delivery_has_failed_visibly(one_report):
    outbox, _ = one_report({SR: [EXPLICIT]}, lambda _event: 0xA900)
    version = outbox.add("pacs")
    outbox.deliver()
    assert outbox.state(version) is State.FAILED


def test_warning_is_accepted_and_its_status_is_shown(one_report):
    outbox, _ = one_report({SR: [EXPLICIT]}, lambda _event: 0xB000)
    outbox.deliver()
    assert outbox.row().state == "sent"
    assert outbox.row().dimse_status == 0xB000
    assert outbox.attempts()[0].outcome == "warning"


def test_transient_refusal_waits_for_its_own_back_off_and_is_no_failure_of_the_peer(outbox, pacs):
    outbox.add("pacs")
    pacs.refuse(0xA700, times=1)
    outbox.deliver()
    row = outbox.row()
    assert (row.state, row.attempts, row.dimse_status) == ("waiting", 1, 0xA700)
    assert outbox.destination().failures == 0
    assert row.next_at - outbox.attempts()[0].at == back_off(1000, 8000, 1, f"delivery {row.id}")
    outbox.deliver()
    assert outbox.row().attempts == 1
    outbox.pass_time(1000)
    outbox.deliver()
    assert outbox.row().state == "sent"
    assert [attempt.number for attempt in outbox.attempts()] == [1, 2]


def test_circuit_opens_after_three_failures_and_one_probe_lets_all_go(outbox, pacs):
    for _ in range(3):
        outbox.add("pacs")
    pacs.stop()
    for _ in range(3):
        outbox.deliver()
        outbox.pass_time(WAIT_S)
    opened = outbox.destination()
    assert (opened.state, opened.failures) == ("open", 3)
    assert "cannot be reached" in opened.last_error
    assert [row.attempts for row in outbox.rows()] == [3, 3, 3]

    late = outbox.add("pacs")
    outbox.deliver()
    probed = outbox.destination()
    assert (probed.state, probed.failures) == ("open", 4)
    assert [row.attempts for row in outbox.rows()] == [3, 3, 3, 0]
    assert outbox.states() == ["waiting"] * 4

    outbox.deliver()
    assert outbox.destination().failures == 4, "a probe came before its time"

    pacs.start()
    outbox.pass_time(WAIT_S)
    outbox.deliver()
    assert outbox.states() == ["sent"] * 4
    assert counts(pacs) == [1, 1, 1, 1]
    assert (outbox.destination().state, outbox.destination().failures) == ("closed", 0)
    assert outbox.state(late) is State.DONE


def test_before_the_circuit_opens_a_dead_peer_is_not_hammered(outbox, pacs):
    outbox.add("pacs")
    pacs.stop()
    outbox.deliver()
    outbox.add("pacs")
    outbox.deliver()
    assert outbox.destination().failures == 1
    assert [row.attempts for row in outbox.rows()] == [1, 0]
    assert outbox.states() == ["waiting", "waiting"]
    first, second = outbox.rows()
    assert first.next_at == second.next_at
    assert first.error == second.error


def test_peer_that_stores_and_cuts_the_line_gets_the_very_same_object_again(outbox, pacs):
    outbox.add("pacs")
    outbox.add("pacs")
    pacs.cut_after_store(1)
    outbox.deliver()
    assert outbox.states() == ["waiting", "waiting"]
    outbox.pass_time(WAIT_S)
    outbox.deliver()
    assert outbox.states() == ["sent", "sent"]
    assert counts(pacs) == [2, 1]
    assert [accepted.differing for accepted in pacs.accepted] == [0, 0]


def test_association_lost_midway_leaves_what_was_answered_settled(one_report):
    def answer(event):
        if event.request.AffectedSOPInstanceUID == "2.25.1002":
            event.assoc.abort()
        return 0

    outbox, _ = one_report({SR: [EXPLICIT]}, answer)
    outbox.add("pacs")
    outbox.add("pacs")
    outbox.deliver()
    assert outbox.states() == ["sent", "waiting", "waiting"]
    assert outbox.destination().failures == 1


@pytest.mark.parametrize("taken", [COMPREHENSIVE, ENHANCED])
def test_report_goes_in_the_sop_class_that_the_peer_takes(one_report, taken):
    outbox, pacs = one_report({taken: [EXPLICIT]})
    outbox.deliver()
    ((uid, _, _),) = pacs.received
    assert uid == variant_uid("2.25.1001", taken)
    made, sent = outbox.objects()
    assert outbox.row().state == "sent"
    assert outbox.row().sent_object_id == sent.id
    assert (sent.variant_of_id, sent.sop_class_uid, sent.sop_instance_uid) == (made.id, taken, uid)
    first, second = dcmread(outbox.root / made.path), dcmread(outbox.root / sent.path)
    assert second.ContentSequence == first.ContentSequence
    assert second.SOPClassUID == second.file_meta.MediaStorageSOPClassUID == taken
    with outbox.database.read() as session:
        from dicomnode.db import results, studies

        ((_, shown),) = results.deliveries_of(session, made.version_id)
        assert shown.sop_instance_uid == uid, "what is shown is not what was sent"
        assert studies.is_own_evidence(session, uid)


def test_variant_that_may_have_been_stored_is_sent_again_and_no_other(one_report):
    cuts = [1]

    def answer(event):
        if cuts:
            cuts.pop()
            event.assoc.abort()
        return 0

    outbox, pacs = one_report({COMPREHENSIVE: [EXPLICIT]}, answer)
    outbox.deliver()
    pacs.ae.add_supported_context(SR, [EXPLICIT])
    outbox.pass_time(WAIT_S)
    outbox.deliver()
    assert outbox.row().state == "sent"
    first, second = pacs.received
    assert first == second


def test_two_destinations_share_a_variant(database, tmp_path, acceptor):
    peers = {name: acceptor({ENHANCED: [EXPLICIT]}) for name in ("a", "b")}
    outbox = Outbox(database, tmp_path / "spool", {name: pacs.peer for name, pacs in peers.items()})
    version = outbox.add("a", "b")
    outbox.deliver("a")
    outbox.deliver("b")
    assert peers["a"].received == peers["b"].received
    assert len(outbox.objects()) == 2
    assert outbox.state(version) is State.DONE


def test_report_is_dead_in_words_where_the_peer_takes_no_structured_report(one_report):
    outbox, _ = one_report({"1.2.840.10008.5.1.4.1.1.7": [IMPLICIT]})
    outbox.deliver()
    row = outbox.row()
    assert row.state == "dead"
    assert "does not accept Comprehensive 3D SR Storage as Explicit VR Little Endian" in row.error
    assert "it accepts Secondary Capture Image Storage (Implicit VR Little Endian)" in row.error


def test_report_is_dead_where_the_peer_accepts_nothing_at_all(database, tmp_path):
    pacs = Acceptor({"1.2.840.10008.5.1.4.1.1.2": [EXPLICIT]})
    outbox = Outbox(database, tmp_path / "spool", {"pacs": pacs.peer})
    version = outbox.add("pacs")
    outbox.deliver()
    pacs.close()
    assert outbox.row().state == "dead"
    assert "accepts none of the proposed" in outbox.row().error
    assert outbox.state(version) is State.FAILED


def test_explicit_report_is_written_as_implicit_where_the_peer_takes_only_that(one_report):
    outbox, pacs = one_report({SR: [IMPLICIT]})
    outbox.deliver()
    ((uid, syntax, sent),) = pacs.received
    assert (uid, syntax) == ("2.25.1001", IMPLICIT)
    (made,) = outbox.objects()
    ds = dcmread(outbox.root / made.path)
    copy = Dataset(ds)
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset

    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, True
    write_dataset(buffer, copy)
    assert sent == buffer.getvalue()


def test_destination_that_another_living_process_serves_is_left_alone(outbox, pacs):
    outbox.add("pacs")
    with outbox.database.write() as session:
        processes.beat(session, executor_id="other", role="deliver", host="h", pid=1, at=now(session))
        deliveries.serve(session, "pacs", "other", ["other"], now(session))
    outbox.deliver()
    assert outbox.row().state == "due"
    with outbox.database.write() as session:
        processes.forget(session, "other")
    outbox.deliver()
    assert outbox.row().state == "sent"
    assert counts(pacs) == [1]


def test_process_that_lost_its_destination_meanwhile_sends_no_more(one_report):
    taken = threading.Event()

    def answer(_event):
        if not taken.is_set():
            taken.set()
            with outbox.database.write() as session:
                deliveries.serve(session, "pacs", "other", [], now(session))
        return 0

    outbox, pacs = one_report({SR: [EXPLICIT]}, answer)
    outbox.add("pacs")
    outbox.deliver()
    assert outbox.states() == ["sent", "due"]
    assert outbox.destination().served_by == "other"
    outbox.another("other").deliver()
    assert outbox.states() == ["sent", "sent"]
    assert [uid for uid, _, _ in pacs.received] == ["2.25.1001", "2.25.1002"]


def test_probe_of_a_process_that_died_is_repeated_at_once_by_who_takes_over(outbox, pacs):
    outbox.add("pacs")
    with outbox.database.write() as session:
        row = session.get_one(Destination, "pacs")
        row.state, row.failures, row.served_by = "half_open", 5, "dead"
        row.next_probe_at = now(session) + timedelta(seconds=100)
    outbox.deliver()
    assert outbox.row().state == "sent"


def test_what_was_tried_for_days_is_given_up_with_its_reason(outbox, pacs):
    version = outbox.add("pacs")
    pacs.stop()
    outbox.deliver()
    outbox.pass_time(7 * 86400 + 1)
    outbox.deliver()
    assert outbox.row().state == "dead"
    assert "cannot be reached" in outbox.row().error
    assert outbox.state(version) is State.FAILED


def test_what_waited_for_days_behind_an_open_circuit_is_given_up_too(outbox, pacs):
    pacs.stop()
    outbox.add("pacs")
    for _ in range(3):
        outbox.deliver()
        outbox.pass_time(WAIT_S)
    version = outbox.add("pacs")
    outbox.deliver()
    outbox.pass_time(7 * 86400 + 1)
    outbox.deliver()
    assert outbox.states() == ["dead", "dead"]
    assert outbox.rows()[1].error.startswith("given up after 7 days")
    assert outbox.state(version) is State.FAILED


def test_destination_without_settings_waits_and_says_so(database, tmp_path):
    outbox = Outbox(database, tmp_path / "spool", {})
    outbox.add("gone")
    outbox.deliver("gone")
    assert outbox.row("gone").state == "waiting"
    assert "there is no [peers.gone]" in outbox.row("gone").error


def test_missing_file_waits_for_the_spool(outbox):
    outbox.add("pacs")
    (evidence,) = outbox.objects()
    (outbox.root / evidence.path).unlink()
    outbox.deliver()
    assert outbox.row().state == "waiting"
    assert "cannot be read: No such file" in outbox.row().error
    assert outbox.destination().failures == 0


def test_answer_of_a_peer_is_kept_while_the_database_is_away(outbox, pacs, monkeypatch):
    outbox.add("pacs")
    settle, failures = deliveries.settle, [1, 1]

    def away(*arguments):
        if failures:
            failures.pop()
            raise DatabaseUnavailable("restarting")
        return settle(*arguments)

    monkeypatch.setattr(deliveries, "settle", away)
    outbox.deliver()
    assert outbox.row().state == "sent"
    assert counts(pacs) == [1]


class Orders:
    """A queue that only notes what was ordered."""

    def __init__(self):
        self.ordered, self.waiting = [], set()

    def add_round(self, _session, destination, _key):
        self.ordered.append(destination)
        self.waiting.add(destination)

    def rounds(self, _session):
        return self.waiting


def test_rounds_are_ordered_once_and_only_where_something_is_due(outbox, pacs):
    queue = Orders()
    order_rounds(outbox.database, queue)
    assert queue.ordered == []
    outbox.add("pacs")
    order_rounds(outbox.database, queue)
    order_rounds(outbox.database, queue)
    assert queue.ordered == ["pacs"]
    queue.waiting.clear()  # the round ended without having done anything
    order_rounds(outbox.database, queue)
    assert queue.ordered == ["pacs", "pacs"], "what is left is not left for long"
    queue.waiting.clear()
    outbox.deliver()
    order_rounds(outbox.database, queue)
    assert len(queue.ordered) == 2


def test_no_round_is_ordered_to_a_dead_destination_before_its_probe_is_due(outbox, pacs):
    queue = Orders()
    pacs.stop()
    outbox.add("pacs")
    for _ in range(3):
        outbox.deliver()
        outbox.pass_time(WAIT_S)
    outbox.deliver()
    order_rounds(outbox.database, queue)
    assert queue.ordered == []
    outbox.pass_time(WAIT_S)
    order_rounds(outbox.database, queue)
    assert queue.ordered == ["pacs"]


def test_two_processes_that_serve_at_once_send_each_object_once(outbox, pacs):
    for _ in range(12):
        outbox.add("pacs")
    with outbox.database.write() as session:
        for name in ("here", "there"):
            processes.beat(session, executor_id=name, role="deliver", host="h", pid=1, at=now(session))
    both = [threading.Thread(target=one.deliver) for one in (outbox, outbox.another("there"))]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(60)
    assert outbox.states() == ["sent"] * 12
    assert counts(pacs) == [1] * 12


def test_unreachable_port_is_a_failure_of_the_peer(database, tmp_path):
    peer = PeerSettings(ae_title="PACS", host="127.0.0.1", port=free_port())
    outbox = Outbox(database, tmp_path / "spool", {"pacs": peer})
    outbox.add("pacs")
    outbox.deliver()
    (attempt,) = outbox.attempts()
    assert (attempt.outcome, attempt.dimse_status) == ("unavailable", None)
    with outbox.database.read() as session:
        assert session.get_one(Delivery, outbox.row().id).next_at > attempt.at
