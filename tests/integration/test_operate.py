"""What an operator does by hand, on both databases, with the real engine."""

import contextlib
import threading
from datetime import timedelta

import pytest

from dicomnode import engine
from dicomnode.config import AnalysisSettings
from dicomnode.db import deadletters, deliveries, pauses, results, studies
from dicomnode.db.session import now
from dicomnode.db.tables import Destination
from dicomnode.domain.lifecycle import CircuitState, DeliveryState, Stage, State
from dicomnode.flow import operate
from dicomnode.flow.analyze import Analysis, give_up
from dicomnode.flow.bundles import BundleSet, BundlesInUse, OpenSet
from dicomnode.flow.close import force_close
from dicomnode.flow.deliver import order_rounds
from dicomnode.inference.predict import Examined
from tests import rows
from tests.hospital import wait_for
from tests.rows import T0

DEAD, SENT, WAITING, DUE = DeliveryState.DEAD, DeliveryState.SENT, DeliveryState.WAITING, DeliveryState.DUE


@pytest.fixture
def queue(database):
    engine.create_tables(database.url)
    with contextlib.closing(engine.Queue(database.url)) as queue:
        yield queue


def test_study_that_failed_in_analysis_is_queued_for_a_new_run(database, queue):
    version_id = rows.arrive(database)
    rows.stand(database, version_id, State.FAILED)
    done = operate.retry(database, queue, version_id, "operator jo")
    assert (done.is_done, done.said) == (True, "queued for analysis, run 2")
    version = rows.version(database, version_id)
    assert (version.state, version.run, version.attempts) == (State.QUEUED, 2, 0)
    assert rows.audited(database)[-1] == ("RETRIED", "operator jo")
    assert not operate.retry(database, queue, version_id, "operator jo").is_done


def test_study_that_failed_in_delivery_is_delivered_again_and_not_analyzed_again(database, queue):
    version_id = rows.arrive(database)
    rows.stand(database, version_id, State.DELIVERING)
    ids = rows.deliver(database, version_id, {"a": DEAD, "b": SENT})
    rows.fail_in_delivery(database, version_id)
    assert operate.retry(database, queue, version_id, "operator jo").is_done
    version = rows.version(database, version_id)
    assert (version.state, version.run) == (State.DELIVERING, 1)
    assert order_rounds(database, queue) == 1
    with database.read() as session:
        states = {d.id: (d.state, d.attempts) for d, _ in results.deliveries_of(session, version_id)}
    assert states == {ids["a"]: (DUE, 3), ids["b"]: (SENT, 3)}


def test_what_was_accepted_goes_again_where_it_is_asked_for(database, queue):
    version_id = rows.arrive(database)
    rows.stand(database, version_id, State.DONE)
    ids = rows.deliver(database, version_id, {"a": SENT})
    assert operate.resend(database, ids["a"], "operator jo").is_done
    assert rows.state(database, version_id) is State.DELIVERING
    assert order_rounds(database, queue) == 1
    assert operate.resend(database, ids["a"], "operator jo").said == "is on its way already"
    assert not operate.resend(database, 999, "operator jo").is_done


def test_resend_probes_a_destination_that_was_left_alone(database, queue):
    version_id = rows.arrive(database)
    rows.stand(database, version_id, State.DONE)
    ids = rows.deliver(database, version_id, {"a": SENT, "b": SENT})
    with database.write() as session:
        for name in ids:
            row = session.get_one(Destination, name)
            row.state, row.next_probe_at = CircuitState.OPEN, now(session) + timedelta(hours=1)
    assert operate.resend(database, ids["a"], "operator jo").is_done
    with database.read() as session:
        assert deliveries.to_serve(session, now(session)) == ["a"]


def test_resend_of_a_replaced_version_leaves_it_replaced(database, queue):
    first = rows.arrive(database, "1.1")
    rows.stand(database, first, State.DONE)
    ids = rows.deliver(database, first, {"a": SENT})
    rows.stand(database, rows.arrive(database, "1.2"), State.DONE)
    assert operate.resend(database, ids["a"], "operator jo").is_done
    assert rows.state(database, first) is State.SUPERSEDED


def test_reanalysis_is_a_new_version_of_all_images(database, queue):
    first = rows.arrive(database, "1.1")
    rows.arrive(database, "1.2")
    rows.stand(database, first, State.DONE)
    assert operate.reanalyze(database, queue, "1.2.3", "operator jo").said == "version 2 with 2 images is queued"
    assert rows.state(database, first) is State.SUPERSEDED
    with database.read() as session:
        second, _ = studies.versions_of(session, "1.2.3")[0]
        assert [i.sop_instance_uid for i, _ in studies.members(session, second.id)] == ["1.1", "1.2"]
    assert second.state == State.QUEUED
    assert second.uid != rows.version(database, first).uid
    assert ("version opened", "operator jo") in rows.audited(database)


@pytest.mark.parametrize("state", [State.QUEUED, State.ANALYZING, State.REPORTING])
def test_study_that_is_analyzed_anyway_is_not_analyzed_twice(database, queue, state):
    version_id = rows.arrive(database)
    rows.stand(database, version_id, state)
    assert operate.reanalyze(database, queue, "1.2.3", "operator jo").said.endswith("it is analyzed anyway")


