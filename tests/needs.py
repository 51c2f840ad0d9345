"""What a test needs beside Python: a program, a server, data. Missing: skip with its name; where required: fail."""

import os
import shutil
from typing import NoReturn

import pytest

PACKAGES = {
    "storescu": "DCMTK", "storescp": "DCMTK", "findscu": "DCMTK", "echoscu": "DCMTK", "dcmdump": "DCMTK",
    "dsrdump": "DCMTK", "dcmj2pnm": "DCMTK", "dcml2pnm": "DCMTK",
    "dsr2html": "DCMTK", "Orthanc": "Orthanc", "dciodvfy": "dicom3tools", "dcentvfy": "dicom3tools",
    "dcsrdump": "dicom3tools", "java": "a Java runtime",
}  # fmt: skip
PEER_MARKS = ("dcmtk", "orthanc", "postgresql", "judge")
DATA_MARK = "data"


class MissingPeer(pytest.skip.Exception):
    """A skip because of a peer program or server; a failure where peers are required."""


class MissingData(pytest.skip.Exception):
    """A skip because shared/data is absent; a failure in CI where peers are required."""


def peers_are_required() -> bool:
    """Return whether `make test-all` runs: a missing peer is then a failure."""
    return os.environ.get("DICOMNODE_TEST_REQUIRE_PEERS") == "1"


def data_is_required() -> bool:
    """Return whether this is the CI, which has the data."""
    return peers_are_required() and os.environ.get("CI") == "true"


def require(*programs: str) -> None:
    """Skip the test (or fail it, where peers are required) unless every program is installed."""
    for program in programs:
        if shutil.which(program) is None:
            missing(f"{program} ({PACKAGES.get(program, program)}) is not installed: make peers")


def missing(reason: str) -> NoReturn:
    """Skip the test because of a peer that is not there, or fail it where peers are required."""
    raise MissingPeer(reason)


def must_fail(skip: BaseException, marks: set[str]) -> bool:
    """Return whether a skip of a test with `marks` has to count as a failure here."""
    if isinstance(skip, MissingData) or (DATA_MARK in marks and not isinstance(skip, MissingPeer)):
        return data_is_required()
    return peers_are_required() and (isinstance(skip, MissingPeer) or not marks.isdisjoint(PEER_MARKS))
