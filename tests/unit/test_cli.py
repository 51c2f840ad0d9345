"""The commands that need no peer, as an administrator calls them."""

import json
import sqlite3

import pytest
from typer.testing import CliRunner

from dicomnode import cli
from dicomnode.cli.app import app
from dicomnode.errors import ConfigError


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, list(arguments), catch_exceptions=False)


@pytest.fixture
def node(run, tmp_path):
    run("init", "node")
    return str(tmp_path / "node" / "dicomnode.toml")


def test_init_writes_settings_and_a_database_of_the_newest_revision(run, tmp_path):
    result = run("init", "node")
    assert result.exit_code == 0
    assert "dicomnode check" in result.stdout
    assert (tmp_path / "node" / "dicomnode-data" / "dicomnode.sqlite").is_file()
    assert run("db", "current", "-c", "node/dicomnode.toml").exit_code == 0


def test_init_replaces_no_settings_unasked(run, node):
    with pytest.raises(ConfigError, match="exists; --force replaces it"):
        run("init", "node")
    assert run("init", "node", "--force").exit_code == 0


def test_old_database_is_said_with_what_to_do(run, node, tmp_path):
    with sqlite3.connect(tmp_path / "node" / "dicomnode-data" / "dicomnode.sqlite") as rows:
        rows.execute("DELETE FROM alembic_version")
    rows.close()
    result = run("db", "current", "-c", node)
    assert result.exit_code == 1
    assert "run `dicomnode db upgrade`" in result.stdout
    with pytest.raises(ConfigError, match="run `dicomnode db upgrade`"):
        run("study", "ls", "-c", node)


def test_status_and_listings_are_json_where_asked(run, node):
    status = json.loads(run("status", "--json", "-c", node).stdout)
    assert {"what": "studies FAILED", "value": 0} in status
    assert json.loads(run("study", "ls", "--json", "-c", node).stdout) == []
    assert "studies: none" in run("study", "ls", "-c", node).stdout


@pytest.mark.parametrize("study", ["1.2.3", "7"])
def test_unknown_study_is_an_error_that_names_the_listing(run, node, study):
    with pytest.raises(ConfigError, match=f"there is no study {study}; `dicomnode study ls` lists them"):
        run("study", "show", study, "-c", node)


def test_check_says_what_to_change_and_fails(run, node):
    result = run("check", "--json", "-c", node)
    assert result.exit_code == 1
    rows = {row["what"]: row for row in json.loads(result.stdout)}
    assert rows["database"]["state"] == rows["bundles"]["state"] == "ok"
    assert "nobody may store here: add [peers.NAME]" in rows["sources"]["detail"]
    assert "results go nowhere: add [peers.NAME]" in rows["destinations"]["detail"]


def test_unknown_peer_is_named_with_the_known_ones(run, node):
    with pytest.raises(ConfigError, match=r"there is no \[peers.pacs\]; known are none; AETITLE@host:port works too"):
        run("echo", "pacs", "-c", node)


def test_our_errors_end_in_one_line_and_exit_code_1(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["dicomnode", "status", "--config", str(tmp_path / "none.toml")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith(f"dicomnode: {tmp_path}/none.toml: there is no such file")
