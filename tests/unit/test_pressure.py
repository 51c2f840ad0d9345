"""Back-pressure: events once an episode, the database asked once a second."""

import shutil

import pytest

from dicomnode import spool
from dicomnode.config import ReceiverSettings
from dicomnode.db import migrate
from dicomnode.db.session import Database
from dicomnode.domain.lifecycle import State
from dicomnode.errors import QueueFull, SpoolFull
from dicomnode.flow.pressure import BackPressure
from tests import rows

LIMIT = 1000


@pytest.fixture
def database(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/rows.sqlite")
    migrate.upgrade(database)
    yield database
    database.close()


@pytest.fixture
def disk(monkeypatch):
    """A file system whose free bytes a test sets."""
    disk = Disk()
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: disk)
    return disk


class Disk:
    free = 10 * LIMIT


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def events(database):
    return [action for action, _ in rows.audited(database) if "full" in action]


def refused(pressure):
    with pytest.raises(SpoolFull):
        pressure.check_space(1)


def test_full_disk_is_one_event_however_many_images_come_and_one_when_it_is_over(database, disk, tmp_path):
    pressure = BackPressure(database, tmp_path, ReceiverSettings(min_free_bytes=LIMIT))
    pressure.check_space(1)
    disk.free = LIMIT
    refused(pressure)
    refused(pressure)
    disk.free = LIMIT + 5  # a little more than the watermark: taken, but not over yet
    pressure.check_space(1)
    disk.free = LIMIT
    refused(pressure)
    assert events(database) == ["spool full"]
    disk.free = 2 * LIMIT
    pressure.check_space(1)
    pressure.check_space(1)
    assert events(database) == ["spool full", "spool full no longer"]


def test_queue_is_counted_once_a_second_and_its_end_is_an_event(database, tmp_path):
    spool.prepare(tmp_path)
    clock = Clock()
    pressure = BackPressure(database, tmp_path, ReceiverSettings(max_queued_studies=1), clock)
    version_id = rows.arrive(database)
    rows.stand(database, version_id, State.QUEUED)
    with pytest.raises(QueueFull, match=r"1 studies are queued, receiver.max_queued_studies is 1"):
        pressure.check_queue("1.9")
    pressure.check_queue("1.2.3")
    with database.write() as session:
        rows.studies.advance(session, version_id, rows.Event.STARTED, rows.T0)
    with pytest.raises(QueueFull):
        pressure.check_queue("1.9")
    clock.now = 1.0
    pressure.check_queue("1.9")
    assert events(database) == ["queue full", "queue full no longer"]
