"""Fixtures that start real peers; where a program is missing the test is skipped with its name."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.needs import require
from tests.peers.dcmtk import Storescp
from tests.peers.orthanc import Orthanc


@pytest.fixture
def orthanc(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Orthanc]:
    """A running Orthanc with an empty storage."""
    require("Orthanc")
    running = Orthanc(tmp_path / "orthanc", free_port(), free_port())
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture
def storescp(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Storescp]:
    """A running storescp of DCMTK with an empty folder."""
    running = Storescp(tmp_path / "storescp", free_port())
    try:
        running.start()
        yield running
    finally:
        running.stop()
