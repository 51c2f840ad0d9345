"""Storage commitment with a real Orthanc, which reports on an association of its own to our receiver."""

import pytest

from dicomnode.config import DeliverySettings, PeerSettings, ReceiverSettings
from dicomnode.db import migrate
from dicomnode.db.session import Database
from dicomnode.domain.lifecycle import State
from dicomnode.flow.commit import Commitments
from dicomnode.network.scp import StorageSCP, StoreAnswer
from tests.hospital import wait_for
from tests.needs import require
from tests.outbox import Outbox
from tests.peers.orthanc import Orthanc

pytestmark = pytest.mark.orthanc
SETTINGS = DeliverySettings(
    first_retry_s=1, max_retry_s=8, connect_timeout_s=60, network_timeout_s=60, commitment_wait_s=0.1
)


@pytest.fixture
def node(tmp_path):
    """A database and our receiver."""
    database = Database(f"sqlite:///{tmp_path / 'dicomnode.sqlite'}")
    migrate.upgrade(database)
    rejected = []
    scp = StorageSCP(
        ReceiverSettings(host="127.0.0.1", port=0),
        "DICOMNODE",
        {"pacs": PeerSettings(ae_title="ORTHANC")},
        lambda _request: StoreAnswer(),
        rejected.append,
        on_commitment=Commitments(database, SETTINGS).settle,
    )
    scp.start()
    yield database, scp
    scp.stop(deadline_s=0)
    database.close()
    assert rejected == []


@pytest.fixture
def archive(tmp_path, free_port, node):
    require("Orthanc")
    running = Orthanc(tmp_path / "orthanc", free_port(), free_port(), {"DICOMNODE": node[1].port})
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture
def outbox(node, archive, tmp_path):
    peer = PeerSettings(
        ae_title="ORTHANC", host="127.0.0.1", port=archive.dicom_port, destination=True, commitment=True
    )
    return Outbox(node[0], tmp_path / "spool", {"pacs": peer}, SETTINGS)


def test_orthanc_commits_to_what_it_was_sent(outbox):
    versions = [outbox.add("pacs"), outbox.add("pacs")]
    outbox.deliver()
    wait_for(lambda: outbox.states() == ["committed", "committed"], explain=lambda: str(outbox.rows()[0].error))
    assert [outbox.state(version) for version in versions] == [State.DONE, State.DONE]


def test_orthanc_that_lost_an_object_gets_it_again(outbox, archive):
    outbox.add("pacs")
    ask = outbox.deliveries._commitments.ask
    outbox.deliveries._commitments.ask = lambda *_: archive.delete(f"/instances/{archive.find('Instance')[0]['ID']}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outbox.deliveries, "_serve", once(outbox.deliveries._serve))
        outbox.deliver()
    outbox.deliveries._commitments.ask = ask
    assert outbox.states() == ["uncommitted"]
    outbox.deliver()
    wait_for(lambda: outbox.states() == ["waiting"])
    assert "not committed: 0x0112" in outbox.row().error
    outbox.pass_time(8)
    outbox.deliver()
    wait_for(lambda: outbox.states() == ["committed"])


def once(serve):
    """`serve`, which then says that there is no more to do."""
    return lambda what: serve(what) and False
