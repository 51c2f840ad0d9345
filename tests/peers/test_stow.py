"""Results over the web: a real Orthanc with its DICOMweb plug-in takes them."""

import hashlib

import pytest

from dicomnode.config import DeliverySettings, PeerSettings
from dicomnode.evidence import encoded, variant
from dicomnode.network import stow
from dicomnode.network.scu import read_item
from dicomnode.network.status import Outcome
from tests.hospital import free_port
from tests.needs import missing
from tests.outbox import WAIT_S, Outbox, documents
from tests.peers.orthanc import dicomweb_plugin

pytestmark = pytest.mark.orthanc
SETTINGS = DeliverySettings(connect_timeout_s=60, network_timeout_s=60)


@pytest.fixture
def archive(orthanc):
    if dicomweb_plugin() is None:
        missing("Orthanc's DICOMweb plug-in (orthanc-dicomweb) is not installed: make peers")
    return orthanc


def peer_of(orthanc):
    return PeerSettings(ae_title="ORTHANC", stow_url=orthanc.dicomweb_url, destination=True)


def test_every_object_that_we_make_arrives_over_the_web(archive, tmp_path):
    sent = {}
    made = documents()
    made["variant"] = variant(encoded(made["measurement_report"]), "1.2.840.10008.5.1.4.1.1.88.33")
    with stow.connect(peer_of(archive), SETTINGS) as link:
        for name, ds in made.items():
            path = tmp_path / f"{name}.dcm"
            path.write_bytes(encoded(ds))
            result = link.store(read_item(path))
            assert (result.outcome, result.http_status) == (Outcome.ACCEPTED, 200), result.comment
            sent[str(ds.SOPInstanceUID)] = hashlib.sha256(path.read_bytes()).hexdigest()
    for uid, digest in sent.items():
        (found,) = archive.find("Instance", SOPInstanceUID=uid)
        assert hashlib.sha256(archive.download(str(found["ID"]))).hexdigest() == digest, "not byte for byte"


def test_web_destination_that_is_down_opens_its_circuit_and_is_probed(archive, database_url, tmp_path):
    from dicomnode.db import migrate
    from dicomnode.db.session import Database

    database = Database(database_url)
    migrate.upgrade(database)
    outbox = Outbox(database, tmp_path / "spool", {"pacs": peer_of(archive)})
    outbox.add("pacs")
    outbox.add("pacs")
    archive.stop()
    for _ in range(3):
        outbox.deliver()
        outbox.pass_time(WAIT_S)
    assert (outbox.destination().state, outbox.destination().failures) == ("open", 3)
    archive.start()
    outbox.pass_time(WAIT_S)
    outbox.deliver()
    assert outbox.states() == ["sent", "sent"]
    assert [row.http_status for row in outbox.rows()] == [200, 200]
    assert len(archive.find("Instance")) == 2
    database.close()


def test_address_without_a_server_is_unavailable():
    peer = PeerSettings(ae_title="X", stow_url=f"http://127.0.0.1:{free_port()}/dicom-web")
    with pytest.raises(Exception, match="cannot be reached"):
        stow.probe(peer, SETTINGS)
