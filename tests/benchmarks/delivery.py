"""How fast results go out over loopback: many small reports over one association, against one association an object.

The PACS is a DCMTK storescp (or our demo PACS). Goal: one association for many objects is at least twice as fast.

python -m tests.benchmarks.delivery [--reports 200] [--runs 3] [--postgresql URL] [--demo-pacs]
"""

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from dicomnode.config import PeerSettings
from dicomnode.db import migrate
from dicomnode.db.session import Database
from dicomnode.demo.pacs import DemoPACS
from tests.databases import new_postgresql_database
from tests.hospital import free_port
from tests.outbox import PATIENT, Outbox
from tests.peers.dcmtk import Storescp


def main() -> None:
    """Print reports a second for each way, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reports", type=int, default=200)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--postgresql", action="store_true", help="a database of DICOMNODE_TEST_POSTGRES_URL")
    parser.add_argument("--demo-pacs", action="store_true")
    arguments = parser.parse_args()
    rates: dict[int, list[float]] = {1: [], 50: []}
    for _ in range(arguments.runs):
        for objects, measured in rates.items():
            measured.append(_rate(arguments.reports, objects, arguments.postgresql, arguments.demo_pacs))
    for objects, measured in rates.items():
        shown = " ".join(f"{rate:.0f}" for rate in measured)
        print(f"{objects} objects an association: {shown} reports/s, median {statistics.median(measured):.0f}")
    print(f"ratio of the medians {statistics.median(rates[50]) / statistics.median(rates[1]):.1f}")


def _rate(reports: int, objects: int, postgresql: bool, demo: bool) -> float:
    """Return reports a second, from the first to the last row settled."""
    settings = PATIENT.model_copy(update={"objects_an_association": objects})
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        database = stack.enter_context(_database(folder, postgresql))
        peer = stack.enter_context(_pacs(folder, demo))
        outbox = Outbox(database, folder / "spool", {"pacs": peer}, settings)
        for _ in range(reports):
            outbox.add("pacs")
        began = time.perf_counter()
        outbox.deliver()
        seconds = time.perf_counter() - began
        assert outbox.states() == ["sent"] * reports
    return reports / seconds


@contextlib.contextmanager
def _database(folder: Path, postgresql: bool) -> Iterator[Database]:
    with contextlib.ExitStack() as stack:
        sqlite = f"sqlite:///{folder / 'dicomnode.sqlite'}"
        url = stack.enter_context(new_postgresql_database()) if postgresql else sqlite
        database = stack.enter_context(contextlib.closing(Database(url)))
        migrate.upgrade(database)
        yield database


@contextlib.contextmanager
def _pacs(folder: Path, demo: bool) -> Iterator[PeerSettings]:
    if demo:
        with DemoPACS(folder / "pacs") as pacs:
            yield PeerSettings(ae_title=pacs.ae_title, host="127.0.0.1", port=pacs.port)
        return
    storescp = Storescp(folder / "pacs", free_port())
    storescp.start()
    try:
        yield PeerSettings(ae_title=storescp.ae_title, host="127.0.0.1", port=storescp.port)
    finally:
        storescp.stop()


if __name__ == "__main__":
    main()
