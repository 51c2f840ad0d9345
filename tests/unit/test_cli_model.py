"""`dicomnode model`: lists, shows and verifies bundles."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dicomnode.cli.model import app
from dicomnode.config import load
from dicomnode.db import migrate
from dicomnode.db.session import Database


@pytest.fixture
def config(classifier_folder: Path, tmp_path: Path) -> str:
    file = tmp_path / "dicomnode.toml"
    file.write_text(f'[models]\ndirectories = ["{classifier_folder.parent}"]\nactive = ["small_classifier"]\n')
    return str(file)


def test_ls_lists_what_is_active(config: str) -> None:
    result = CliRunner().invoke(app, ["ls", "--config", config, "--json"])
    rows = {row["name"]: row for row in json.loads(result.stdout)}
    assert result.exit_code == 0
    assert rows["small_classifier"]["state"] == "active"
    assert rows["chest_xray_anomaly"]["state"] == "installed"


def test_verify_refuses_a_changed_bundle_with_exit_code_1(classifier_folder: Path, config: str) -> None:
    assert CliRunner().invoke(app, ["verify", "small_classifier", "-c", config]).exit_code == 0
    (classifier_folder / "CARD.md").write_text("another card")
    result = CliRunner().invoke(app, ["verify", str(classifier_folder)])
    assert result.exit_code == 1
    assert "REFUSED small_classifier: CARD.md: SHA-256" in result.stdout
    assert CliRunner().invoke(app, ["ls", "-c", config]).exit_code == 1


def test_show_gives_manifest_and_card(config: str) -> None:
    result = CliRunner().invoke(app, ["show", "small_classifier", "-c", config])
    assert "class Pneumonia (233604007, SCT), urgent, from 0.5000" in result.stdout
    assert "a card" in result.stdout


def test_an_unknown_bundle_is_named_with_the_known_ones(config: str) -> None:
    result = CliRunner().invoke(app, ["show", "nothing", "-c", config])
    assert result.exit_code == 1
    assert "there is no bundle 'nothing'; known are" in str(result.exception)


def test_the_schema_is_printed() -> None:
    assert json.loads(CliRunner().invoke(app, ["schema"]).stdout)["title"] == "Manifest"


def test_the_schema_in_the_docs_is_the_one_of_now() -> None:
    """`dicomnode model schema > docs/bundle.schema.json` writes it anew."""
    copy = Path(__file__).resolve().parents[2] / "docs/bundle.schema.json"
    assert copy.read_text() == CliRunner().invoke(app, ["schema"]).stdout


def test_ls_says_since_when_a_bundle_stands_where(classifier_folder: Path, config: str) -> None:
    settings = load(Path(config))
    database = Database(settings.database_url)
    migrate.upgrade(database)
    database.close()
    assert CliRunner().invoke(app, ["retire", "small_classifier", "-c", config, "--reason", "a test"]).exit_code == 0
    rows = {row["name"]: row for row in json.loads(CliRunner().invoke(app, ["ls", "-c", config, "--json"]).stdout)}
    assert rows["small_classifier"]["state"] == "retired"
    assert rows["small_classifier"]["since"].startswith("20")
    assert rows["chest_xray_anomaly"]["since"] is None


def test_show_says_what_runs_the_network_and_why(config: str) -> None:
    result = CliRunner().invoke(app, ["show", "small_classifier", "-c", config, "--json"])
    shown = json.loads(result.stdout)
    backends = {row["backend"]: row for row in shown["backends"]}
    assert (shown["state"], shown["refused"]) == ("active", "")
    assert set(backends) == {"eager", "channels_last", "bfloat16", "onnxruntime"}
    assert [row["chosen"] for row in shown["backends"]].count("*") == 1
    assert backends["eager"]["ms"] > 0


def test_agreement_needs_to_know_with_whom(config: str) -> None:
    database = Database(load(Path(config)).database_url)
    migrate.upgrade(database)
    database.close()
    result = CliRunner().invoke(app, ["agreement", "small_classifier", "-c", config])
    assert "stands beside no bundle: name the other one with --with" in str(result.exception)
    empty = CliRunner().invoke(app, ["agreement", "small_classifier", "-c", config, "--with", "other", "--json"])
    assert json.loads(empty.stdout) == []
