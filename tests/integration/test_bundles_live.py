"""A running node with a bundle in its shadow: stored, silent, then promoted and rolled back without a restart."""

import subprocess
import sys

import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from dicomnode.cli.model import app
from dicomnode.db import studies
from dicomnode.db.tables import Analysis
from dicomnode.demo.pacs import DemoPACS
from dicomnode.domain.lifecycle import State
from tests.bundles import manifest_values, write_bundle
from tests.hospital import SR, Hospital, accepted, chest, ct, stored, wait_for


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def url(request):
    return "" if request.param == "sqlite" else request.getfixturevalue("postgresql_url")


@pytest.fixture
def models(tmp_path):
    """Two small classifiers; one never says pneumonia, the other always: all that they do can be told apart."""
    for name, offset in (("calm", -20.0), ("alarmed", 20.0)):
        values = manifest_values(name, "classifier")
        values["classifier"]["calibration"] = {"method": "platt", "scale": 1.0, "offset": offset, "fitted_on": "x"}
        write_bundle(tmp_path / "models" / name, values)
    return tmp_path / "models"


def model(hospital, *arguments):
    result = CliRunner().invoke(app, [*arguments, "--config", str(hospital.node.file)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def analyses(hospital, image):
    with hospital.node.database.read() as session:
        query = select(Analysis).where(Analysis.version_id == hospital.version_id(image)).order_by(Analysis.id)
        return {a.bundle_name: (a.is_shadow, a.backend, a.not_applicable) for a in session.scalars(query)}


def text_of(pacs, image):
    return "\n".join(str(stored(pacs, uid)) for uid in accepted(pacs, image, SR))


def follow(hospital, swaps):
    """Wait until the running node swapped its bundles so often."""
    wait_for(lambda: hospital.node.log_tail(100_000).count("bundles swapped") >= swaps, 60, hospital.node.log_tail)


def test_shadow_is_silent_and_promotion_takes_effect_without_a_restart(tmp_path, url, models):
    extra = f'[models]\ndirectories = ["{models}"]\nactive = ["calm"]\n'
    with DemoPACS(tmp_path / "pacs") as pacs:
        hospital = Hospital(tmp_path / "node", {"pacs": pacs}, database_url=url, extra=extra)
        upgrade = [sys.executable, "-m", "dicomnode", "db", "upgrade", "--config", str(hospital.node.file)]
        subprocess.run(upgrade, check=True, capture_output=True)
        with hospital.node:
            worker = hospital.node.pids()["analyze"]
            model(hospital, "shadow", "alarmed", "--beside", "calm")
            follow(hospital, 1)

            image, (other,) = chest(1), ct()
            assert hospital.send(image, other) == [0, 0]
            assert hospital.wait(image, State.DONE) is State.DONE
            assert hospital.wait(other, State.SKIPPED, State.DONE) is State.SKIPPED
            wait_for(lambda: analyses(hospital, image).get("alarmed", (0, 0, 1))[2] == "", 60, hospital.node.log_tail)
            assert analyses(hospital, image)["alarmed"][0] is True
            assert analyses(hospital, image)["calm"][0] is False
            assert all(backend for _, backend, _ in analyses(hospital, image).values())
            assert [r.bundle.name for r in hospital.results(image)] == ["calm"]
            assert priority(hospital, image) == "routine"
            assert "alarmed" not in text_of(pacs, image)
            assert "calm" in text_of(pacs, image)
            wait_for(lambda: "alarmed" in analyses(hospital, other), 60, hospital.node.log_tail)

            report = model(hospital, "agreement", "alarmed", "--json")
            assert '"studies": 1' in report
            assert '"only_first": 1' in report

            assert "in the place of calm" in model(hospital, "promote", "alarmed")
            follow(hospital, 2)
            image = chest(2)
            hospital.send(image)
            hospital.wait(image, State.DONE)
            assert [r.bundle.name for r in hospital.results(image)] == ["alarmed"]
            assert priority(hospital, image) == "urgent"
            assert "alarmed" in text_of(pacs, image)

            assert "calm is active again" in model(hospital, "rollback", "alarmed")
            follow(hospital, 3)
            image = chest(3)
            hospital.send(image)
            hospital.wait(image, State.DONE)
            assert set(analyses(hospital, image)) == {"calm"}
            assert hospital.node.pids()["analyze"] == worker


def priority(hospital, image):
    with hospital.node.database.read() as session:
        return studies.version(session, hospital.version_id(image)).priority
