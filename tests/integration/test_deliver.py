"""Deliveries that settle at once, on both databases."""

import threading
from datetime import UTC, datetime

import pytest
from sqlalchemy import update

from dicomnode.db import deliveries, results, studies
from dicomnode.db.tables import StudyVersion
from dicomnode.domain.lifecycle import DeliveryState, State
from dicomnode.domain.study import InstanceHeader
from dicomnode.flow.finish import finish_version

NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def version_id(database):
    """A version in DELIVERING with two due deliveries."""
    header = InstanceHeader("1.2.840.10008.5.1.4.1.1.2", "1.2.3.1", "1.2.840.10008.1.2.1", "1.2.3", "1.2.3.9")
    with database.write() as session:
        file, sender = studies.StoredFile("x", 1, "a"), studies.Sender("CT", "127.0.0.1")
        version_id = studies.add_instance(session, header, file, sender, NOW)
        session.execute(update(StudyVersion).values(state=State.DELIVERING))
        evidence = results.Evidence("sr", "1.2", "2.25.1", "2.25.2", "AI", file)
        results.add_evidence(session, version_id, evidence, ["a", "b"], NOW)
    return version_id


def test_version_is_done_when_its_last_two_deliveries_settle_at_once(database, version_id):
    with database.read() as session:
        first, second = (d.id for d, _ in results.deliveries_of(session, version_id))
    settled, second_began = threading.Event(), threading.Event()

    def settle(session, delivery_id):
        (due,) = (d for name in "ab" for d in deliveries.due(session, name, NOW, 9) if d.delivery_id == delivery_id)
        sent = deliveries.Attempt(DeliveryState.SENT, "accepted", NOW, "2.25.1", 1.0, 0, None, "")
        assert deliveries.settle(session, due, sent, NOW)
        finish_version(session, version_id, NOW)

    def settle_second():
        settled.wait(10)
        second_began.set()
        with database.write() as session:
            settle(session, second)

    thread = threading.Thread(target=settle_second)
    thread.start()
    with database.write() as session:
        settle(session, first)
        settled.set()
        second_began.wait(10)
        thread.join(0.5)  # the second transaction runs as far as it can while this one is open
        assert thread.is_alive()
    thread.join(30)
    with database.read() as session:
        assert studies.version(session, version_id).state == State.DONE
