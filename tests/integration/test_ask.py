"""A study closes as soon as its source says that nothing is missing, and by the timer where it does not."""

import contextlib
from contextlib import ExitStack

import pytest

from dicomnode import config, engine
from dicomnode.db import holdings, migrate, studies
from dicomnode.db.session import Database
from dicomnode.demo import modality
from dicomnode.demo.pacs import DemoPACS
from dicomnode.domain.lifecycle import State
from dicomnode.errors import PeerRefused, PeerUnavailable
from dicomnode.flow import ask
from dicomnode.network.query import related_instances
from tests.chaos.ledger import study_images
from tests.hospital import free_port
from tests.integration.test_engine_contract import receive, states

SOURCE = config.PeerSettings(ae_title="CT1", host="127.0.0.1", port=1, sends=True, study_root=True)


@pytest.fixture
def database(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/rows.sqlite")
    migrate.upgrade(database)
    engine.create_tables(database.url)
    yield database
    database.close()


@pytest.fixture
def queue(database):
    with contextlib.closing(engine.Queue(database.url)) as queue:
        yield queue


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(ask, "FIRST_WAIT_S", 0.0)


def source(database, queue, answer, asked=None):
    def answers(peer, _ae_title, uid, _settings):
        if asked is not None:
            asked.append(uid)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return ask.Source(database, queue, config.Settings(peers={"ct": SOURCE}), answers)


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (2, State.QUEUED),
        (1, State.QUEUED),
        (3, State.RECEIVING),
        (None, State.RECEIVING),
        (PeerUnavailable("silent"), State.RECEIVING),
        (PeerRefused("no C-FIND"), State.RECEIVING),
    ],
    ids=["as many", "we have more", "one is missing", "does not know", "silent", "refuses"],
)
@pytest.mark.usefixtures("at_once")
def test_study_closes_when_its_source_has_no_more(database, queue, answer, state):
    receive(database, "1.1")
    receive(database, "1.2")
    source(database, queue, answer).close_complete_studies()
    assert states(database) == [(1, state)]


@pytest.mark.usefixtures("at_once")
def test_source_is_asked_a_few_times_and_again_when_more_has_arrived(database, queue):
    asked = []
    asking = source(database, queue, 9, asked)
    receive(database, "1.1")
    for _ in range(ask.TRIES + 3):
        asking.close_complete_studies()
    assert len(asked) == ask.TRIES
    receive(database, "1.2")
    asking.close_complete_studies()
    assert len(asked) == ask.TRIES + 1


@pytest.mark.usefixtures("at_once")
def test_source_that_cannot_be_asked_is_left_alone(database, queue):
    asked = []
    silent = SOURCE.model_copy(update={"study_root": False})
    asking = ask.Source(database, queue, config.Settings(peers={"ct": silent}), lambda *a: asked.append(a))
    receive(database, "1.1")
    assert asking.close_complete_studies() == 0
    assert asked == []


def test_a_pacs_counts_its_instances(tmp_path):
    images = study_images("ask", 1, 3)
    uid = str(images[0].StudyInstanceUID)
    with ExitStack() as stack:
        pacs = stack.enter_context(DemoPACS(tmp_path / "pacs"))
        modality.send(images, "127.0.0.1", pacs.port, "MODALITY", pacs.ae_title)
        peer = config.PeerSettings(ae_title=pacs.ae_title, host="127.0.0.1", port=pacs.port)
        assert related_instances(peer, "DICOMNODE", uid, config.DeliverySettings()) == 3
        assert related_instances(peer, "DICOMNODE", "1.2.3", config.DeliverySettings()) is None
    nobody = peer.model_copy(update={"port": free_port()})
    with pytest.raises(PeerUnavailable):
        related_instances(nobody, "DICOMNODE", uid, config.DeliverySettings(connect_timeout_s=2))


def test_receiving_versions_are_found_by_their_source(database):
    receive(database, "1.1")
    with database.read() as session:
        far = studies.version(session, 1).last_instance_at.replace(year=2100)
        assert len(holdings.receiving_from(session, ["CT1"], far, 5)) == 1
        assert holdings.receiving_from(session, ["CT2"], far, 5) == []
