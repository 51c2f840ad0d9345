"""The commands of an administrator on a node that stands still."""

import json
import sqlite3
from datetime import UTC, datetime, timedelta

import pytest
import typer
from typer.testing import CliRunner

from dicomnode import config
from dicomnode.cli.app import app
from dicomnode.cli.operator import moment
from dicomnode.cli.queue import in_plain_words
from dicomnode.db.session import Database
from dicomnode.db.tables import Destination
from dicomnode.domain.lifecycle import CircuitState, DeliveryState, State
from dicomnode.errors import ConfigError
from tests import rows

PEERS = """
[peers.pacs]
ae_title = "PACS"
host = "127.0.0.1"
port = 104
destination = true
"""


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    folder = tmp_path_factory.mktemp("node")
    CliRunner().invoke(app, ["init", str(folder)], catch_exceptions=False)
    with (folder / "dicomnode.toml").open("a") as file:
        file.write(PEERS)
    return folder


@pytest.fixture
def node(empty, tmp_path):
    """A function that runs a command on a node of this test's own."""
    source = sqlite3.connect(empty / "dicomnode-data" / "dicomnode.sqlite")
    (tmp_path / "dicomnode-data").mkdir()
    copy = sqlite3.connect(tmp_path / "dicomnode-data" / "dicomnode.sqlite")
    source.backup(copy)
    source.close()
    copy.close()
    (tmp_path / "dicomnode.toml").write_text((empty / "dicomnode.toml").read_text())
    return Node(tmp_path / "dicomnode.toml")


class Node:
    def __init__(self, file):
        self.file = file
        self.database = Database(config.load(file).database_url)

    def run(self, *arguments):
        return CliRunner().invoke(app, [*arguments, "-c", str(self.file)], catch_exceptions=False)

    def json(self, *arguments):
        result = self.run(*arguments, "--json")
        return result.exit_code, json.loads(result.stdout)


@pytest.fixture
def failed(node):
    """Two studies that failed, one in analysis and one in delivery; their version ids."""
    first, second = (rows.arrive(node.database, study=f"1.2.{n}") for n in range(2))
    rows.stand(node.database, first, State.FAILED, reason="UnreadableImage: pixel data ends early")
    rows.stand(node.database, second, State.DELIVERING)
    rows.deliver(node.database, second, {"pacs": DeliveryState.DEAD})
    rows.fail_in_delivery(node.database, second)
    return first, second


def test_pause_is_seen_in_status_and_queues_until_resume(node):
    assert "analyze is paused\n" in node.run("queue", "pause", "analyze", "--reason", "new GPU").stdout
    assert "paused already" in node.run("queue", "pause", "analyze").stdout
    (shown,) = (row["value"] for row in node.json("status")[1] if row["what"] == "PAUSED")
    assert "analyze since" in shown
    assert "by operator" in shown
    assert shown.endswith(": new GPU")
    assert [r["stage"] for r in node.json("queue", "ls")[1] if r["paused"]] == ["analyze"]
    assert "goes on" in node.run("queue", "resume", "analyze").stdout
    assert "was not paused" in node.run("queue", "resume", "analyze").stdout
    assert not [r for r in node.json("queue", "ls")[1] if r["paused"]]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("queue", "pause", "deliver", "-d", "nowhere"), "known are pacs"),
        (("queue", "pause", "analyze", "-d", "pacs"), "goes with deliver"),
        (("queue", "retry", "--stage", "close"), "only analyze and deliver"),
        (("queue", "ls", "--failed", "--since", "yesterday"), "is neither 90m"),
    ],
    ids=["destination", "stage", "retry", "since"],
)
def test_wrong_use_is_exit_code_2_and_says_what_is_known(node, arguments, said):
    result = node.run(*arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.output.replace("│", " ").split())


def test_dead_letters_are_in_plain_words(node, failed):
    letters = {r["version"]: r for r in node.json("queue", "ls", "--failed")[1]}
    assert letters[failed[0]]["reason"] == "Pixel data that cannot be decoded: pixel data ends early"
    assert letters[failed[1]]["status"] == "0xA900 (data set does not match SOP class)"
    assert (letters[failed[1]]["stage"], letters[failed[1]]["tries"]) == ("deliver", 3)
    assert node.json("delivery", "ls", "--dead")[1][0]["destination"] == "pacs"


