"""Drift over rows on both databases: alike is ok; shifted is a row, a gauge and one event."""

from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import select

from dicomnode.config import DriftSettings
from dicomnode.db import drift, results, studies
from dicomnode.db.session import now
from dicomnode.db.tables import AuditEvent, Drift
from dicomnode.domain.drift import Reference, control_limits
from dicomnode.domain.findings import AnomalyFinding, BundleIdentity, BundleResult, Prediction, Priority
from dicomnode.domain.lifecycle import Event
from dicomnode.domain.study import InstanceHeader
from dicomnode.flow.drift import DriftWatch, measure_drift, publish, remember_references

DX = "1.2.840.10008.5.1.4.1.1.1.1"
BUNDLE = BundleIdentity("odd", "1.0.0", "anomaly", "Odd", "d" * 64, "w" * 64)
REFERENCE = Reference(BUNDLE.digest, "Unusual", tuple(n / 100 for n in range(101)), 0.02)
SETTINGS = DriftSettings(window_images=40, minimum_images=20)
ALIKE = [0.0125 + 0.025 * n for n in range(40)]


class Source:
    """A modality whose studies are analyzed: rows only, no network."""

    def __init__(self, database, ae_title="XRAY1"):
        self.database = database
        self.ae_title = ae_title
        self.count = 0

    def send(self, *scores, at=None, study=None):
        """Add an analyzed study for each score; with `study` all are versions of one study."""
        with self.database.write() as session:
            for score in scores:
                self.count += 1
                uid = f"1.2.{sum(map(ord, self.ae_title))}.{study or self.count}"
                self._analyzed(session, uid, f"{uid}.{self.count}", score, at or now(session))

    def _analyzed(self, session, uid, sop, score, moment):
        header = InstanceHeader(DX, sop, "1.2.840.10008.1.2.1", uid, f"{uid}.0", {"Modality": "DX"})
        file = studies.StoredFile(f"instances/{sop}", 1, "0" * 64)
        version_id = studies.add_instance(session, header, file, studies.Sender(self.ae_title, "127.0.0.1"), moment)
        assert studies.close(session, studies.version(session, version_id), moment, "quiet")
        for event in (Event.STARTED, Event.ANALYZED, Event.REPORTED, Event.DELIVERED):
            studies.advance(session, version_id, event, moment)
        found = BundleResult(
            BUNDLE,
            (Prediction(sop, "Unusual", score, 0.98),),
            anomaly=AnomalyFinding("Unusual", score, 0.98, 50.0, sop),
            assessed=(sop,),
        )
        results.add_results(session, version_id, (found,), Priority.ROUTINE, moment, 0.1)


@pytest.fixture
def source(database):
    remember_references(database, [(REFERENCE,)])
    return Source(database)


def rows(database, period=drift.RECENT):
    with database.read() as session:
        return list(session.scalars(select(Drift).where(Drift.period == period).order_by(Drift.id)))


def events(database):
    with database.read() as session:
        return list(session.scalars(select(AuditEvent).where(AuditEvent.action.like("drift%")).order_by(AuditEvent.id)))


def gauge(name, source="XRAY1"):
    return REGISTRY.get_sample_value(name, {"source": source, "bundle": "odd", "label": "Unusual"})


def test_alike_is_ok_and_shifted_is_an_alarm_once(database, source):
    source.send(*ALIKE)
    assert measure_drift(database, SETTINGS) == 1
    (row,) = rows(database)
    assert (row.state, row.n, row.source_ae_title, row.bundle_name) == ("ok", 40, "XRAY1", "odd")
    assert row.psi == pytest.approx(0, abs=1e-6)
    assert (row.flag_rate, row.lower, row.upper) == (pytest.approx(1 / 40), *control_limits(40, 0.02))
    assert events(database) == []

    source.send(*[0.5 + 0.5 * score for score in ALIKE])
    measure_drift(database, SETTINGS)
    source.send(0.99)
    measure_drift(database, SETTINGS)

    assert [row.state for row in rows(database)] == ["ok", "alarm", "alarm"]
    (event,) = events(database)
    assert event.action == "drift alarm"
    assert (event.detail["source"], event.detail["label"], event.detail["before"]) == ("XRAY1", "Unusual", "ok")
    assert gauge("dicomnode_drift_psi") == pytest.approx(rows(database)[-1].psi)
    assert gauge("dicomnode_flag_rate") == pytest.approx(rows(database)[-1].flag_rate)


