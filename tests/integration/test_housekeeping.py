"""Retention, reconciliation and clocks that jump, on both databases."""

import contextlib
import os
import shutil
import threading
from datetime import timedelta

import pydicom
import pytest
from sqlalchemy import select, update

from dicomnode import spool
from dicomnode.config import RetentionSettings, Settings
from dicomnode.db import chores, processes, retention, studies
from dicomnode.db.session import Database, now
from dicomnode.db.tables import (
    AuditEvent,
    Delivery,
    Destination,
    EvidenceObject,
    Heartbeat,
    Quarantine,
    SOPInstance,
    Study,
)
from dicomnode.domain.lifecycle import DeliveryState, State
from dicomnode.errors import InstancesPurged
from dicomnode.flow import housekeeping, purge
from dicomnode.flow.analyze import _require_unpurged
from dicomnode.flow.reconcile import GRACE_S, reconcile
from dicomnode.network.part10 import file_header
from tests import rows

SENT, WAITING, DEAD = DeliveryState.SENT, DeliveryState.WAITING, DeliveryState.DEAD
SETTINGS = RetentionSettings(keep_days=30, keep_evidence_days=60)
NEVER = threading.Event()
CT = "1.2.840.10008.5.1.4.1.1.2"


@pytest.fixture
def root(tmp_path):
    spool.prepare(tmp_path / "spool")
    return tmp_path / "spool"


def write(root, name, sop_instance_uid="1.2.3.1", age_s=0.0):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file_header(CT, sop_instance_uid, "1.2.840.10008.1.2.1"))
    when = path.stat().st_mtime - age_s
    os.utime(path, (when, when))
    return path


@pytest.fixture
def long_ago(database):
    with database.read() as session:
        return now(session) - timedelta(days=31)


@pytest.fixture
def delivered(database, root, long_ago):
    """A study that was delivered 31 days ago; its file, its report, its version."""
    name = "instances/aa/study/1.dcm"
    version_id = rows.arrive(database, at=long_ago, path=name)
    rows.stand(database, version_id, State.DONE, at=long_ago)
    rows.deliver(database, version_id, {"pacs": SENT}, at=long_ago)
    return write(root, name), write(root, f"evidence/{version_id}.1"), version_id


def held_back(database, version_id, state, long_ago):
    match state:
        case "delivery waits":
            with database.write() as session:
                session.execute(update(Delivery).values(state=WAITING))
        case "failed":
            rows.arrive(database, "1.2.3.2", at=long_ago)
            newest = rows.arrive(database, "1.2.3.3", at=long_ago)
            rows.stand(database, newest, State.FAILED, at=long_ago)
        case "late image":
            rows.arrive(database, "1.2.3.2", at=long_ago)
        case "moved yesterday":
            rows.age(database, version_id, long_ago + timedelta(days=30))


def test_files_of_a_delivered_study_go_after_their_time_and_rows_stay(database, root, delivered):
    image, report, version_id = delivered
    purged = purge.purge_aged(database, root, SETTINGS, NEVER)
    assert (purged.studies, purged.files, purged.size_bytes) == (1, 1, 10)
    assert not image.parent.exists()
    assert report.is_file()
    with database.read() as session:
        assert session.scalars(select(SOPInstance)).one().purged_at
        assert session.scalars(select(Study)).one().purged_at
        (event,) = session.scalars(select(AuditEvent).where(AuditEvent.action == "files purged"))
    assert (event.version_id, event.detail["files"]) == (version_id, 1)
    assert purge.purge_aged(database, root, SETTINGS, NEVER).files == 0


def test_results_go_after_their_own_time(database, root, delivered):
    _, report, _ = delivered
    purge.purge_aged(database, root, RetentionSettings(keep_days=30, keep_evidence_days=30), NEVER)
    assert not report.exists()
    with database.read() as session:
        assert session.scalars(select(EvidenceObject)).one().purged_at


