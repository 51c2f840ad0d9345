"""DESIGN section 6 as tests, on both databases: what we rely on of the engine, and what we add to it.

The rest stands in `test_engine.py` (once committed then run, rollback, retries, take-over, no pickle, migrations) and
in `test_failpoints.py` (death in each step, poison study).
"""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from dicomnode import config, engine
from dicomnode.cli import roles
from dicomnode.db import migrate, processes, studies
from dicomnode.db.session import Database, now
from dicomnode.db.tables import Heartbeat
from dicomnode.demo.pacs import DemoPACS
from dicomnode.domain.lifecycle import Event, State
from dicomnode.domain.study import InstanceHeader
from dicomnode.errors import DatabaseUnavailable
from dicomnode.flow import sweep
from dicomnode.flow.close import close_quiet_studies, force_close
from dicomnode.flow.sweep import Reaper
from tests.bundles import manifest_values, write_bundle
from tests.chaos.cluster import Cluster
from tests.chaos.invariant import unsettled, violations
from tests.chaos.ledger import Ledger, send_until_acknowledged, study_images
from tests.hospital import free_port, wait_for
from tests.integration.test_engine import Worker, workflows

PERIOD_S = 30.0


@pytest.fixture
def database(database_url):
    database = Database(database_url)
    migrate.upgrade(database)
    engine.create_tables(database_url)
    yield database
    database.close()


@pytest.fixture
def queue(database):
    with contextlib.closing(engine.Queue(database.url)) as queue:
        yield queue


def add(database, queue, *numbers):
    with database.write() as session:
        for number in numbers:
            queue.add_study(session, f"2.25.{number}", number, 1)


def test_priority_of_a_queued_study_changes_by_one_update(database, queue):
    add(database, queue, 1, 2, 3)
    with database.write() as session:
        assert queue.set_priority(session, "2.25.3", 1, engine.STAT)
        assert not queue.set_priority(session, "2.25.9", 1, engine.STAT)
    with Worker(database.url, concurrency=1) as worker:
        wait_for(lambda: len(worker.reported) == 3)
        assert worker.analyzed == [3, 1, 2]
        with database.write() as session:
            assert not queue.set_priority(session, "2.25.3", 1, engine.ORDINARY), "it does not wait any more"


def test_version_that_is_queued_twice_runs_once(database, queue):
    add(database, queue, 1)
    add(database, queue, 1)
    with Worker(database.url) as worker:
        add(database, queue, 1)
        wait_for(lambda: [row.status for row in workflows(database)] == ["SUCCESS"])
    assert worker.analyzed == [1]


def test_finished_work_is_removed_and_waiting_work_is_not(database, queue):
    with Worker(database.url) as worker:
        add(database, queue, 1)
        wait_for(lambda: [row.status for row in workflows(database)] == ["SUCCESS"])
    assert worker.reported == [1]
    add(database, queue, 2)
    moment = datetime.now(UTC)
    assert queue.remove_finished(moment - timedelta(days=1)) == 0
    assert queue.remove_finished(moment + timedelta(days=1)) == 1
    assert [row.workflow_uuid for row in workflows(database)] == ["study/2.25.2/1"]


def test_step_waits_for_a_database_however_long_and_gives_nothing_up(database, queue, monkeypatch):
    monkeypatch.setattr(engine, "DATABASE_PAUSE_S", 0.01)
    away = [DatabaseUnavailable("away")] * 20

    def analyze(_version_id):
        if away:
            raise away.pop()
        return True

    with Worker(database.url, analyze=analyze) as worker:
        add(database, queue, 1)
        wait_for(lambda: worker.reported == [1])
    assert worker.given_up == []


@pytest.mark.postgresql
def test_killed_postgresql_comes_back_and_the_work_goes_on():
    going_on = threading.Event()
    with Cluster() as cluster, contextlib.closing(Database(cluster.url)) as database:
        migrate.upgrade(database)
        engine.create_tables(cluster.url)

        def analyze(_version_id):
            going_on.wait(120)
            with database.read() as session:
                return now(session) is not None

        with contextlib.closing(engine.Queue(cluster.url)) as queue, Worker(cluster.url, analyze=analyze) as worker:
            add(database, queue, 1)
            wait_for(lambda: worker.analyzed == [1])
            cluster.kill()
            going_on.set()
            cluster.start()
            wait_for(lambda: worker.reported == [1], 120)
            add(database, queue, 2)
            wait_for(lambda: worker.reported == [1, 2], 120)
            assert worker.given_up == []


def test_locked_sqlite_is_waited_for(tmp_path):
    url = f"sqlite:///{tmp_path}/rows.sqlite"
    with contextlib.closing(Database(url)) as database:
        migrate.upgrade(database)
        engine.create_tables(url)
        with contextlib.closing(engine.Queue(url)) as queue, Worker(url) as worker:
            other = sqlite3.connect(tmp_path / "rows.sqlite", isolation_level=None, check_same_thread=False)
            other.execute("BEGIN EXCLUSIVE")
            unlocking = threading.Timer(3, lambda: other.execute("COMMIT"))
            unlocking.start()
            add(database, queue, 1)
            wait_for(lambda: worker.reported == [1])
            unlocking.join()
            other.close()


