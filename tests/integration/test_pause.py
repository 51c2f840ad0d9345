"""Pause really pauses: a real node, real associations, the real commands."""

import json
import time

import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from dicomnode.cli.app import app
from dicomnode.db.tables import AuditEvent
from dicomnode.demo.pacs import DemoPACS
from dicomnode.domain.lifecycle import DeliveryState, State
from tests.hospital import Hospital, accepted, chest, wait_for

SEVERAL_SWEEPS_S = 1.5


@pytest.fixture(scope="module")
def pacs(tmp_path_factory):
    with DemoPACS(tmp_path_factory.mktemp("pacs"), ae_title="PACS_A") as pacs:
        yield pacs


@pytest.fixture(scope="module")
def other_pacs(tmp_path_factory):
    with DemoPACS(tmp_path_factory.mktemp("other_pacs"), ae_title="PACS_B") as pacs:
        yield pacs


@pytest.fixture(scope="module")
def hospital(tmp_path_factory, pacs, other_pacs):
    hospital = Hospital(tmp_path_factory.mktemp("node"), {"a": pacs, "b": other_pacs})
    with hospital.node:
        yield hospital


def command(hospital, *arguments):
    result = CliRunner().invoke(app, [*arguments, "-c", str(hospital.node.file)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def moments(hospital, action, version_id=None):
    query = select(AuditEvent.at).where(AuditEvent.action == action).order_by(AuditEvent.id)
    if version_id is not None:
        query = query.where(AuditEvent.version_id == version_id)
    with hospital.node.database.read() as session:
        return session.scalars(query).all()


def test_paused_analysis_starts_nothing_over_a_restart_and_goes_on_after_it(hospital, pacs):
    command(hospital, "queue", "pause", "analyze")
    images = [chest(study) for study in (1, 2, 3)]
    hospital.send(*images)
    for image in images:
        hospital.wait(image, State.QUEUED)
    hospital.node.stop()
    hospital.node.start()
    time.sleep(SEVERAL_SWEEPS_S)
    assert [hospital.versions(image)[0][1] for image in images] == [State.QUEUED] * 3
    command(hospital, "queue", "resume", "analyze")
    for image in images:
        hospital.wait(image, State.DONE)
        (started,) = moments(hospital, "STARTED", hospital.version_id(image))
        assert started > moments(hospital, "resumed")[-1]
        assert len(accepted(pacs, image)) == 1


def test_paused_destination_gets_nothing_and_the_other_is_served(hospital, pacs, other_pacs):
    command(hospital, "queue", "pause", "deliver", "-d", "a", "--reason", "upgrade")
    image = chest(11)
    hospital.send(image)
    wait_for(lambda: accepted(other_pacs, image), 60, hospital.node.log_tail)
    time.sleep(SEVERAL_SWEEPS_S)
    assert accepted(pacs, image) == []
    held = [d for d, _ in hospital.deliveries(image) if d.destination == "a"]
    assert {(d.state, d.attempts) for d in held} == {(DeliveryState.DUE, 0)}
    (row,) = (r for r in json.loads(command(hospital, "queue", "ls", "--json")) if r["destination"] == "a")
    assert row["paused"].endswith(": upgrade")
    command(hospital, "queue", "resume", "deliver", "-d", "a")
    hospital.wait(image, State.DONE)
    assert len(accepted(pacs, image)) == 1


def test_paused_closing_keeps_studies_open_and_one_can_be_closed_by_hand(hospital):
    command(hospital, "queue", "pause", "close")
    by_hand, by_itself = chest(21), chest(22)
    hospital.send(by_hand, by_itself)
    time.sleep(SEVERAL_SWEEPS_S)
    assert [hospital.versions(image)[0][1] for image in (by_hand, by_itself)] == [State.RECEIVING] * 2
    command(hospital, "study", "close", str(by_hand.StudyInstanceUID))
    hospital.wait(by_hand, State.DONE)
    assert hospital.versions(by_itself)[0][1] is State.RECEIVING
    command(hospital, "queue", "resume", "close")
    hospital.wait(by_itself, State.DONE)


def test_report_that_was_accepted_goes_again_with_the_same_bytes(hospital, pacs):
    image = chest(31)
    hospital.send(image)
    hospital.wait(image, State.DONE)
    delivery = next(d for d, e in hospital.deliveries(image) if d.destination == "a" and e.encoder != "summary_image")
    command(hospital, "delivery", "resend", str(delivery.id))
    wait_for(lambda: len(accepted(pacs, image)) == 2, 60, hospital.node.log_tail)
    hospital.wait(image, State.DONE)
    assert len(set(accepted(pacs, image))) == 1


def test_reanalyzed_study_gets_a_report_that_names_the_one_before(hospital, pacs):
    image = chest(41)
    hospital.send(image)
    hospital.wait(image, State.DONE)
    command(hospital, "study", "reanalyze", str(image.StudyInstanceUID))
    hospital.wait(image, State.DONE, number=2)
    assert hospital.versions(image)[0][1] is State.SUPERSEDED
    assert len(set(accepted(pacs, image))) == 2
