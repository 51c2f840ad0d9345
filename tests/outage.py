"""A PACS goes down for a while, another stays up; reports to both keep coming, a real deliver process sends them."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dicomnode import engine
from dicomnode.config import load
from dicomnode.db import migrate, processes
from dicomnode.db.session import Database, now
from dicomnode.demo.pacs import DemoPACS
from tests.hospital import wait_for
from tests.outbox import Outbox

SETTINGS = """\
[node]
data_dir = "."
[database]
url = "{url}"
[delivery]
first_retry_s = {first_retry_s}
max_retry_s = {longest_s}
longest_probe_s = {longest_s}
{peers}
"""
PEER = '[peers.{name}]\nae_title = "{pacs.ae_title}"\nhost = "127.0.0.1"\nport = {pacs.port}\ndestination = true\n'


@dataclass(frozen=True, slots=True)
class Story:
    """What happened: seconds from a report to its arrival in the healthy PACS, and the end of the outage."""

    before: tuple[float, ...]
    during: tuple[float, ...]
    reports: int
    arrived_once: int
    arrived_more: int
    last_after_s: float
    attempts: int
    probes: int


def outage(
    folder: Path, url: str, *, before_s: float, outage_s: float, every_s: float, first_retry_s: float, longest_s: float
) -> Story:
    """Tell the story; `every_s` is the time from report to report, the waits are those of the settings."""
    with DemoPACS(folder / "dead", "DEAD") as dead, DemoPACS(folder / "healthy", "HEALTHY") as healthy:
        peers = "".join(PEER.format(name=name, pacs=pacs) for name, pacs in (("dead", dead), ("healthy", healthy)))
        file = folder / "dicomnode.toml"
        file.write_text(
            SETTINGS.format(url=url, peers=peers, first_retry_s=first_retry_s, longest_s=longest_s), encoding="utf-8"
        )
        with _deliver_role(file, url) as outbox:
            sent = _report(outbox, before_s, every_s)
            assert healthy.wait_for(lambda ledger: len(ledger) == len(sent), 120)
            dead.stop()
            count, began = len(sent), time.monotonic()
            sent |= _report(outbox, outage_s, every_s)
            assert healthy.wait_for(lambda ledger: len(ledger) == len(sent), 120)
            attempts, probes = _tried(outbox), outbox.destination("dead").failures
            time.sleep(max(0.0, outage_s - (time.monotonic() - began)))
            back_at = datetime.now(UTC)
            dead.start()
            wait_for(lambda: set(outbox.states("dead")) == {"sent"}, 600, lambda: str(outbox.destination("dead")))
            latency = [(arrived.at - sent[arrived.sop_instance_uid]).total_seconds() for arrived in healthy.accepted]
            counts = [arrived.count for arrived in dead.accepted]
            last = max(arrived.at for arrived in dead.accepted)
    return Story(
        before=tuple(latency[:count]),
        during=tuple(latency[count:]),
        reports=len(sent),
        arrived_once=counts.count(1),
        arrived_more=len(counts) - counts.count(1),
        last_after_s=(last - back_at).total_seconds(),
        attempts=attempts,
        probes=probes,
    )


@contextlib.contextmanager
def _deliver_role(file: Path, url: str) -> Iterator[Outbox]:
    """Give an outbox whose reports a process of the role `deliver` sends."""
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(contextlib.closing(Database(url)))
        migrate.upgrade(database)
        engine.create_tables(url)
        outbox = Outbox(database, file.parent, load(file).peers)
        outbox.queue = stack.enter_context(contextlib.closing(engine.Queue(url)))
        command = [sys.executable, "-m", "dicomnode", "serve", "--role", "deliver", "--config", str(file)]
        log = stack.enter_context((file.parent / "deliver.log").open("wb"))
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=os.environ)
        try:
            wait_for(lambda: _is_ready(database), 300)
            yield outbox
        finally:
            process.terminate()
            process.wait(60)


def _report(outbox: Outbox, seconds: float, every_s: float) -> dict[str, datetime]:
    """Put a report on its way to both every `every_s`; return when each was, by SOP Instance UID."""
    sent, ends_at = {}, time.monotonic() + seconds
    while time.monotonic() < ends_at:
        began = time.monotonic()
        version_id = outbox.add("dead", "healthy")
        with outbox.database.write() as session:
            for name in ("dead", "healthy"):
                outbox.queue.add_round(session, name, f"version/{version_id}")
        sent[outbox.objects()[-1].sop_instance_uid] = datetime.now(UTC)
        time.sleep(max(0.0, every_s - (time.monotonic() - began)))
    return sent


def _is_ready(database: Database) -> bool:
    with database.read() as session:
        return any(process.role == "deliver" for process in processes.alive(session, now(session)))


def _tried(outbox: Outbox) -> int:
    return sum(row.attempts for row in outbox.rows("dead") if row.state == "waiting")
