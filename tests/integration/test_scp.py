"""The receiver on a loopback socket, with pynetdicom's requestor and raw PDUs as senders."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu import A_ASSOCIATE_RQ

from dicomnode.config import PeerSettings, ReceiverSettings
from dicomnode.errors import ConfigError, SpoolFull, UnreadableObject
from dicomnode.network.scp import Rejection, StorageSCP, StoreAnswer, StoreRequest
from dicomnode.network.status import Status

CT, SR, VERIFICATION = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.1.1"
IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
PEERS = {
    "ct": PeerSettings(ae_title="CT1", sends=True),
    "pacs": PeerSettings(ae_title="PACS", destination=True),
    "elsewhere": PeerSettings(ae_title="FAR", sends=True, addresses=("192.0.2.0/24",)),
}


class Receiver:
    """A running SCP, and what its callbacks saw."""

    def __init__(self, **settings: object) -> None:
        self.requests: list[StoreRequest] = []
        self.stored: list[bytes] = []
        self.rejections: list[Rejection] = []
        self.on_store: Callable[[StoreRequest], StoreAnswer] = lambda _request: StoreAnswer()
        values = ReceiverSettings.model_validate({"host": "127.0.0.1", "port": 0, **settings})
        self.scp = StorageSCP(values, "DICOMNODE", PEERS, self._store, self.rejections.append)
        self.scp.start()

    def _store(self, request: StoreRequest) -> StoreAnswer:
        answer = self.on_store(request)
        self.requests.append(request)
        self.stored.append(bytes(request.dataset))
        return answer


@pytest.fixture
def started() -> Iterator[Callable[..., Receiver]]:
    receivers: list[Receiver] = []

    def start(**settings: object) -> Receiver:
        receivers.append(Receiver(**settings))
        return receivers[-1]

    yield start
    for receiver in receivers:
        receiver.scp.stop(deadline_s=0)
    names = [thread.name for thread in threading.enumerate() if thread.name.startswith("Acceptor")]
    assert not names, "associations outlive the receiver"


@pytest.fixture
def receiver(started: Callable[..., Receiver]) -> Receiver:
    return started()


@contextlib.contextmanager
def association(receiver: Receiver, *contexts: tuple[str, list[str]], calling: str = "CT1", called: str = "DICOMNODE"):
    ae = AE(calling)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 10
    for abstract_syntax, transfer_syntaxes in contexts or ((CT, [EXPLICIT]),):
        ae.add_requested_context(abstract_syntax, transfer_syntaxes)
    assoc = ae.associate("127.0.0.1", receiver.scp.port, ae_title=called)
    try:
        yield assoc
    finally:
        if assoc.is_established:
            assoc.release()


def store(assoc, data: bytes = b"data set", *, sop_class: str = CT, instance: str = "1.2.3") -> Dataset:
    """Send a C-STORE request with any bytes as data set; return the status elements of the response."""
    request = C_STORE()
    request.MessageID, request.Priority, request.DataSet = 7, 2, BytesIO(data)
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = sop_class, instance
    assoc._reactor_checkpoint.clear()
    while not assoc._is_paused:
        time.sleep(0.001)
    context = assoc.accepted_contexts[0]
    assoc.dimse.send_msg(request, context.context_id)
    _, response = assoc.dimse.get_msg(block=True)
    assoc._reactor_checkpoint.set()
    assert response is not None, "no response"
    result = Dataset()
    result.Status = response.Status
    result.ErrorComment = response.ErrorComment or ""
    return result


def wait_for(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    ends_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends_at, "it did not happen"
        time.sleep(0.01)


def test_a_peer_of_the_list_may_echo(receiver):
    with association(receiver, (VERIFICATION, [IMPLICIT]), calling="PACS") as assoc:
        assert assoc.send_c_echo().Status == Status.SUCCESS


def test_a_data_set_arrives_as_it_was_sent(receiver):
    data = bytes(range(256)) * 2000
    with association(receiver, (CT, [EXPLICIT])) as assoc:
        assert store(assoc, data).Status == Status.SUCCESS

    request = receiver.requests[0]
    assert receiver.stored == [data]
    assert (request.sop_class_uid, request.sop_instance_uid) == (CT, "1.2.3")
    assert (request.transfer_syntax_uid, request.calling_ae_title) == (EXPLICIT, "CT1")
    assert request.calling_address == "127.0.0.1"
    assert request.implementation_version_name.startswith("PYNETDICOM")


SYNTAXES = [
    *(IMPLICIT, EXPLICIT, BIG, "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.201"),
    *("1.2.840.10008.1.2.5", "1.2.840.113619.5.2", "1.2.840.10008.1.2.4.999"),
]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_transfer_syntax_is_accepted(receiver, syntax):
    with association(receiver, (CT, [syntax])) as assoc:
        assert store(assoc).Status == Status.SUCCESS
    assert receiver.requests[0].transfer_syntax_uid == syntax


def test_the_first_syntax_of_the_sender_is_taken(receiver):
    with association(receiver, (CT, [BIG, IMPLICIT, EXPLICIT])) as assoc:
        assert assoc.accepted_contexts[0].transfer_syntax == [BIG]


STORAGE = {
    "of today": CT,
    "retired": "1.2.840.10008.5.1.4.1.1.6",
    "in no dictionary": "1.2.840.10008.5.1.4.1.1.99999",
    "private": "1.3.12.2.1107.5.9.1",
}


@pytest.mark.parametrize("sop_class", STORAGE.values(), ids=STORAGE.keys())
def test_storage_sop_classes_are_accepted(receiver, sop_class):
    with association(receiver, (sop_class, [EXPLICIT])) as assoc:
        assert store(assoc, sop_class=sop_class).Status == Status.SUCCESS
    assert receiver.requests[0].sop_class_uid == sop_class


def test_unknown_sop_classes_are_not_accepted_if_the_setting_says_so(started):
    receiver = started(accept_unknown_sop_classes=False)
    with association(receiver, ("1.3.12.2.1107.5.9.1", [EXPLICIT]), (CT, [EXPLICIT])) as assoc:
        assert [str(context.abstract_syntax) for context in assoc.accepted_contexts] == [CT]


@pytest.mark.parametrize(
    "sop_class", ["1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.1.20.1", "1.2.840.10008.5.1.4.38.1"]
)
def test_other_services_are_not_accepted(receiver, sop_class):
    with association(receiver, (sop_class, [EXPLICIT]), (CT, [EXPLICIT])) as assoc:
        assert [str(context.abstract_syntax) for context in assoc.accepted_contexts] == [CT]


@pytest.mark.parametrize(("calling", "words"), [("NOBODY", '"NOBODY", sends = true'), ("FAR", '"127.0.0.1"]')])
def test_a_peer_that_is_not_on_the_list_is_rejected_with_the_setting_to_change(receiver, calling, words):
    with association(receiver, calling=calling) as assoc:
        assert assoc.is_rejected
        answer = assoc.acceptor.primitive
        assert (answer.result, answer.result_source, answer.diagnostic) == (1, 1, 3)
    assert [(rejection.calling_ae_title, rejection.calling_address) for rejection in receiver.rejections] == [
        (calling, "127.0.0.1")
    ]
    assert words in receiver.rejections[0].setting


def test_unknown_peers_may_store_if_the_setting_says_so(started):
    receiver = started(accept_unknown_peers=True)
    with association(receiver, calling="NOBODY") as assoc:
        assert store(assoc).Status == Status.SUCCESS


def test_a_listed_peer_that_may_not_store_gets_0124_and_is_reported_once(receiver):
    with association(receiver, calling="PACS") as assoc:
        assert store(assoc).Status == Status.NOT_AUTHORIZED
        assert store(assoc).Status == Status.NOT_AUTHORIZED
    assert [rejection.setting for rejection in receiver.rejections] == ["[peers.pacs] sends = true"]
    assert not receiver.requests


def test_any_called_ae_title_is_accepted(receiver):
    with association(receiver, called="SOMEBODYELSE") as assoc:
        assert store(assoc).Status == Status.SUCCESS


def test_one_association_more_than_the_limit_is_rejected_for_now(started):
    receiver = started(max_associations=1)
    with association(receiver) as first:
        with association(receiver) as second:
            answer = second.acceptor.primitive
            assert (answer.result, answer.result_source, answer.diagnostic) == (2, 3, 2)
        assert store(first).Status == Status.SUCCESS
    assert receiver.rejections[0].setting == "[receiver] max_associations = 2"


def test_connections_without_a_request_do_not_count_as_associations(started):
    receiver = started(max_associations=1)
    idle = [socket.create_connection(("127.0.0.1", receiver.scp.port)) for _ in range(5)]
    with association(receiver) as assoc:
        assert store(assoc).Status == Status.SUCCESS
    for connection in idle:
        connection.close()


def test_a_connection_that_closes_without_a_request_leaves_no_thread(receiver):
    for _ in range(5):
        socket.create_connection(("127.0.0.1", receiver.scp.port)).close()
    with association(receiver) as assoc:
        assert store(assoc).Status == Status.SUCCESS
    wait_for(lambda: not receiver.scp._server.active_associations)


def raises(error: Exception) -> Callable[[StoreRequest], StoreAnswer]:
    def on_store(_request: StoreRequest) -> StoreAnswer:
        raise error

    return on_store


FAULTS = {
    "spool full": (SpoolFull("no space"), Status.OUT_OF_RESOURCES, "no space"),
    "unreadable": (UnreadableObject("cut at byte 7"), Status.CANNOT_UNDERSTAND, "cut at byte 7"),
    "bug": (KeyError("secret"), Status.OUT_OF_RESOURCES, "internal error"),
    "long and odd": (UnreadableObject("ä\\\n" * 100), Status.CANNOT_UNDERSTAND, ("?/?" * 22)[:64]),
}


@pytest.mark.parametrize(("error", "status", "comment"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_of_the_callback_is_a_status_and_the_association_goes_on(receiver, error, status, comment):
    receiver.on_store = raises(error)
    with association(receiver) as assoc:
        response = store(assoc)
        assert (response.Status, response.ErrorComment) == (status, comment)
        receiver.on_store = lambda _request: StoreAnswer()
        assert store(assoc).Status == Status.SUCCESS


def test_the_callbacks_own_answer_is_sent(receiver):
    receiver.on_store = lambda _request: StoreAnswer(Status.DATA_SET_DOES_NOT_MATCH, "StudyInstanceUID differs")
    with association(receiver) as assoc:
        response = store(assoc)
    assert (response.Status, response.ErrorComment) == (0xA900, "StudyInstanceUID differs")


def test_c_store_on_a_verification_context_gets_0122(receiver):
    with association(receiver, (VERIFICATION, [IMPLICIT])) as assoc:
        assert store(assoc, sop_class=VERIFICATION).Status == Status.SOP_CLASS_NOT_SUPPORTED


def test_a_data_set_larger_than_the_limit_is_refused_and_not_kept(started):
    receiver = started(max_dataset_bytes=1 << 20)
    with association(receiver) as assoc:
        assert store(assoc, bytes(1 << 20)).Status == Status.SUCCESS
        response = store(assoc, bytes((1 << 20) + 500_000))
        assert (response.Status, "receiver.max_dataset_bytes" in response.ErrorComment) == (0xC000, True)
        assert store(assoc).Status == Status.SUCCESS
    assert [len(data) for data in receiver.stored] == [1 << 20, 8]


def test_an_endless_data_set_aborts_the_association(started):
    receiver = started(max_dataset_bytes=1 << 20)
    with association(receiver) as assoc, pytest.raises(AssertionError, match="no response"):
        store(assoc, bytes(3 << 20))
    assert not receiver.requests


def connect(receiver: Receiver) -> socket.socket:
    """Return a socket with an accepted association for CT on context 1."""
    item = b"".join(
        struct.pack(">BBH", kind, 0, len(value)) + value
        for kind, value in ((0x30, CT.encode()), (0x40, EXPLICIT.encode()))
    )
    context = struct.pack(">BBHBBBB", 0x20, 0, len(item) + 4, 1, 0, 0, 0) + item
    name = b"1.2.840.10008.3.1.1.1"
    maximum, implementation = struct.pack(">BBHI", 0x51, 0, 4, 16384), struct.pack(">BBH", 0x52, 0, 5) + b"1.2.3"
    user = struct.pack(">BBH", 0x50, 0, len(maximum) + len(implementation)) + maximum + implementation
    body = struct.pack(">HH", 1, 0) + b"DICOMNODE       " + b"CT1             " + bytes(32)
    body += struct.pack(">BBH", 0x10, 0, len(name)) + name + context + user
    request = struct.pack(">BBI", 1, 0, len(body)) + body
    A_ASSOCIATE_RQ().decode(request)  # what we write is one
    client = socket.create_connection(("127.0.0.1", receiver.scp.port), timeout=10)
    client.sendall(request)
    assert read_pdu(client)[0] == 2
    return client


def read_pdu(client: socket.socket) -> bytes:
    head = client.recv(6, socket.MSG_WAITALL)
    return head + client.recv(struct.unpack(">I", head[2:])[0], socket.MSG_WAITALL) if len(head) == 6 else b"\0"


def pdata(control: int, data: bytes) -> bytes:
    return struct.pack(">BBIIBB", 4, 0, len(data) + 6, len(data) + 2, 1, control) + data


def command(**changes: bytes | None) -> bytes:
    """Return a C-STORE-RQ command set; `changes` replace or drop elements by name."""
    elements = {
        "sop_class": (0x0002, CT.encode() + b"\0"),
        "field": (0x0100, struct.pack("<H", 1)),
        "message_id": (0x0110, struct.pack("<H", 9)),
        "priority": (0x0700, struct.pack("<H", 0)),
        "data_set_type": (0x0800, struct.pack("<H", 1)),
        "sop_instance": (0x1000, b"1.2.3\0"),
    }
    chosen = {name: (number, changes.get(name, value)) for name, (number, value) in elements.items()}
    body = b"".join(struct.pack("<HHI", 0, number, len(v)) + v for number, v in chosen.values() if v is not None)
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def status_in(answer: bytes) -> int:
    """Return the status of a C-STORE-RSP in one PDU."""
    assert answer[0] == 4, "no P-DATA-TF"
    at = answer.index(struct.pack("<HHI", 0, 0x0900, 2)) + 8
    return struct.unpack_from("<H", answer, at)[0]


def status_of(receiver: Receiver, **changes: bytes | None) -> int:
    """Return the status of the answer to a C-STORE with a changed command; a second one on the association succeeds."""
    with connect(receiver) as client:
        client.sendall(pdata(3, command(**changes)) + pdata(2, b"x"))
        status = status_in(read_pdu(client))
        stored = list(receiver.requests)
        client.sendall(pdata(3, command()) + pdata(2, b"x"))
        assert status_in(read_pdu(client)) == Status.SUCCESS
        receiver.requests[:] = stored
    return status


def test_what_the_raw_sender_of_these_tests_sends_is_stored(receiver):
    with connect(receiver) as client:
        client.sendall(pdata(3, command()) + pdata(0, b"data ") + pdata(2, b"set"))
        assert read_pdu(client)[0] == 4
    assert receiver.stored == [b"data set"]


CUTS = {"between fragments": pdata(0, b"half"), "inside a PDU": pdata(0, b"half")[:-2], "after the command": b""}


@pytest.mark.parametrize("last", CUTS.values(), ids=CUTS.keys())
def test_a_cut_transfer_is_not_stored(receiver, last):
    with connect(receiver) as client:
        client.sendall(pdata(3, command()) + last)
    wait_for(lambda: not receiver.scp._server.active_associations)
    assert not receiver.requests


def test_an_abort_in_the_middle_of_a_transfer_stores_nothing(receiver):
    with connect(receiver) as client:
        client.sendall(pdata(3, command()) + pdata(0, b"half") + struct.pack(">BBIBBBB", 7, 0, 4, 0, 0, 0, 0))
        wait_for(lambda: not receiver.scp._server.active_associations)
    assert not receiver.requests


HOPELESS = {
    "no message id": pdata(3, command(message_id=None)) + pdata(2, b"x"),
    "no field": pdata(3, command(field=None)) + pdata(2, b"x"),
    "unknown field": pdata(3, command(field=b"\x77\x77")) + pdata(2, b"x"),
    "garbage": pdata(3, b"\xff" * 60) + pdata(2, b"x"),
    "endless command": pdata(1, bytes(16000)) * 5,
    "fragment without header": struct.pack(">BBIIB", 4, 0, 5, 1, 1),
    "unknown PDU": b"\x09\0\0\0\0\x01x",
}


@pytest.mark.parametrize("message", HOPELESS.values(), ids=HOPELESS.keys())
def test_what_cannot_be_answered_aborts_the_association(receiver, message):
    with connect(receiver) as client:
        client.sendall(message)
        assert read_pdu(client)[0] == 7
    assert not receiver.requests


ODD_UIDS = [
    *(None, b"", b"\0", b"../../etc/passwd", b"..\\..\\x\xff\0", b"1.2/3", b"1..2", b"1.2.", b"abc", b"1.2\n3"),
    *(b"1." + b"2" * 63, b"1." + b"2" * 500, b"1.2\\1.3"),
]


@pytest.mark.parametrize("uid", ODD_UIDS)
def test_an_instance_uid_that_is_none_is_answered_and_goes_nowhere(receiver, uid):
    assert status_of(receiver, sop_instance=uid) == Status.INVALID_SOP_INSTANCE
    assert not receiver.requests


@pytest.mark.parametrize("uid", [b"1." + b"2" * 62, b"1.2.03\0"])
def test_an_instance_uid_of_64_characters_or_with_a_leading_zero_is_taken(receiver, uid):
    assert status_of(receiver, sop_instance=uid) == Status.SUCCESS
    assert receiver.requests[0].sop_instance_uid == uid.rstrip(b"\0").decode()
    assert receiver.requests[0].sop_class_uid == CT


@pytest.mark.parametrize("uid", [SR.encode(), VERIFICATION.encode(), b"1.2.3.4", b"no uid", b"", None])
def test_a_sop_class_that_is_not_the_contexts_gets_0122(receiver, uid):
    assert status_of(receiver, sop_class=uid) == Status.SOP_CLASS_NOT_SUPPORTED
    assert not receiver.requests


def test_a_request_that_says_it_has_no_data_set_is_answered(receiver):
    with connect(receiver) as client:
        client.sendall(pdata(3, command(data_set_type=b"\x01\x01")))
        assert status_in(read_pdu(client)) == Status.CANNOT_UNDERSTAND


def test_a_silent_association_is_ended(started):
    receiver = started(network_timeout_s=0.3)
    with connect(receiver) as client:
        client.sendall(pdata(3, command()))
        assert read_pdu(client)[0] == 7


def test_a_pdu_that_stalls_is_ended(started):
    receiver = started(network_timeout_s=0.3)
    with connect(receiver) as client:
        client.sendall(pdata(3, command()) + pdata(0, b"half")[:-2])
        client.settimeout(5)
        assert client.recv(1) in (b"", b"\x07")


def test_two_senders_at_once_are_served_side_by_side(receiver):
    both = threading.Barrier(2, timeout=10)

    def meet(_request: StoreRequest) -> StoreAnswer:
        both.wait()
        return StoreAnswer()

    receiver.on_store = meet
    statuses: list[int] = []

    def run(instance: str) -> None:
        with association(receiver) as assoc:
            statuses.extend(store(assoc, instance.encode() * 50_000, instance=instance).Status for _ in range(3))

    threads = [threading.Thread(target=run, args=(instance,)) for instance in ("1.1", "1.2")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [Status.SUCCESS] * 6
    for request, data in zip(receiver.requests, receiver.stored, strict=True):
        assert data == request.sop_instance_uid.encode() * 50_000


def test_stop_lets_a_running_store_end_and_ends_idle_associations(receiver):
    entered, go = threading.Event(), threading.Event()

    def slow(_request: StoreRequest) -> StoreAnswer:
        entered.set()
        assert go.wait(10)
        return StoreAnswer()

    receiver.on_store = slow
    statuses: list[int] = []

    def run() -> None:
        with association(receiver) as assoc:
            statuses.append(store(assoc).Status)

    with connect(receiver) as idle:
        sender = threading.Thread(target=run)
        sender.start()
        assert entered.wait(10)
        stopping = threading.Thread(target=receiver.scp.stop)
        stopping.start()
        assert read_pdu(idle)[0] == 7
        assert stopping.is_alive()
        go.set()
        stopping.join(10)
        sender.join(10)
    assert statuses == [Status.SUCCESS]
    assert len(receiver.stored) == 1


def test_stop_waits_for_a_data_set_on_its_way_but_not_longer_than_the_deadline(receiver):
    port = receiver.scp.port
    with connect(receiver) as client:
        client.sendall(pdata(3, command()) + pdata(0, b"half"))
        wait_for(lambda: any(assoc.dimse.message for assoc in receiver.scp._server.active_associations))
        began = time.monotonic()
        receiver.scp.stop(deadline_s=0.5)
        assert 0.5 <= time.monotonic() - began < 3
        assert read_pdu(client)[0] == 7
    assert not receiver.requests
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)


def test_a_port_that_is_taken_is_a_matter_of_settings(receiver):
    settings = ReceiverSettings(host="127.0.0.1", port=receiver.scp.port)
    second = StorageSCP(settings, "DICOMNODE", PEERS, receiver.on_store, receiver.rejections.append)
    with pytest.raises(ConfigError, match=f"receiver.port {receiver.scp.port}"):
        second.start()


def test_nagles_algorithm_is_off_on_accepted_sockets(receiver):
    seen: list[int] = []

    def look(_request: StoreRequest) -> StoreAnswer:
        for assoc in receiver.scp._server.active_associations:
            seen.extend([assoc.dul.socket.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)])
        return StoreAnswer()

    receiver.on_store = look
    with association(receiver) as assoc:
        store(assoc)
    assert seen
    assert all(seen)


def test_a_rejection_that_cannot_be_recorded_still_rejects(receiver):
    receiver.scp._on_rejected = raises(RuntimeError("no database"))
    with association(receiver, calling="NOBODY") as assoc:
        assert assoc.is_rejected


def test_an_error_in_the_check_of_a_peer_lets_nobody_in(receiver):
    receiver.scp._peers = None
    with association(receiver) as assoc:
        assert assoc.is_rejected
