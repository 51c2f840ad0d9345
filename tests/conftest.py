"""Fixtures of all tests: databases, free ports, the data beside the repository."""

import os
import socket
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from dicomnode.db import migrate
from dicomnode.db.session import Database
from tests.databases import new_postgresql_database
from tests.needs import MissingData, must_fail

# pynetdicom brings programs with the names of DCMTK's (storescu, findscu): a peer is the real one
OUR_PROGRAMS = Path(sys.executable).parent
os.environ["PATH"] = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if Path(p) != OUR_PROGRAMS)

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the skip of a missing peer into a failure where peers are required (`make test-all`)."""
    report = yield
    if report.skipped and call.excinfo is not None and not hasattr(report, "wasxfail"):
        marks = {mark.name for mark in item.iter_markers()}
        if must_fail(call.excinfo.value, marks):
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid}: required, but {call.excinfo.value}"
    return report


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository."""
    if not SHARED_DATA.is_dir():
        raise MissingData(f"{SHARED_DATA} is absent")
    return SHARED_DATA


@pytest.fixture
def free_port() -> Iterator[Callable[[], int]]:
    """A function that gives a free port of 127.0.0.1 and keeps it from others until the test ends.

    The port is bound, not listened on; a server that sets SO_REUSEADDR (all of ours do) can take it over.
    """
    with ExitStack() as stack:

        def reserve() -> int:
            reserved = stack.enter_context(socket.socket())
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            reserved.bind(("127.0.0.1", 0))
            return int(reserved.getsockname()[1])

        yield reserve


@pytest.fixture
def postgresql_url() -> Iterator[str]:
    """A PostgreSQL database of this test's own."""
    with new_postgresql_database() as url:
        yield url


@pytest.fixture(scope="module")
def module_postgresql_url() -> Iterator[str]:
    """A PostgreSQL database of this module's own."""
    with new_postgresql_database() as url:
        yield url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A database with our tables, SQLite and then PostgreSQL."""
    database = Database(database_url)
    migrate.upgrade(database)
    yield database
    database.close()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of this test's own: SQLite in a folder, then PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'dicomnode.sqlite'}"
    return str(request.getfixturevalue("postgresql_url"))