def test_receiving_study_is_closed_by_hand(database, queue):
    version_id = rows.arrive(database)
    assert not operate.reanalyze(database, queue, "1.2.3", "operator jo").is_done
    assert force_close(database, queue, version_id, "operator jo")
    version = rows.version(database, version_id)
    assert (version.state, version.reason) == (State.QUEUED, "closed by operator")
    assert ("QUIET", "operator jo") in rows.audited(database)
    assert not force_close(database, queue, version_id, "operator jo")


def test_dead_letters_say_stage_reason_status_and_tries(database, queue):
    failed = [rows.arrive(database, study=f"1.{n}") for n in range(3)]
    rows.stand(database, failed[0], State.FAILED, reason="SpoolFileMissing: gone")
    rows.stand(database, failed[1], State.REPORTING)
    rows.fail_in_delivery(database, failed[1], T0 + timedelta(seconds=1))
    rows.stand(database, failed[2], State.DELIVERING)
    rows.deliver(database, failed[2], {"a": DEAD, "b": WAITING})
    rows.fail_in_delivery(database, failed[2], T0 + timedelta(seconds=2))
    with database.read() as session:
        letters = deadletters.dead_letters(session, limit=10)
        assert [(v.version_id, v.stage) for v in letters] == [
            (failed[2], "deliver"),
            (failed[1], "report"),
            (failed[0], "analyze"),
        ]
        assert (letters[0].destination, letters[0].dimse_status, letters[0].tries) == ("a", 0xA900, 3)
        assert letters[2].reason == "SpoolFileMissing: gone"
        recent = deadletters.dead_letters(session, limit=10, since=T0 + timedelta(seconds=1), stages=("report",))
        assert [v.version_id for v in recent] == [failed[1]]


def test_delivery_to_a_paused_destination_waits_and_the_others_go(database, queue):
    version_id = rows.arrive(database)
    rows.stand(database, version_id, State.DELIVERING)
    rows.deliver(database, version_id, {"a": WAITING, "b": WAITING})
    assert operate.pause(database, Stage.DELIVER, "a", "operator jo", "PACS is moved")
    assert not operate.pause(database, Stage.DELIVER, "a", "operator jo", "")
    assert order_rounds(database, queue) == 1
    assert operate.resume(database, Stage.DELIVER, "a", "operator jo")
    assert order_rounds(database, queue) == 1
    assert [a for a, _ in rows.audited(database)][-2:] == ["paused", "resumed"]


def test_pause_of_all_deliveries_holds_for_each_destination(database, queue):
    operate.pause(database, Stage.DELIVER, "", "operator jo", "")
    with database.read() as session:
        assert pauses.is_paused(session, Stage.DELIVER, "a")
        assert not pauses.is_paused(session, Stage.ANALYZE)


class Step:
    """The analyze step in a thread; its networks find nothing."""

    def __init__(self, database, queue, folder):
        opened = OpenSet(BundleSet(active=()), AnalysisSettings())
        self.close = opened.close
        opened.analyzer = self
        self.analysis = Analysis(database, folder, queue, BundlesInUse(opened), AnalysisSettings())
        self.seen, self.answers = [], []

    def examine(self, instances):
        self.seen.append(instances)
        return Examined((), ())

    def run(self, version_id):
        thread = threading.Thread(target=lambda: self.answers.append(self.analysis.analyze(version_id)))
        thread.start()
        return thread


@pytest.fixture
def step(database, queue, tmp_path):
    (tmp_path / "x").write_bytes(b"")
    with contextlib.closing(Step(database, queue, tmp_path)) as step:
        yield step


def test_paused_analysis_leaves_the_study_queued_until_it_is_resumed(database, step):
    version_id = rows.arrive(database, path="x")
    rows.stand(database, version_id, State.ANALYZING)  # its worker died: it must not run on either
    operate.pause(database, Stage.ANALYZE, "", "operator jo", "")
    thread = step.run(version_id)
    wait_for(lambda: rows.state(database, version_id) is State.QUEUED)
    assert step.seen == []
    operate.resume(database, Stage.ANALYZE, "", "operator jo")
    thread.join(30)
    assert len(step.seen) == 1
    version = rows.version(database, version_id)
    assert (version.state, version.attempts, version.run) == (State.SKIPPED, 1, 1)


def test_process_that_ends_during_a_pause_queues_the_study_again(database, queue, step):
    version_id = rows.arrive(database, path="x")
    rows.stand(database, version_id, State.QUEUED)
    operate.pause(database, Stage.ANALYZE, "", "operator jo", "")
    thread = step.run(version_id)
    step.analysis.stop()
    thread.join(30)
    assert step.answers == [False]
    version = rows.version(database, version_id)
    assert (version.state, version.attempts, version.run) == (State.QUEUED, 0, 2)


def test_analysis_that_never_began_is_given_up_from_the_queue(database):
    version_id = rows.arrive(database)
    rows.stand(database, version_id, State.QUEUED)
    give_up(database, version_id, "DecoderUnavailable: no process can be started")
    version = rows.version(database, version_id)
    assert (version.state, version.reason) == (State.FAILED, "DecoderUnavailable: no process can be started")