@pytest.mark.parametrize("why", ["delivery waits", "failed", "late image", "moved yesterday"])
def test_nothing_goes_while_somebody_needs_it(database, root, delivered, long_ago, why):
    image, report, version_id = delivered
    held_back(database, version_id, why, long_ago)
    everything = RetentionSettings(keep_days=29, keep_evidence_days=29)
    assert purge.purge_aged(database, root, everything, NEVER).files == 0
    assert purge.purge_for_space(database, root, 1 << 62, NEVER).files == (1 if why == "moved yesterday" else 0)
    assert image.is_file() is (why != "moved yesterday")
    assert report.is_file()


def test_study_that_changed_after_it_was_found_stays(database, root, delivered, long_ago):
    with database.read() as session:
        (study_id,) = retention.purgeable_studies(session, long_ago, 10)
    rows.arrive(database, "1.2.3.2", at=long_ago)
    with database.write() as session:
        assert retention.purge_study(session, study_id, long_ago, long_ago) is None


def test_space_is_made_by_the_oldest_first_and_only_until_there_is_enough(database, root, long_ago, monkeypatch):
    images = []
    for number in range(3):
        name = f"instances/aa/{number}/1.dcm"
        at = long_ago + timedelta(hours=number)
        version_id = rows.arrive(database, study=f"1.2.{number}", at=at, path=name)
        rows.stand(database, version_id, State.SKIPPED, at=at)
        images.append(write(root, name))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("", (), {"free": sum(not i.exists() for i in images)}))
    assert purge.purge_for_space(database, root, 2, NEVER).studies == 2
    assert [image.exists() for image in images] == [False, False, True]


def test_late_image_of_a_purged_study_fails_with_what_to_do(database, root, delivered):
    purge.purge_aged(database, root, SETTINGS, NEVER)
    late = rows.arrive(database, "1.2.3.2")
    rows.stand(database, late, State.QUEUED)
    with database.read() as session:
        members = [instance for instance, _ in studies.members(session, late)]
    with pytest.raises(InstancesPurged, match=r"1 of 2 instances .* let the PACS send the whole study again"):
        _require_unpurged(members)


def test_purged_image_that_comes_again_makes_the_study_whole(database, root, delivered):
    purge.purge_aged(database, root, SETTINGS, NEVER)
    rows.arrive(database, "1.2.3.2")
    whole = rows.arrive(database, "1.2.3.1", path="instances/aa/study/again.dcm")
    rows.stand(database, whole, State.QUEUED)
    with database.read() as session:
        members = [instance for instance, _ in studies.members(session, whole)]
    assert [m.sop_instance_uid for m in members] == ["1.2.3.1", "1.2.3.2"]
    _require_unpurged(members)


def test_quarantine_goes_after_its_time(database, root, long_ago):
    path = write(root, "quarantine/x.dcm", age_s=2 * GRACE_S)
    _reconcile(database, root)
    with database.write() as session:
        session.execute(update(Quarantine).values(received_at=long_ago))
    assert purge.purge_aged(database, root, RetentionSettings(quarantine_days=30), NEVER).files == 1
    assert not path.exists()


def _reconcile(database, root):
    return reconcile(database, root, NEVER, root.stat().st_mtime)


def test_file_without_a_row_goes_to_quarantine_when_it_is_a_day_old(database, root):
    rows.arrive(database, path="instances/aa/study/1.dcm")
    write(root, "instances/aa/study/1.dcm", age_s=2 * GRACE_S)
    orphan = write(root, "instances/aa/study/2.dcm", "1.2.3.2", age_s=2 * GRACE_S)
    young = write(root, "instances/aa/study/3.dcm", "1.2.3.3")
    report = write(root, "evidence/bb/2.25.77.dcm", age_s=2 * GRACE_S)
    account = _reconcile(database, root)
    assert (account.files, account.quarantined, account.missing) == (4, 2, 0)
    assert young.is_file()
    assert not orphan.exists()
    assert not report.exists()
    with database.read() as session:
        kept = session.scalars(select(Quarantine).order_by(Quarantine.id)).all()
    assert [row.sop_instance_uid for row in kept] == ["1.2.3.2", "1.2.3.1"]
    assert pydicom.dcmread(root / kept[0].path, force=True).file_meta.MediaStorageSOPInstanceUID == "1.2.3.2"
    assert "restored from a backup" in kept[0].reason
    assert _reconcile(database, root).quarantined == 0


