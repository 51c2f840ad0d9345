"""DCMTK's programs against our receiver, and our sender against DCMTK's."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID

from dicomnode.config import DeliverySettings, PeerSettings, ReceiverSettings
from dicomnode.errors import PeerRefused, PeerUnavailable
from dicomnode.network.scp import StorageSCP, StoreAnswer, StoreRequest
from dicomnode.network.scu import echo, send
from dicomnode.network.status import Outcome, Status
from dicomnode.network.walk import walk

CT = "1.2.840.10008.5.1.4.1.1.2"
SYNTAXES = {
    "implicit": "1.2.840.10008.1.2",
    "explicit": "1.2.840.10008.1.2.1",
    "big endian": "1.2.840.10008.1.2.2",
    "deflated": "1.2.840.10008.1.2.1.99",
}
OPTIONS = {"implicit": "-xi", "explicit": "-xe", "big endian": "-xb", "deflated": "-xd"}
ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}  # else Debian's DCMTK waits 50 ms an image
PROGRAMS = ("echoscu", "storescu", "storescp")
MISSING = [program for program in PROGRAMS if shutil.which(program) is None]
pytestmark = [
    pytest.mark.dcmtk,
    pytest.mark.skipif(
        bool(MISSING) and "DICOMNODE_TEST_REQUIRE_PEERS" not in os.environ, reason=f"not installed: {MISSING}"
    ),
]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def dicom_file(tmp_path: Path):
    def make(number: int, syntax: str) -> Path:
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID = CT, f"1.2.{number}"
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.PatientName = "1.3", "1.4", "Doe^Jane"
        ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit = 64, 64, 16, 16, 15
        ds.SamplesPerPixel, ds.PixelRepresentation, ds.PhotometricInterpretation = 1, 0, "MONOCHROME2"
        ds.PixelData = bytes(range(256)) * 32
        ds["PixelData"].VR = "OW"
        ds.file_meta = FileMetaDataset()
        ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = CT, ds.SOPInstanceUID
        ds.file_meta.TransferSyntaxUID = UID(SYNTAXES[syntax])
        path = tmp_path / f"{number}.dcm"
        ds.save_as(path, enforce_file_format=True)
        return path

    return make


class Node:
    def __init__(self) -> None:
        self.received: list[tuple[str, str]] = []
        self.answer = StoreAnswer()
        peers = {"modality": PeerSettings(ae_title="MODALITY", sends=True), "pacs": PeerSettings(ae_title="PACS")}
        settings = ReceiverSettings(host="127.0.0.1", port=0)
        self.scp = StorageSCP(settings, "DICOMNODE", peers, self.store, lambda _rejection: None)
        self.scp.start()

    def store(self, request: StoreRequest) -> StoreAnswer:
        header = walk(request.dataset, request.transfer_syntax_uid)
        assert header.sop_instance_uid == request.sop_instance_uid
        self.received.append((request.sop_instance_uid, request.transfer_syntax_uid))
        return self.answer

    def address(self, calling: str) -> list[str]:
        return ["-aet", calling, "-aec", "DICOMNODE", "127.0.0.1", str(self.scp.port)]


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node()
    yield node
    node.scp.stop(deadline_s=0)


@pytest.fixture
def storescp(tmp_path: Path):
    """A running storescp with options; returns its peer settings and the folder that it writes to."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*options: str) -> tuple[PeerSettings, Path]:
        folder = tmp_path / "pacs"
        folder.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = ["storescp", "-od", str(folder), *options, str(port)]
        started.append(subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        ends_at = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except ConnectionRefusedError:
                assert time.monotonic() < ends_at, "storescp does not listen"
                time.sleep(0.05)
        return PeerSettings(ae_title="PACS", host="127.0.0.1", port=port), folder

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_echoscu_is_answered(node):
    assert run("echoscu", *node.address("MODALITY")).returncode == 0


def test_an_unknown_echoscu_is_told_why(node):
    result = run("echoscu", *node.address("NOBODY"))
    assert result.returncode != 0
    assert "Calling AE Title Not Recognized" in result.stderr


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_storescu_stores_in_every_uncompressed_syntax(node, dicom_file, syntax):
    files = [str(dicom_file(number, syntax)) for number in range(1, 4)]

    result = run("storescu", OPTIONS[syntax], *node.address("MODALITY"), *files)

    assert result.returncode == 0, result.stderr
    assert node.received == [(f"1.2.{number}", SYNTAXES[syntax]) for number in range(1, 4)]


def test_storescu_is_told_what_to_do(node, dicom_file):
    node.answer = StoreAnswer(Status.OUT_OF_RESOURCES, "disk nearly full")
    result = run("storescu", "-v", *node.address("MODALITY"), str(dicom_file(1, "explicit")))
    assert "Refused: OutOfResources" in result.stdout + result.stderr


def test_storescp_is_alive_and_takes_our_results(storescp):
    peer, _ = storescp()
    result = echo(peer, "DICOMNODE", DeliverySettings())
    assert result.is_alive
    assert all(result.accepts.values())


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_storescp_gets_the_pixels_that_were_sent(storescp, dicom_file, syntax):
    peer, folder = storescp("+xa")
    files = [dicom_file(number, syntax) for number in range(1, 4)]

    results = list(send(peer, "DICOMNODE", files, DeliverySettings()))

    assert [result.outcome for result in results] == [Outcome.ACCEPTED] * 3, results
    received = [dcmread(path) for path in sorted(folder.iterdir())]
    assert sorted(ds.SOPInstanceUID for ds in received) == ["1.2.1", "1.2.2", "1.2.3"]
    assert {ds.file_meta.TransferSyntaxUID for ds in received} == {SYNTAXES[syntax]}
    assert {ds.PixelData for ds in received} == {dcmread(files[0]).PixelData}


def test_a_storescp_that_refuses_everything_says_why(storescp):
    peer, _ = storescp("--refuse")
    with pytest.raises((PeerRefused, PeerUnavailable), match="rejects the association of DICOMNODE: "):
        echo(peer, "DICOMNODE", DeliverySettings())


def test_a_storescp_that_aborts_during_a_store_leaves_the_rest_for_later(storescp, dicom_file):
    peer, _ = storescp("--abort-during")
    files = [dicom_file(number, "explicit") for number in range(1, 3)]

    results = list(send(peer, "DICOMNODE", files, DeliverySettings()))

    assert [(result.status, result.outcome) for result in results] == [(None, Outcome.UNAVAILABLE)] * 2
