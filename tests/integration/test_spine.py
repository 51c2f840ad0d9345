"""The whole way: a study goes in by C-STORE, its report arrives in a PACS. The node is a real process."""

import os
import subprocess
import sys

import highdicom.sr
import pytest
from sqlalchemy import select

from dicomnode.db import studies
from dicomnode.db.tables import SOPInstance
from dicomnode.demo.pacs import DemoPACS
from dicomnode.domain.findings import findings_digest
from dicomnode.domain.lifecycle import DeliveryState, State
from tests.hospital import SUMMARY, Hospital, accepted, chest, ct, stored, wait_for

BEFORE_DELIVERY = (State.RECEIVING, State.QUEUED, State.ANALYZING, State.REPORTING)


@pytest.fixture(scope="module")
def pacs(tmp_path_factory):
    with DemoPACS(tmp_path_factory.mktemp("pacs")) as pacs:
        yield pacs


@pytest.fixture(scope="module")
def hospital(tmp_path_factory, pacs):
    hospital = Hospital(tmp_path_factory.mktemp("node"), {"pacs": pacs})
    with hospital.node:
        yield hospital


def test_study_goes_in_and_its_report_and_summary_arrive(hospital, pacs):
    image = chest(1)
    assert hospital.send(image) == [0]
    assert hospital.wait(image, State.DONE) is State.DONE
    (uid,) = accepted(pacs, image)
    assert len(accepted(pacs, image, SUMMARY)) == 1
    report = stored(pacs, uid)
    assert report.PatientID == image.PatientID
    assert report.AccessionNumber == image.AccessionNumber
    text = str(report)
    assert "Pneumonia" in text
    assert "normal" not in " ".join(str(item.TextValue) for item in _texts(report)).replace("abnormal", "").lower()
    assert highdicom.sr.Comprehensive3DSR.from_dataset(report).content


def test_state_shown_is_what_the_pacs_answered(hospital, pacs):
    image = chest(2)
    hospital.send(image)
    hospital.wait(image, State.DONE)
    for delivery, evidence in hospital.deliveries(image):
        assert delivery.state == DeliveryState.SENT
        assert delivery.dimse_status == 0
        assert delivery.attempts == 1
        assert evidence.sop_instance_uid in [a.sop_instance_uid for a in pacs.accepted]


def test_ct_is_skipped_with_the_reason_in_words(hospital, pacs):
    (image,) = ct()
    hospital.send(image)
    assert hospital.wait(image, State.SKIPPED, State.DONE) is State.SKIPPED
    ((_, _, reason),) = hospital.versions(image)
    assert "CT" in reason
    with hospital.node.database.read() as session:
        assert studies.version(session, hospital.version_id(image)).priority is None
    assert accepted(pacs, image) == []


def test_missing_file_is_a_failure_and_never_not_applicable(hospital):
    image = chest(6)
    hospital.send(image)
    wait_for(lambda: hospital.versions(image))
    with hospital.node.database.read() as session:
        (path,) = session.scalars(
            select(SOPInstance.path).where(SOPInstance.sop_instance_uid == str(image.SOPInstanceUID))
        )
    (hospital.node.settings.node.data_dir / path).unlink()
    assert hospital.wait(image, State.FAILED, State.SKIPPED, State.DONE) is State.FAILED
    ((_, _, reason),) = hospital.versions(image)
    assert "SpoolFileMissing: 1 of 1 received files are gone" in reason


def test_late_image_makes_version_two_whose_report_names_its_predecessor(hospital, pacs):
    first, late = chest(3, number=1), chest(3, number=2)
    hospital.send(first)
    hospital.wait(first, State.DONE)
    hospital.send(late)
    hospital.wait(first, State.DONE, number=2)
    assert [(n, s) for n, s, _ in hospital.versions(first)] == [(1, State.SUPERSEDED), (2, State.DONE)]
    old, new = accepted(pacs, first)
    report = stored(pacs, new)
    (study,) = report.PredecessorDocumentsSequence
    assert study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == old
    assert {r.assessed for r in hospital.results(first, 2)} == {
        tuple(sorted((str(first.SOPInstanceUID), str(late.SOPInstanceUID))))
    }