def test_file_that_a_crash_left_after_its_row_was_purged_goes(database, root, delivered):
    image, _, _ = delivered
    purge.purge_aged(database, root, SETTINGS, NEVER)
    write(root, "instances/aa/study/1.dcm", age_s=2 * GRACE_S)
    account = _reconcile(database, root)
    assert (account.purged_removed, account.quarantined) == (1, 0)
    assert not image.exists()


def test_row_without_a_file_is_an_event_once(database, root, delivered):
    image, report, version_id = delivered
    image.unlink()
    report.unlink()
    assert _reconcile(database, root).missing == 2
    assert _reconcile(database, root).missing == 2
    with database.read() as session:
        (event,) = session.scalars(select(AuditEvent).where(AuditEvent.action == "files missing"))
    assert (event.version_id, event.detail["first"]) == (version_id, "instances/aa/study/1.dcm")


def test_staged_file_of_a_crash_goes_and_the_account_is_an_audit_row(database, root):
    write(root, "staging/x", age_s=2 * GRACE_S)
    assert _reconcile(database, root).staged_removed == 1
    with database.read() as session:
        (event,) = session.scalars(select(AuditEvent).where(AuditEvent.action == "spool reconciled"))
    assert event.detail["staged_removed"] == 1


def test_map_that_no_explanation_names_goes_after_a_day(database, root):
    version_id = rows.arrive(database)
    rows.explain(database, version_id, f"explanations/{version_id}/named.png")
    for name, age_s in (("named", 2 * GRACE_S), ("replaced", 2 * GRACE_S), ("new", 0)):
        write(root, f"explanations/{version_id}/{name}.png", age_s=age_s)
    assert _reconcile(database, root).maps_removed == 1
    assert sorted(p.name for p in (root / f"explanations/{version_id}").iterdir()) == ["named.png", "new.png"]


def test_a_chore_is_done_once_an_interval_by_one_process(database):
    hour = timedelta(hours=1)
    with database.write() as session:
        claims = [
            chores.claim(session, "purge", rows.T0 + timedelta(minutes=minutes), hour) for minutes in (0, 1, 59, 60, 61)
        ]
        assert claims == [True, False, False, True, False]
        assert chores.claim(session, "purge", rows.T0 - timedelta(days=1), hour)  # the clock was set back


def test_chores_run_when_they_are_due(database, root):
    settings = Settings(retention=RetentionSettings(target_free_bytes=1 << 62))
    assert housekeeping.run_due(database, root, settings, NEVER) == ["space", "purge", "reconcile"]
    assert housekeeping.run_due(database, root, settings, NEVER, at_start=True) == []


def test_clock_that_was_set_back_delays_nothing(database):
    watch = housekeeping.Clock(timedelta(minutes=10))
    with database.read() as session:
        real = now(session)
    wrong = real + timedelta(hours=5)
    watch.look(database, wrong)
    version_id = rows.arrive(database, at=wrong)
    other = rows.arrive(database, study="1.9", at=wrong)
    rows.stand(database, other, State.DELIVERING, at=wrong)
    rows.deliver(database, other, {"pacs": WAITING}, at=wrong)
    with database.write() as session:
        processes.beat(session, executor_id="x", role="receive", host="h", pid=1, at=wrong)
        session.get_one(Destination, "pacs").next_probe_at = wrong
    assert watch.look(database, real)
    with database.read() as session:
        assert studies.version(session, version_id).last_instance_at == real
        assert session.scalars(select(Delivery)).one().next_at == real + timedelta(minutes=10)
        assert session.get_one(Destination, "pacs").next_probe_at == real + timedelta(minutes=10)
        beat = session.scalars(select(Heartbeat)).one()
        assert (beat.started_at, beat.seen_at) == (real, real)
        assert [v.id for v in studies.quiet_versions(session, real)] == [version_id]
    assert not watch.look(database, real + timedelta(seconds=5))


@pytest.mark.postgresql
def test_hosts_with_wrong_clocks_agree_on_the_clock_of_the_database(postgresql_url, monkeypatch):
    monkeypatch.setattr("dicomnode.db.session.datetime", None)  # the host has no clock at all
    with contextlib.closing(Database(postgresql_url)) as database, database.read() as session:
        assert now(session).tzinfo is not None