def test_too_many_flagged_images_are_an_alarm_before_there_is_an_index(database, source):
    source.send(*[0.5] * 8, 0.99, 0.99, 0.99)
    measure_drift(database, SETTINGS)
    (row,) = rows(database)
    assert (row.psi, row.state) == (None, "alarm")
    assert gauge("dicomnode_drift_psi") is None


def test_end_of_an_alarm_is_an_event_too(database, source):
    source.send(*[0.99] * 40)
    measure_drift(database, SETTINGS)
    source.send(*ALIKE)
    measure_drift(database, SETTINGS)
    assert [event.action for event in events(database)] == ["drift alarm", "drift ok"]


def test_nothing_new_adds_nothing(database, source):
    source.send(*ALIKE)
    assert [measure_drift(database, SETTINGS) for _ in range(3)] == [1, 0, 0]


def test_an_image_that_comes_late_into_the_same_window_is_measured(database, source):
    with database.read() as session:
        moment = now(session)
    source.send(0.5, at=moment)
    measure_drift(database, SETTINGS)
    source.send(0.99, at=moment - timedelta(seconds=1))
    measure_drift(database, SETTINGS)
    assert [row.n for row in rows(database)] == [1, 2]


def test_sources_are_apart(database, source):
    source.send(*ALIKE)
    Source(database, "CT9").send(*[0.9] * 40)
    measure_drift(database, SETTINGS)
    assert {row.source_ae_title: row.state for row in rows(database)} == {"XRAY1": "ok", "CT9": "alarm"}


def test_a_study_counts_once_whatever_its_versions(database, source):
    source.send(0.1, 0.2, 0.3, study=7)
    measure_drift(database, SETTINGS)
    (row,) = rows(database)
    assert row.n == 1


def test_yesterday_is_a_point_of_the_chart_and_no_event(database, source):
    with database.read() as session:
        today = now(session).replace(hour=0, minute=0, second=0, microsecond=0)
    source.send(*[0.99] * 10, at=today - timedelta(hours=3))
    source.send(*ALIKE)
    for _ in range(2):
        measure_drift(database, SETTINGS)
    (day,) = rows(database, drift.DAY)
    assert (day.n, day.state, day.window_end) == (10, "alarm", today)
    assert events(database) == []
    with database.read() as session:
        assert [row.n for row in drift.days(session, today - timedelta(days=1))] == [10]


def test_images_older_than_the_window_are_not_looked_at(database, source):
    source.send(0.99, 0.99, at=datetime.now(UTC) - timedelta(days=SETTINGS.window_days + 1))
    assert measure_drift(database, SETTINGS) == 0


def test_watch_measures_once_an_interval_whoever_measured_last(database, source):
    first, second = (DriftWatch(database, SETTINGS) for _ in range(2))
    source.send(*ALIKE)
    first.measure_if_due()
    source.send(0.5)
    first.measure_if_due()
    second.measure_if_due()
    assert len(rows(database)) == 1
    eager = DriftWatch(database, DriftSettings(interval_s=0.001))
    eager.measure_if_due()
    assert len(rows(database)) == 2


def test_restarted_watch_publishes_what_was_measured(database, source):
    source.send(*ALIKE)
    measure_drift(database, SETTINGS)
    measured = gauge("dicomnode_flag_rate")
    publish([])
    assert gauge("dicomnode_flag_rate") is None
    DriftWatch(database, SETTINGS).measure_if_due()
    assert gauge("dicomnode_flag_rate") == measured


def test_references_of_a_bundle_are_kept_once(database):
    plain = Reference("e" * 64, "Pneumonia", None, None)
    for _ in range(2):
        remember_references(database, [(REFERENCE,), (plain,)])
    with database.read() as session:
        assert drift.references_of(session, BUNDLE.digest) == [REFERENCE]
        assert drift.references_of(session, "e" * 64) == [plain]
