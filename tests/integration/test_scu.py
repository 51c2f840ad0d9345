"""Sending over loopback: to our own receiver, and to a pynetdicom acceptor that answers what a test wants."""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID
from pynetdicom import evt

from dicomnode.config import DeliverySettings, PeerSettings
from dicomnode.errors import PeerRefused, PeerUnavailable
from dicomnode.network import scu
from dicomnode.network.scu import RESULT_SOP_CLASSES, echo, send
from dicomnode.network.status import Outcome
from tests.acceptor import Acceptor

CT, SR, SC = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.7"
VERIFICATION = "1.2.840.10008.1.1"
IMPLICIT, EXPLICIT, JPEG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.50"
SETTINGS = DeliverySettings(connect_timeout_s=2, network_timeout_s=2)


@pytest.fixture
def pacs() -> Iterator[Callable[..., Acceptor]]:
    running: list[Acceptor] = []

    def start(
        contexts: dict[str, list[str]] | None = None, answer: Callable[[evt.Event], int] = lambda _e: 0
    ) -> Acceptor:
        running.append(Acceptor(contexts or {VERIFICATION: [IMPLICIT], CT: [EXPLICIT]}, answer))
        return running[-1]

    yield start
    for one in running:
        one.close()


@pytest.fixture
def dicom_file(tmp_path: Path) -> Callable[..., Path]:
    def make(number: int = 1, sop_class: str = CT, syntax: str = EXPLICIT, *, has_meta: bool = True) -> Path:
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID = sop_class, f"1.2.{number}"
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.PatientName = "1.3", "1.4", "Doe^Jane"
        ds.LossyImageCompression = "00"
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
        meta.TransferSyntaxUID = UID(syntax)
        path = tmp_path / f"{number}.dcm"
        if has_meta:
            ds.file_meta = meta
            ds.save_as(path, enforce_file_format=True)
        else:
            ds.save_as(path, implicit_vr=syntax == IMPLICIT, little_endian=True)
        return path

    return make


def data_set_bytes(path: Path) -> bytes:
    raw = path.read_bytes()
    length = struct.unpack_from("<I", raw, 140)[0]
    return raw[144 + length :]


def test_echo_says_what_the_peer_would_take(pacs):
    peer = pacs({VERIFICATION: [IMPLICIT], SR: [IMPLICIT], SC: [EXPLICIT]}).peer

    result = echo(peer, "DICOMNODE", SETTINGS)

    assert result.is_alive
    assert 0 < result.ms < 2000
    assert {uid for uid, accepted in result.accepts.items() if accepted} == {SR, SC}
    assert result.accepts.keys() == RESULT_SOP_CLASSES.keys()


def test_a_peer_without_verification_refuses_the_echo(pacs):
    with pytest.raises(PeerRefused, match="does not accept Verification"):
        echo(pacs({SR: [IMPLICIT]}).peer, "DICOMNODE", SETTINGS)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_a_peer_that_is_down_is_unavailable_with_its_address():
    port = free_port()
    with pytest.raises(PeerUnavailable, match=f"PACS at 127.0.0.1:{port} cannot be reached"):
        echo(PeerSettings(ae_title="PACS", host="127.0.0.1", port=port), "DICOMNODE", SETTINGS)


def test_a_peer_whose_name_is_unknown_is_unavailable():
    with pytest.raises(PeerUnavailable, match=r"PACS at no\.such\.host\.invalid:104"):
        echo(PeerSettings(ae_title="PACS", host="no.such.host.invalid", port=104), "DICOMNODE", SETTINGS)


def test_a_peer_without_address_is_refused_before_anything_is_sent():
    with pytest.raises(PeerRefused, match="no host or port"):
        echo(PeerSettings(ae_title="PACS"), "DICOMNODE", SETTINGS)


