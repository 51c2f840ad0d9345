"""The fixtures of the tests do what their names say."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine, make_url, text

from tests.databases import new_postgresql_database

ROOT = Path(__file__).parents[2]


def test_database_url_is_an_empty_database(database_url: str):
    engine = create_engine(database_url)
    try:
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE mark (id INTEGER)"))
            assert connection.scalar(text("SELECT count(*) FROM mark")) == 0
    finally:
        engine.dispose()


@pytest.mark.postgresql
def test_a_postgresql_database_goes_with_its_connections():
    with new_postgresql_database() as url:
        conninfo = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        left_open = psycopg.connect(conninfo)
    try:
        with pytest.raises(psycopg.OperationalError):
            left_open.execute("SELECT 1")
    finally:
        left_open.close()
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(conninfo)


def test_a_free_port_is_ours_until_the_end(free_port: Callable[[], int]):
    first, second = free_port(), free_port()
    assert first != second
    for _ in range(2):  # again on the same port, as a server that restarts
        with socket.create_server(("127.0.0.1", first)), socket.create_connection(("127.0.0.1", first), 5):
            pass
    with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
        stranger.bind(("127.0.0.1", second))


@pytest.mark.parametrize(("required", "code", "word"), [("", 0, "1 skipped"), ("1", 1, "1 failed")])
def test_a_missing_peer_fails_where_peers_are_required(tmp_path: Path, required: str, code: int, word: str):
    test = tmp_path / "test_it.py"
    test.write_text("from tests.needs import require\n\ndef test_it():\n    require('no-such-program')\n")
    environment = os.environ | {"DICOMNODE_TEST_REQUIRE_PEERS": required, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-c", os.devnull, "-rsf", str(test)]
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == code, ended.stdout
    assert word in ended.stdout
    assert "no-such-program" in ended.stdout