# --- quiet time, versions ---


def receive(database, sop="1.2.3.1", study="1.2.3", at=None):
    header = InstanceHeader(
        "1.2.840.10008.5.1.4.1.1.2", sop, "1.2.840.10008.1.2.1", study, "1.2.3.9", {"Modality": "CT"}
    )
    with database.write() as session:
        file = studies.StoredFile(f"instances/{sop}", 10, sop)
        return studies.add_instance(session, header, file, studies.Sender("CT1", "::1"), at or now(session))


def listen(database, executor_id, since_s):
    with database.write() as session:
        moment = now(session)
        started = moment - timedelta(seconds=since_s)
        session.add(
            Heartbeat(executor_id=executor_id, role="receive", host="h", pid=1, started_at=started, seen_at=moment)
        )


def states(database):
    with database.read() as session:
        return [(v.number, State(v.state)) for v, _ in reversed(studies.versions_of(session, "1.2.3"))]


def test_quiet_time_starts_again_with_the_restart_of_any_receiver(database, queue):
    settings = config.Settings(study=config.StudySettings(quiet_period_s=PERIOD_S))
    with database.read() as session:
        long_ago = now(session) - timedelta(seconds=2 * PERIOD_S)
    receive(database, at=long_ago)
    assert close_quiet_studies(database, queue, settings) == 0, "nobody listens"
    listen(database, "old", 3 * PERIOD_S)
    listen(database, "restarted", 1)
    assert close_quiet_studies(database, queue, settings) == 0
    with database.write() as session:
        processes.forget(session, "restarted")
    assert close_quiet_studies(database, queue, settings) == 1
    assert [row.workflow_uuid.startswith("study/") for row in workflows(database)] == [True]


def test_operator_closes_a_version_that_is_not_quiet(database, queue):
    version_id = receive(database)
    assert force_close(database, queue, version_id, "operator ann")
    assert not force_close(database, queue, version_id, "operator ann")
    assert states(database) == [(1, State.QUEUED)]
    assert len(workflows(database)) == 1


@pytest.mark.parametrize("events", [(), (Event.STARTED,), (Event.STARTED, Event.ANALYZED)], ids=lambda e: f"{len(e)}")
def test_image_that_comes_while_a_version_is_busy_makes_one_whole_new_version(database, queue, events):
    first = receive(database, "1.1")
    force_close(database, queue, first, "test")
    with database.write() as session:
        for event in events:
            assert studies.advance(session, first, event, now(session))
    second = receive(database, "1.2")
    assert force_close(database, queue, second, "test") is (not events), "a busy version is waited for"
    with database.write() as session:
        for event in (Event.STARTED, Event.ANALYZED, Event.REPORTED)[len(events) :]:
            studies.advance(session, first, event, now(session))
    force_close(database, queue, second, "test")
    with database.read() as session:
        assert [i.sop_instance_uid for i, _ in studies.members(session, second)] == ["1.1", "1.2"]
    assert states(database)[1] == (2, State.QUEUED)