def test_a_silent_peer_is_unavailable_after_the_timeout():
    with socket.create_server(("127.0.0.1", 0)) as server:
        peer = PeerSettings(ae_title="PACS", host="127.0.0.1", port=server.getsockname()[1])
        began = time.monotonic()
        with pytest.raises(PeerUnavailable, match="did not answer"):
            echo(peer, "DICOMNODE", DeliverySettings(connect_timeout_s=1, network_timeout_s=0.3))
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(("result", "error"), [(1, PeerRefused), (2, PeerUnavailable)])
def test_a_rejected_association_is_permanent_or_transient_as_the_peer_says(pacs, result, error):
    peer = pacs()

    def reject(event: evt.Event) -> None:
        event.assoc.acse.send_reject(result, 1, 3)
        event.assoc.kill()

    peer.server.bind(evt.EVT_REQUESTED, reject)
    with pytest.raises(error, match="rejects the association of DICOMNODE: Calling AE title not recognised"):
        echo(peer.peer, "DICOMNODE", SETTINGS)


def test_files_arrive_byte_for_byte_in_one_association(pacs, dicom_file):
    receiver = pacs({CT: [EXPLICIT, IMPLICIT], SC: [JPEG]})
    files = [dicom_file(1), dicom_file(2, syntax=IMPLICIT), dicom_file(3, SC, JPEG)]

    results = list(send(receiver.peer, "DICOMNODE", files, SETTINGS))

    assert [(result.path, result.status, result.outcome) for result in results] == [
        (path, 0, Outcome.ACCEPTED) for path in files
    ]
    assert receiver.received == [
        ("1.2.1", EXPLICIT, data_set_bytes(files[0])),
        ("1.2.2", IMPLICIT, data_set_bytes(files[1])),
        ("1.2.3", JPEG, data_set_bytes(files[2])),
    ]
    assert receiver.calling == ["DICOMNODE"]
    assert [(result.sop_class_uid, result.sop_instance_uid) for result in results][2] == (SC, "1.2.3")


@pytest.mark.parametrize(("stored", "accepted"), [(EXPLICIT, IMPLICIT), (IMPLICIT, EXPLICIT)])
def test_uncompressed_little_endian_is_converted_if_the_peer_takes_only_the_other(pacs, dicom_file, stored, accepted):
    receiver = pacs({CT: [accepted]})
    path = dicom_file(1, syntax=stored)

    results = list(send(receiver.peer, "DICOMNODE", [path], SETTINGS))

    assert [result.outcome for result in results] == [Outcome.ACCEPTED]
    instance, syntax, data = receiver.received[0]
    assert (instance, syntax) == ("1.2.1", accepted)
    assert data == data_set_bytes(dicom_file(1, syntax=accepted))


def test_what_the_peer_does_not_accept_is_refused_in_words_and_the_rest_is_sent(pacs, dicom_file):
    receiver = pacs({CT: [EXPLICIT]})
    files = [dicom_file(1, SC), dicom_file(2, CT, JPEG), dicom_file(3)]

    results = list(send(receiver.peer, "DICOMNODE", files, SETTINGS))

    assert [(result.status, result.outcome) for result in results] == [
        (None, Outcome.REFUSED),
        (None, Outcome.REFUSED),
        (0, Outcome.ACCEPTED),
    ]
    assert "does not accept Secondary Capture Image Storage as Explicit VR Little Endian" in results[0].comment
    assert "JPEG Baseline" in results[1].comment


def test_a_peer_that_accepts_nothing_refuses(pacs, dicom_file):
    with pytest.raises(PeerRefused, match="accepts none of the proposed"):
        list(send(pacs({SR: [IMPLICIT]}).peer, "DICOMNODE", [dicom_file()], SETTINGS))


STATUSES = {0xB007: Outcome.WARNING, 0xA700: Outcome.RETRY, 0xA900: Outcome.REFUSED, 0x0124: Outcome.REFUSED}


@pytest.mark.parametrize(("status", "outcome"), STATUSES.items())
def test_the_peers_status_and_comment_are_passed_on(pacs, dicom_file, status, outcome):
    response = Dataset()
    response.Status, response.ErrorComment = status, "disk 7 is full"

    (result,) = send(pacs(answer=lambda _event: response).peer, "DICOMNODE", [dicom_file()], SETTINGS)

    assert (result.status, result.outcome) == (status, outcome)
    assert result.comment.startswith(f"0x{status:04X} (")
    assert result.comment.endswith(": disk 7 is full")


