"""Explanations and codes through the analyze step: durable, once, never in the way; and what the commands show."""

import contextlib
import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import select
from typer.testing import CliRunner

from dicomnode import engine, spool
from dicomnode.cli.app import app
from dicomnode.config import AnalysisSettings
from dicomnode.db import explanations, results, studies
from dicomnode.db.session import now
from dicomnode.db.tables import ExplanationRow, ImageCodeRow, StudyVersion
from dicomnode.domain.lifecycle import Event, State
from dicomnode.domain.study import InstanceHeader
from dicomnode.errors import ConfigError
from dicomnode.flow.analyze import Analysis
from dicomnode.flow.bundles import BundleSet, BundlesInUse, OpenSet
from dicomnode.inference import bundle as bundles
from dicomnode.inference.predict import Analyzer
from tests.bundles import manifest_values, write_bundle, write_radiograph

DX = "1.2.840.10008.5.1.4.1.1.1.1"
SENDER = studies.Sender("XRAY1", "127.0.0.1")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """A classifier that always suspects, and an anomaly bundle, with their explanations."""
    folder = tmp_path_factory.mktemp("models")
    classifier, anomaly = manifest_values("cls", "classifier"), manifest_values("odd", "anomaly")
    classifier["explanation"], anomaly["explanation"] = "grad_cam", "residual"
    classifier["classifier"]["classes"][0]["operating_point"]["threshold"] = 0.0
    return [bundles.load(write_bundle(folder / values["name"], values)) for values in (classifier, anomaly)]


@pytest.fixture
def root(tmp_path):
    spool.prepare(tmp_path / "data")
    return tmp_path / "data"


def receive(database, root, study, number=1, seed=0):
    """Receive a study of one image as receiver and sweep would; return the id of its closed version."""
    pixels = np.random.default_rng(seed).integers(0, 4096, (64, 48)).astype("uint16")
    name = f"{study}.{number}"
    file = write_radiograph(root / spool.INSTANCES, name, pixels)
    header = InstanceHeader(DX, name, "1.2.840.10008.1.2.1", study, f"{study}.0", {"Modality": "DX"})
    with database.write() as session:
        moment = now(session)
        path = file.relative_to(root).as_posix()
        stored = studies.StoredFile(path, file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest())
        version_id = studies.add_instance(session, header, stored, SENDER, moment)
        assert studies.close(session, studies.version(session, version_id), moment, "quiet")
    return version_id


def analyze(database, root, loaded, version_id, **settings):
    analysis_settings = AnalysisSettings(**settings)
    engine.create_tables(database.url)
    with contextlib.ExitStack() as stack:
        queue = stack.enter_context(contextlib.closing(engine.Queue(database.url)))
        opened = OpenSet(BundleSet(tuple(loaded)), analysis_settings)
        in_use = stack.enter_context(contextlib.closing(BundlesInUse(opened)))
        return Analysis(database, root, queue, in_use, analysis_settings).analyze(version_id)


def kept(database, version_id):
    with database.read() as session:
        return [row for row, _ in explanations.explanations_of(session, version_id)]


def finish(database, version_id):
    with database.write() as session:
        for event in (Event.REPORTED, Event.DELIVERED):
            studies.advance(session, version_id, event, now(session))


def test_suspected_finding_has_its_map_in_the_spool(database, root, loaded):
    version_id = receive(database, root, "1.2.3")
    assert analyze(database, root, loaded, version_id)
    (row,) = kept(database, version_id)
    assert (row.label, row.method, row.sop_instance_uid, row.reason) == ("Pneumonia", "grad_cam", "1.2.3.1", "")
    content = (root / row.path).read_bytes()
    assert (hashlib.sha256(content).hexdigest(), len(content)) == (row.sha256, row.size_bytes)
    with Image.open(root / row.path) as picture:
        assert (picture.mode, picture.height, picture.width) == ("L", row.rows, row.columns) == ("L", 64, 48)
    assert list((root / spool.STAGING).iterdir()) == []


@pytest.mark.parametrize(("setting", "labels"), [("all", ["Pneumonia", "Unusual image"]), ("none", [])])
def test_setting_says_what_is_explained(database, root, loaded, setting, labels):
    version_id = receive(database, root, "1.2.3")
    analyze(database, root, loaded, version_id, explanations=setting)
    assert [row.label for row in kept(database, version_id)] == labels