def test_two_receivers_of_one_study_at_once_make_one_version(database):
    together = threading.Barrier(2)

    def send(start):
        together.wait()
        for number in range(start, 20, 2):
            for _ in range(20):
                with contextlib.suppress(Exception):  # a race is run again by flow.receive
                    receive(database, f"1.{number}")
                    break

    threads = [threading.Thread(target=send, args=(start,)) for start in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert states(database) == [(1, State.RECEIVING)]
    with database.read() as session:
        assert studies.received_count(session, studies.versions_of(session, "1.2.3")[0][1].id) == 20


# --- fencing, several hosts ---


def test_attempt_that_is_not_the_newest_moves_nothing(database, queue):
    version_id = receive(database)
    force_close(database, queue, version_id, "test")
    with database.write() as session:
        studies.advance(session, version_id, Event.STARTED, now(session))
        frozen = studies.start_attempt(session, version_id)
        newest = studies.start_attempt(session, version_id)
    with database.write() as session:
        assert studies.advance(session, version_id, Event.ANALYZED, now(session), attempt=frozen) is None
        assert studies.advance(session, version_id, Event.ANALYZED, now(session), attempt=newest) is State.REPORTING


class Noting:
    """An engine and a queue that note what they are asked."""

    def __init__(self, executor_id):
        self.executor_id, self.asked = executor_id, []

    def holders(self, _session):
        return {"lost", self.executor_id}

    def take_over(self, lost):
        assert lost == {"lost"}
        self.asked.append(lost)

    def remove_finished(self, _before):
        return 0


def test_one_process_reaps_and_not_before_everybody_could_be_heard_after_a_pause(database):
    for executor_id, since_s in (("elder", 60), ("younger", 30)):
        with database.write() as session:
            at = now(session)
            started = at - timedelta(seconds=since_s)
            session.add(
                Heartbeat(executor_id=executor_id, role="deliver", host="h", pid=1, started_at=started, seen_at=at)
            )
    elder, younger = Noting("elder"), Noting("younger")
    reapers = [Reaper(database, noting, noting, config.Settings()) for noting in (elder, younger)]
    for moment_s in (1.0, 1.5):
        for reaper in reapers:
            reaper.run(moment_s)
    assert (len(elder.asked), len(younger.asked)) == (2, 0)
    reapers[0].run(100.0)
    reapers[0].run(104.0)
    assert len(elder.asked) == 2
    for moment_s in (107.0, 110.5):
        reapers[0].run(moment_s)
    assert len(elder.asked) == 3


def test_jump_of_the_database_clock_makes_nobody_silent(database, monkeypatch):
    with database.write() as session:
        at = now(session)
        for executor_id, role in (("elder", "deliver"), ("busy", "analyze")):
            session.add(Heartbeat(executor_id=executor_id, role=role, host="h", pid=1, started_at=at, seen_at=at))
    noting = Noting("elder")
    reaper = Reaper(database, noting, noting, config.Settings())
    clock = [at]
    monkeypatch.setattr(sweep, "now", lambda _session: clock[0])
    reaper.run(1.0)
    assert len(noting.asked) == 1
    clock[0] = at + timedelta(hours=1)
    with database.write() as session:  # the one that reaps was heard since, the other not yet
        processes.beat(session, executor_id="elder", role="deliver", host="h", pid=1, at=clock[0])
    for moment_s in (1.5, 6.0):
        reaper.run(moment_s)
    assert len(noting.asked) == 1
    clock[0] += timedelta(seconds=8)
    reaper.run(12.0)
    assert len(noting.asked) == 2


class Host:
    """A machine of its own, as far as the node can tell: settings file, process, one role."""

    def __init__(self, folder, name, role, text, point=""):
        file = folder / f"{name}.toml"
        file.write_text(text)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "DICOMNODE_FAILPOINT": point}
        self.log = (folder / f"{name}.log").open("wb")
        command = [sys.executable, "-m", "dicomnode", "serve", "--role", role, "--config", str(file)]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, env=environment)

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        self.process.wait(60)
        self.log.close()

    @property
    def is_frozen(self):
        with open(f"/proc/{self.process.pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "T"


@pytest.mark.postgresql  # on SQLite a frozen process may hold the lock of the one file
@pytest.mark.timeout(900)
@pytest.mark.parametrize("point", ["analyze.predicted", "report.kept"])
def test_frozen_host_loses_its_study_to_another_and_sends_no_second_report(tmp_path, postgresql_url, point):
    write_bundle(tmp_path / "bundles/small", manifest_values("small", "classifier"))
    port = free_port()
    with contextlib.ExitStack() as stack:
        pacs = stack.enter_context(DemoPACS(tmp_path / "pacs"))
        database = stack.enter_context(contextlib.closing(Database(postgresql_url)))
        migrate.upgrade(database)
        engine.create_tables(postgresql_url)
        text = f"""
[node]
data_dir = "{tmp_path}/spool"
[database]
url = "{database.url}"
[receiver]
host = "127.0.0.1"
port = {port}
min_free_bytes = 0
[study]
quiet_period_s = 0.3
[models]
directories = ["{tmp_path}/bundles"]
active = ["small"]
[peers.pacs]
ae_title = "{pacs.ae_title}"
host = "127.0.0.1"
port = {pacs.port}
destination = true
summary = false
[peers.modality]
ae_title = "MODALITY"
sends = true
"""
        for role in ("receive", "deliver"):
            stack.enter_context(Host(tmp_path, f"{role}1", role, text))
        frozen = stack.enter_context(Host(tmp_path, "analyze1", "analyze", text, f"{point}:1:stop"))
        other = stack.enter_context(Host(tmp_path, "analyze2", "analyze", text))
        wait_for(lambda: len(_alive(database)) == 4, 240)
        other.process.send_signal(signal.SIGSTOP)  # so that the first one takes the study
        ledger = Ledger(tmp_path / "ledger")
        send_until_acknowledged(study_images("frozen", 1, 2), [port], ledger, lambda: False)
        wait_for(lambda: frozen.is_frozen, 120)
        began = time.monotonic()
        other.process.send_signal(signal.SIGCONT)
        wait_for(lambda: not unsettled(database, ledger.studies), 120)
        print(f"done {time.monotonic() - began:.1f} s after its worker froze")
        frozen.process.send_signal(signal.SIGCONT)
        wait_for(lambda: frozen.process.pid in [p.pid for p in _alive(database)], 60)
        again = study_images("frozen", 2, 2)
        send_until_acknowledged(again, [port], ledger, lambda: False)
        wait_for(lambda: not unsettled(database, ledger.studies), 120)
        assert len(pacs.accepted) == 2
        assert [a.count for a in pacs.accepted] == [1, 1]
        assert violations(database, tmp_path / "spool", ledger.acknowledged, {"pacs": pacs}) == []


def _alive(database):
    with database.read() as session:
        return processes.alive(session, now(session))


def test_executor_ids_of_two_starts_differ():
    assert roles.new_executor_id() != roles.new_executor_id()