def test_same_input_twice_gives_the_same_findings_and_uids(hospital, pacs, tmp_path):
    image = chest(4)
    hospital.send(image)
    hospital.wait(image, State.DONE)
    with DemoPACS(tmp_path / "pacs2") as other_pacs:
        other = Hospital(tmp_path / "node2", {"pacs": other_pacs})
        with other.node:
            other.send(image)
            other.wait(image, State.DONE)
            assert accepted(other_pacs, image) == accepted(pacs, image)
            assert accepted(other_pacs, image, SUMMARY) == accepted(pacs, image, SUMMARY)
            assert findings_digest(other.results(image)) == findings_digest(hospital.results(image))


def test_killed_worker_leaves_one_report_a_study(hospital, pacs):
    images = [chest(100 + i) for i in range(12)]
    hospital.send(*images)
    wait_for(lambda: _has_left(hospital, images, State.RECEIVING, State.QUEUED), 30, hospital.node.log_tail)
    killed = hospital.node.kill("analyze")
    for image in images:
        hospital.wait(image, State.DONE)
    assert hospital.node.pids()["analyze"] != killed
    for image in images:
        assert len(accepted(pacs, image)) == 1


def test_killed_deliverer_is_replaced_and_what_it_left_is_sent(hospital, pacs):
    images = [chest(200 + i) for i in range(4)]
    hospital.send(*images)
    wait_for(lambda: _has_left(hospital, images, *BEFORE_DELIVERY), 30, hospital.node.log_tail)
    hospital.node.kill("deliver")
    for image in images:
        hospital.wait(image, State.DONE)
        assert len(set(accepted(pacs, image))) == 1


def test_dead_pacs_loses_nothing_and_delays_no_other(tmp_path):
    with DemoPACS(tmp_path / "a", ae_title="PACS_A") as a, DemoPACS(tmp_path / "b", ae_title="PACS_B") as b:
        hospital = Hospital(tmp_path / "node", {"a": a, "b": b})
        with hospital.node:
            a.stop()
            image = chest(5)
            hospital.send(image)
            wait_for(lambda: accepted(b, image), 30, hospital.node.log_tail)
            wait_for(lambda: _waiting(hospital, image, "a", attempts=2), 30, hospital.node.log_tail)
            assert [s for _, s, _ in hospital.versions(image)] == [State.DELIVERING]
            a.start()
            hospital.wait(image, State.DONE)
            assert len(accepted(a, image)) == len(accepted(b, image)) == 1


@pytest.mark.postgresql
def test_node_on_postgresql_loses_no_work_of_a_killed_worker(tmp_path, postgresql_url):
    with DemoPACS(tmp_path / "pacs") as pacs:
        hospital = Hospital(tmp_path / "node", {"pacs": pacs}, database_url=postgresql_url)
        upgrade = [sys.executable, "-m", "dicomnode", "db", "upgrade", "--config", str(hospital.node.file)]
        subprocess.run(upgrade, check=True, capture_output=True)
        with hospital.node:
            images = [chest(300 + i) for i in range(6)]
            hospital.send(*images)
            wait_for(lambda: _has_left(hospital, images, State.RECEIVING, State.QUEUED), 30, hospital.node.log_tail)
            hospital.node.kill("analyze")
            for image in images:
                assert hospital.wait(image, State.DONE) is State.DONE
                assert len(accepted(pacs, image)) == 1


def test_sigterm_ends_every_process(tmp_path):
    hospital = Hospital(tmp_path / "node", {})
    hospital.node.start()
    pids = [hospital.node.pid, *hospital.node.pids().values()]
    hospital.node.stop()
    assert not [pid for pid in pids if _is_alive(pid)]
    assert hospital.node.pids() == {}
    hospital.node.database.close()


def test_roles_end_when_their_supervisor_is_killed(tmp_path):
    hospital = Hospital(tmp_path / "node", {})
    hospital.node.start()
    pids = list(hospital.node.pids().values())
    hospital.node.kill_all()
    wait_for(lambda: not [pid for pid in pids if _is_alive(pid)], 40)
    hospital.node.database.close()


def _has_left(hospital, images, *states):
    """Whether the first study is further than `states`, while the others are on their way."""
    return any(hospital.versions(image)[0][1] not in states for image in images)


def _waiting(hospital, image, destination, attempts):
    rows = [d for d, _ in hospital.deliveries(image) if d.destination == destination]
    return rows and all(d.attempts >= attempts and d.error for d in rows)


def _texts(item):
    for child in item.get("ContentSequence", []):
        if child.ValueType == "TEXT":
            yield child
        yield from _texts(child)


def _is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] != "Z"