def test_an_association_lost_midway_leaves_the_rest_for_later(pacs, dicom_file):
    def answer(event: evt.Event) -> int:
        if event.request.AffectedSOPInstanceUID == "1.2.2":
            event.assoc.abort()
        return 0

    files = [dicom_file(number) for number in range(1, 5)]

    results = list(send(pacs(answer=answer).peer, "DICOMNODE", files, SETTINGS))

    assert [result.status for result in results] == [0, None, None, None]
    assert [result.outcome for result in results] == [Outcome.ACCEPTED, *[Outcome.UNAVAILABLE] * 3]
    assert "did not answer C-STORE" in results[1].comment
    assert "cut the association" in results[3].comment


def test_a_peer_that_does_not_answer_a_store_ends_in_time(pacs, dicom_file):
    go = threading.Event()

    def wait(_event: evt.Event) -> int:
        go.wait(10)
        return 0

    receiver = pacs(answer=wait)
    settings = DeliverySettings(connect_timeout_s=1, network_timeout_s=0.3)

    results = list(send(receiver.peer, "DICOMNODE", [dicom_file(1), dicom_file(2)], settings))

    go.set()
    assert [(result.status, result.outcome) for result in results] == [(None, Outcome.UNAVAILABLE)] * 2


def test_unreadable_files_are_reported_and_do_not_stop_the_others(pacs, dicom_file, tmp_path):
    text, empty, missing = tmp_path / "a.txt", tmp_path / "empty", tmp_path / "missing"
    text.write_text("not DICOM at all")
    empty.touch()

    results = list(send(pacs().peer, "DICOMNODE", [text, empty, missing, dicom_file()], SETTINGS))

    assert [result.outcome for result in results] == [*[Outcome.REFUSED] * 3, Outcome.ACCEPTED]
    assert all(result.comment.startswith("unreadable: ") for result in results[:3])


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_a_file_without_meta_information_is_sent(pacs, dicom_file, syntax):
    receiver = pacs({CT: [syntax]})
    path = dicom_file(1, syntax=syntax, has_meta=False)

    (result,) = send(receiver.peer, "DICOMNODE", [path], SETTINGS)

    assert result.outcome is Outcome.ACCEPTED
    assert receiver.received == [("1.2.1", syntax, path.read_bytes())]


def test_more_than_128_contexts_take_a_second_association(pacs, dicom_file, monkeypatch):
    monkeypatch.setattr(scu, "MAX_CONTEXTS", 2)
    receiver = pacs({CT: [EXPLICIT], SC: [EXPLICIT], SR: [EXPLICIT]})
    files = [dicom_file(1, CT), dicom_file(2, SC), dicom_file(3, SR), dicom_file(4, SR)]

    results = list(send(receiver.peer, "DICOMNODE", files, SETTINGS))

    assert [result.status for result in results] == [0] * 4
    assert len(receiver.calling) == 3


def test_a_reader_that_stops_early_releases_the_association(pacs, dicom_file):
    receiver = pacs()
    results = send(receiver.peer, "DICOMNODE", [dicom_file(1), dicom_file(2)], SETTINGS)
    next(results)
    results.close()
    assert len(receiver.received) == 1
    ends_at = time.monotonic() + 5
    while [thread for thread in threading.enumerate() if thread.name.startswith("Requestor")]:
        assert time.monotonic() < ends_at, "the association is still open"
        time.sleep(0.01)


def test_nagles_algorithm_is_off(pacs, dicom_file, monkeypatch):
    seen: list[int] = []
    store = scu._store

    def look(assoc, *arguments):
        seen.append(assoc.dul.socket.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        return store(assoc, *arguments)

    monkeypatch.setattr(scu, "_store", look)
    list(send(pacs().peer, "DICOMNODE", [dicom_file()], SETTINGS))
    assert seen
    assert all(seen)