def test_repeated_step_keeps_one_map_and_one_code(database, root, loaded):
    version_id = receive(database, root, "1.2.3")
    analyze(database, root, loaded, version_id)
    (before,) = kept(database, version_id)
    with database.write() as session:
        session.get_one(StudyVersion, version_id).state = State.ANALYZING
    analyze(database, root, loaded, version_id)
    (after,) = kept(database, version_id)
    assert after.path == before.path
    assert len(list((root / spool.EXPLANATIONS).rglob("*.png"))) == 1
    with database.read() as session:
        assert len(session.scalars(select(ImageCodeRow)).all()) == 1


def test_failing_explanation_is_a_reason_and_the_study_goes_on(database, root, loaded, monkeypatch):
    def fail(*_):
        raise RuntimeError("no gradient today")

    monkeypatch.setattr(Analyzer, "explain", fail)
    version_id = receive(database, root, "1.2.3")
    assert analyze(database, root, loaded, version_id)
    (row,) = kept(database, version_id)
    assert (row.path, row.reason) == ("", "RuntimeError: no gradient today")
    with database.read() as session:
        assert studies.version(session, version_id).state == State.REPORTING


def test_removing_results_removes_what_belongs_to_them(database, root, loaded):
    version_id = receive(database, root, "1.2.3")
    analyze(database, root, loaded, version_id)
    with database.write() as session:
        results.remove_results(session, version_id)
        assert session.scalars(select(ExplanationRow)).all() == session.scalars(select(ImageCodeRow)).all() == []


@pytest.fixture
def node(database, root, tmp_path):
    """A settings file for the commands, over the database of this test."""

    def write(mode):
        file = tmp_path / "dicomnode.toml"
        file.write_text(
            f'[database]\nurl = "{database.url}"\n[node]\ndata_dir = "{root}"\n[results]\nmode = "{mode}"\n'
        )
        return str(file)

    return write


def run(*arguments):
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def test_maps_are_shown_over_the_image_in_research_mode_alone(database, root, loaded, node, tmp_path):
    analyze(database, root, loaded, receive(database, root, "1.2.3"))
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="research mode only"):
        run("study", "explain", "1.2.3", "--out", str(out), "-c", node("triage"))
    assert not out.exists()
    shown = run("study", "explain", "1.2.3", "--out", str(out), "--json", "-c", node("research"))
    (row,) = json.loads(shown.stdout)
    with Image.open(row["picture"]) as picture:
        assert (picture.mode, picture.height, picture.width) == ("RGB", 64, 48)
        colours = np.asarray(picture, dtype=int)
    assert (colours[..., 0] > colours[..., 2] + 20).any()


def test_similar_lists_earlier_studies_nearest_first(database, root, loaded, node):
    for study, seed in (("1.2.1", 1), ("1.2.2", 2), ("1.2.3", 7)):
        analyze(database, root, loaded, receive(database, root, study, seed=seed))
    twin = receive(database, root, "1.2.4", seed=7)
    analyze(database, root, loaded, twin)
    later = receive(database, root, "1.2.5", seed=7)
    analyze(database, root, loaded, later)

    shown = json.loads(run("study", "similar", "1.2.4", "--json", "-c", node("triage")).stdout)
    assert shown[0]["study_instance_uid"] == "1.2.3"
    assert {row["study_instance_uid"] for row in shown} == {"1.2.1", "1.2.2", "1.2.3"}
    assert shown[0]["distance"] == pytest.approx(0, abs=1e-3)
    assert [row["distance"] for row in shown] == sorted(row["distance"] for row in shown)
    limited = run("study", "similar", "1.2.4", "--limit", "1", "--json", "-c", node("triage"))
    assert len(json.loads(limited.stdout)) == 1


def test_other_versions_of_the_study_and_other_weights_are_not_similar(database, root, loaded, node):
    first = receive(database, root, "1.2.3", seed=1)
    analyze(database, root, loaded, first)
    finish(database, first)
    analyze(database, root, loaded, receive(database, root, "1.2.3", number=2, seed=1))
    other = [replace(b, identity=replace(b.identity, weights_digest="f" * 64)) for b in loaded]
    analyze(database, root, other, receive(database, root, "1.2.9", seed=1))

    assert json.loads(run("study", "similar", "1.2.3", "--json", "-c", node("triage")).stdout) == []


def test_study_without_codes_says_so(database, root, loaded, node):
    receive(database, root, "1.2.3")
    with pytest.raises(ConfigError, match="no active bundle gave the images"):
        run("study", "similar", "1.2.3", "-c", node("triage"))
    with pytest.raises(ConfigError, match="has no explanation"):
        run("study", "explain", "1.2.3", "--out", "x", "-c", node("research"))
