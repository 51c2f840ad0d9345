"""Rows of studies on SQLite; the same functions run on PostgreSQL in tests/integration."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, text

from dicomnode.db import deliveries, intake, migrate, results, studies
from dicomnode.db.session import Database
from dicomnode.db.tables import AuditEvent, SOPInstance, StudyVersion
from dicomnode.domain.codes import LUNG
from dicomnode.domain.findings import (
    AnomalyFinding,
    BundleIdentity,
    BundleResult,
    Code,
    Finding,
    Prediction,
    Priority,
    WhenUnusual,
    findings_digest,
)
from dicomnode.domain.lifecycle import DeliveryState, Event, State
from dicomnode.domain.study import InstanceHeader

T0 = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SENDER = studies.Sender("CT1", "127.0.0.1")


@pytest.fixture
def database(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/rows.sqlite")
    migrate.upgrade(database)
    yield database
    database.close()


def header(sop="1.2.3.1", study="1.2.3"):
    return InstanceHeader("1.2.840.10008.5.1.4.1.1.2", sop, "1.2.840.10008.1.2.1", study, "1.2.3.9", {"Modality": "CT"})


def arrive(database, sop="1.2.3.1", digest="a", at=T0, study="1.2.3"):
    with database.write() as session:
        file = studies.StoredFile(f"instances/{sop}{digest}", 10, digest)
        return studies.add_instance(session, header(sop, study), file, SENDER, at)


def arrive_in(session):
    return studies.add_instance(session, header(), studies.StoredFile("p", 1, "a"), SENDER, T0)


def close(database, version_id, at=T0 + timedelta(seconds=60)):
    with database.write() as session:
        return studies.close(session, studies.version(session, version_id), at, "quiet")


def state(database, version_id):
    with database.read() as session:
        return studies.version(session, version_id).state


def walk_through(database, version_id, *events):
    with database.write() as session:
        return [studies.advance(session, version_id, event, T0) for event in events]


def test_sqlite_writes_ahead_and_fully_synchronous(database):
    with database.read() as session:
        assert session.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert session.execute(text("PRAGMA synchronous")).scalar() == 2


def test_instances_of_a_study_share_its_receiving_version(database):
    assert arrive(database, "1.1") == arrive(database, "1.2")
    assert arrive(database, "1.3", study="1.9") != arrive(database, "1.4")


def test_late_instance_opens_a_second_version_with_all_instances(database):
    first = arrive(database, "1.1")
    assert close(database, first)
    second = arrive(database, "1.2", at=T0 + timedelta(seconds=90))
    assert second != first
    assert close(database, second, T0 + timedelta(seconds=120))
    with database.read() as session:
        assert [i.sop_instance_uid for i, _ in studies.members(session, first)] == ["1.1"]
        assert [i.sop_instance_uid for i, _ in studies.members(session, second)] == ["1.1", "1.2"]
    assert state(database, first) == State.SUPERSEDED


def test_other_bytes_of_a_known_uid_are_a_new_revision_in_a_new_version(database):
    first = arrive(database, "1.1", "a")
    close(database, first)
    second = arrive(database, "1.1", "b")
    close(database, second)
    with database.read() as session:
        assert [i.sha256 for i, _ in studies.members(session, first)] == ["a"]
        assert [(i.sha256, i.revision) for i, _ in studies.members(session, second)] == [("b", 2)]
        assert intake.seen(session, header("1.1"), "b").is_known
        assert not intake.seen(session, header("1.1"), "a").is_known
        assert "instance revised" in session.scalars(select(AuditEvent.action)).all()


def test_version_that_got_an_instance_since_it_was_looked_at_is_not_closed(database):
    version_id = arrive(database, "1.1")
    with database.read() as session:
        seen = studies.version(session, version_id)
    arrive(database, "1.2", at=T0 + timedelta(seconds=1))
    with database.write() as session:
        assert not studies.close(session, seen, T0 + timedelta(seconds=60), "quiet")
    assert state(database, version_id) == State.RECEIVING


def test_two_instances_in_one_tick_of_the_clock_still_differ_for_the_sweep(database):
    version_id = arrive(database, "1.1")
    with database.read() as session:
        seen = studies.version(session, version_id)
    arrive(database, "1.2", at=T0)
    with database.write() as session:
        assert not studies.close(session, seen, T0, "quiet")


def test_only_the_first_of_two_advances_wins(database):
    version_id = arrive(database)
    close(database, version_id)
    assert walk_through(database, version_id, Event.STARTED, Event.STARTED) == [State.ANALYZING, None]


def test_newer_version_waits_while_the_older_one_is_analyzed(database):
    first = arrive(database, "1.1")
    close(database, first)
    walk_through(database, first, Event.STARTED)
    second = arrive(database, "1.2")
    with database.read() as session:
        assert studies.quiet_versions(session, T0 + timedelta(days=1)) == []
    walk_through(database, first, Event.ANALYZED, Event.REPORTED)
    with database.read() as session:
        assert [v.id for v in studies.quiet_versions(session, T0 + timedelta(days=1))] == [second]


def test_each_change_of_state_has_its_audit_row(database):
    version_id = arrive(database)
    close(database, version_id)
    walk_through(database, version_id, Event.STARTED, Event.NO_MODEL)
    with database.read() as session:
        actions = session.scalars(select(AuditEvent.action).order_by(AuditEvent.id)).all()
    assert actions == ["version opened", "QUIET", "STARTED", "NO_MODEL"]


def test_rolled_back_transaction_leaves_nothing(database):
    with pytest.raises(TypeError), database.write() as session:
        studies.advance(session, arrive_in(session), Event.QUIET, at=T0, no_such_argument=1)
    with database.read() as session:
        assert session.scalars(select(SOPInstance)).all() == []
        assert session.scalars(select(StudyVersion)).all() == []


RESULTS = (
    BundleResult(
        bundle=BundleIdentity("cls", "1.0", "classifier", "Title", "d1", "w1", ("input 128x128",)),
        predictions=(Prediction("1.1", "Pneumonia", 0.1 + 0.2, 0.5),),
        findings=(
            Finding("Pneumonia", Code("233604007", "SCT", "Pneumonia"), LUNG, 0.1 + 0.2, 0.25, Priority.URGENT, "1.1"),
        ),
        assessed=("1.1",),
    ),
    BundleResult(
        bundle=BundleIdentity("ae", "1.0", "anomaly", "Title", "d2", "w2"),
        anomaly=AnomalyFinding("Anomaly score", 1.5, 2.5, 71.0, "1.1"),
        assessed=("1.1",),
    ),
    BundleResult(bundle=BundleIdentity("ct", "1.0", "classifier", "T", "d3", "w3"), not_applicable="modality DX"),
    BundleResult(
        bundle=BundleIdentity("gated", "1.0", "classifier", "T", "d4", "w4"),
        findings=(Finding("A", LUNG, None, 0.9, 0.5, Priority.ROUTINE, "1.1", is_from_unusual=True),),
        withheld=(Finding("B", LUNG, None, 0.8, 0.5, Priority.CRITICAL, "1.1", is_from_unusual=True),),
        when_unusual=WhenUnusual.SUPPRESS,
    ),
)


def test_results_come_back_from_rows_as_they_were(database):
    version_id = arrive(database, "1.1")
    for _ in range(2):  # a repeated step replaces, and never doubles
        with database.write() as session:
            results.add_results(session, version_id, RESULTS, Priority.URGENT, T0, 0.5)
    with database.read() as session:
        found = results.results_of(session, version_id)
    assert found == RESULTS
    assert findings_digest(found) == findings_digest(RESULTS)


def test_evidence_is_added_once_with_one_delivery_a_destination(database):
    version_id = arrive(database)
    evidence = results.Evidence("sr", "1.2", "2.25.1", "2.25.2", "AI", studies.StoredFile("evidence/x", 1, "d"))
    with database.write() as session:
        first = results.add_evidence(session, version_id, evidence, ["A", "B"], T0)
        again = results.add_evidence(session, version_id, evidence, ["A", "B", "C"], T0)
    assert [d.destination for d in first] == ["A", "B"]
    assert [d.destination for d in again] == ["C"]


def test_an_attempt_is_settled_once(database):
    version_id = arrive(database)
    evidence = results.Evidence("sr", "1.2", "2.25.1", "2.25.2", "AI", studies.StoredFile("evidence/x", 1, "d"))
    wait = timedelta(seconds=5)
    failed = deliveries.Attempt(DeliveryState.WAITING, "retry", T0 + wait, "2.25.1", 1.0, 0xA700, None, "x")
    with database.write() as session:
        (delivery,) = results.add_evidence(session, version_id, evidence, ["A"], T0)
        (due,) = deliveries.due(session, "A", T0, 9)
        assert [deliveries.settle(session, due, failed, T0) for _ in range(2)] == [True, False]
    with database.read() as session:
        assert deliveries.due(session, "A", T0 + timedelta(seconds=4), 9) == []
        assert [d.attempts for d in deliveries.due(session, "A", T0 + wait, 9)] == [1]
        assert [a.dimse_status for a in deliveries.attempts_of(session, delivery.id)] == [0xA700]