def test_all_dead_letters_are_retried_at_once(node, failed):
    code, done = node.json("queue", "retry", "--failed")
    assert code == 0
    assert all(row["done"] for row in done)
    assert [rows.state(node.database, v) for v in failed] == [State.QUEUED, State.DELIVERING]


def test_only_one_stage_is_retried_where_it_is_named(node, failed):
    node.run("queue", "retry", "--failed", "--stage", "deliver")
    assert [rows.state(node.database, v) for v in failed] == [State.FAILED, State.DELIVERING]


def test_exit_code_is_3_where_some_could_not_be_done_and_1_where_none(node, failed):
    assert node.json("study", "retry", str(failed[0]), str(failed[0]))[0] == 3
    assert node.json("study", "retry", str(failed[0]))[0] == 1
    assert node.json("study", "close", str(failed[0]))[0] == 1
    with pytest.raises(ConfigError, match="there is no study 77"):
        node.run("study", "retry", "77")


def test_study_is_closed_and_analyzed_again_by_hand(node):
    version_id = rows.arrive(node.database)
    assert node.json("study", "reanalyze", "1.2.3")[0] == 1
    assert node.json("study", "close", "1.2.3")[0] == 0
    assert rows.state(node.database, version_id) is State.QUEUED


def test_waiting_deliveries_start_at_once_where_it_is_asked_for(node):
    version_id = rows.arrive(node.database)
    rows.stand(node.database, version_id, State.DELIVERING)
    later = datetime.now(UTC) + timedelta(hours=1)
    rows.deliver(node.database, version_id, {"pacs": DeliveryState.WAITING}, at=later)
    assert node.json("queue", "retry")[1] == [{"what": "waiting deliveries", "started": 1}]
    assert node.json("queue", "retry")[1][0]["started"] == 0


def test_delivery_is_sent_again_by_its_id(node, failed):
    (row,) = node.json("delivery", "ls")[1]
    assert node.json("delivery", "resend", str(row["id"]))[0] == 0
    assert node.json("delivery", "ls")[1][0]["state"] == "due"


NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90m", NOON - timedelta(minutes=90)),
        ("3d", NOON - timedelta(days=3)),
        ("2026-01-31T08:00", NOON.replace(hour=8)),
        ("2026-01-31T08:00+02:00", NOON.replace(hour=6)),
        ("", None),
    ],
)
def test_since_is_an_age_or_a_moment(text, expected):
    assert moment(text, NOON) == expected


def test_since_that_is_neither_is_refused():
    with pytest.raises(typer.BadParameter):
        moment("2 hours", NOON)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("SpoolFileMissing: 1 of 2", "A received file is not where its row says: 1 of 2"),
        ("ZeroDivisionError: division by zero", "An error that nobody expected (ZeroDivisionError): division by zero"),
        ("2 deliveries were refused", "2 deliveries were refused"),
    ],
)
def test_reason_names_no_class_of_ours(reason, words):
    assert in_plain_words(reason) == words


def test_destination_that_does_not_answer_is_seen_in_status(node):
    version_id = rows.arrive(node.database)
    rows.stand(node.database, version_id, State.DELIVERING)
    rows.deliver(node.database, version_id, {"pacs": DeliveryState.UNCOMMITTED})
    assert not [row for row in node.json("status")[1] if row["what"].startswith("NOT REACHED")]
    with node.database.write() as session:
        row = session.get_one(Destination, "pacs")
        row.state, row.failures, row.last_error = CircuitState.OPEN, 5, "PACS does not answer"
    (shown,) = (row["value"] for row in node.json("status")[1] if row["what"] == "NOT REACHED: pacs")
    assert shown == "5 failures in a row, now: PACS does not answer"
    (queued,) = (row for row in node.json("queue", "ls")[1] if row["destination"] == "pacs")
    assert (queued["waiting"], queued["uncommitted"], queued["failed"]) == (0, 1, 0)
