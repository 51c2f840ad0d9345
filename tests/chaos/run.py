"""Chaos: studies arrive while processes, database and lines die; afterwards nothing is lost and nothing doubled.

    python -m tests.chaos.run --studies 500 --kills 200 --database sqlite
    python -m tests.chaos.run --studies 500 --kills 200 --database postgresql     a cluster of its own, killed too

Prints a line of JSON with what was done and exits 1 if something is violated. `--plant` acknowledges before the commit:
the run must then find a loss.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from dicomnode import failpoint
from tests.chaos.cluster import Cluster
from tests.chaos.hospital import ChaosHospital, open_hospital
from tests.chaos.invariant import unsettled, violations
from tests.chaos.ledger import Ledger, Senders

KILLABLE = ("receive", "analyze", "deliver", "receive", "analyze", "deliver", "supervisor", "database")
SETTLE_S = 300.0


@dataclass
class Report:
    """What a run did and found."""

    seed: int
    database: str
    studies: int = 0
    acknowledged: int = 0
    unanswered: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    lines_cut: int = 0
    repeated_stores: int = 0
    """C-STOREs of an object that a PACS had already: the same bytes, because its answer was lost."""
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)

    def as_json(self) -> str:
        return json.dumps(vars(self) | {"kills": dict(self.kills), "kills_in_all": self.kills.total()})


def run(
    folder: Path,
    *,
    studies: int,
    kills: int,
    seed: int,
    database: str = "sqlite",
    planted: bool = False,
    seconds: float = 3600.0,
    settle_s: float = SETTLE_S,
) -> Report:
    """Run one chaos: until `studies` are sent and `kills` are done, or `seconds` are over; then let it settle."""
    report = Report(seed, database)
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster()) if database == "postgresql" else None
        url = cluster.url if cluster else ""
        hospital = open_hospital(stack, folder, database_url=url, destinations=2, planted=planted)
        hospital.node.start()
        began = time.monotonic()
        ledger = Ledger(folder / "ledger")
        with Senders("chaos", studies, [hospital.port], ledger, seed) as senders, _weather(hospital, seed, report):
            killer = _Killer(hospital, cluster, random.Random(seed), report)
            while time.monotonic() - began < seconds and not (senders.is_done and report.kills.total() >= kills):
                killer.step()
                if report.kills.total() >= kills and not senders.is_done:
                    time.sleep(0.2)
        report.studies, report.acknowledged = len(ledger.studies), len(ledger.acknowledged)
        report.unanswered = ledger.unanswered
        killer.finish()
        _settle(hospital, ledger, settle_s)
        killer.count_points()
        report.violations = violations(
            hospital.node.database, hospital.node.settings.node.data_dir, ledger.acknowledged, hospital.pacs
        )
        report.seconds = round(time.monotonic() - began, 1)
        report.repeated_stores = sum(a.count - 1 for peer in hospital.pacs.values() for a in peer.accepted)
        print(report.as_json(), file=sys.stderr)  # known also where the node does not stop
    return report


def _settle(hospital: ChaosHospital, ledger: Ledger, settle_s: float) -> None:
    deadline = time.monotonic() + settle_s
    while time.monotonic() < deadline:
        try:
            if not unsettled(hospital.node.database, ledger.studies):
                return
        except Exception as exc:  # noqa: BLE001  the database may still come up
            print(exc, file=sys.stderr)
        time.sleep(0.3)


class _Killer:
    """Kills something at random moments, or arms a point at which the next process of a role dies."""

    def __init__(self, hospital: ChaosHospital, cluster: Cluster | None, choose: random.Random, report: Report) -> None:
        self._hospital, self._cluster, self._choose, self._report = hospital, cluster, choose, report
        self._killed: Counter[str] = Counter()

    def step(self) -> None:
        node = self._hospital.node
        time.sleep(self._choose.uniform(0.1, 1.2))
        what = self._choose.choice(KILLABLE)
        if what == "database" and self._cluster is not None:
            self._cluster.kill()
            time.sleep(self._choose.uniform(0, 1))
            self._cluster.start()
            self._count(what)
        elif what == "supervisor":
            node.kill_supervisor()
            time.sleep(self._choose.uniform(0, 0.5))
            node.start_supervisor()
            self._count(what)
        elif (pid := node.pids().get(what)) is not None:
            if self._choose.random() < 0.5 and node.waiting_points < 3:
                node.arm(what, f"{self._choose.choice(failpoint.NAMES)}:{self._choose.randint(1, 4)}")
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                return
            self._count(what)

    def finish(self) -> None:
        """Disarm what waits, so that the node comes to rest."""
        for role in ("receive", "analyze", "deliver"):
            (self._hospital.node.file.parent / f"points.{role}").unlink(missing_ok=True)

    def count_points(self) -> None:
        """Count the deaths at armed points: those that the log has and we did not cause."""
        lines = self._hospital.node.log_file.read_text().splitlines()
        deaths = [json.loads(line) for line in lines if line.startswith("{") and '"role died"' in line]
        by_signal = sum(event["exit_code"] == -signal.SIGKILL for event in deaths)
        ours = sum(self._report.kills[role] for role in ("receive", "analyze", "deliver"))
        self._report.kills["fail point"] = max(0, by_signal - ours)

    def _count(self, what: str) -> None:
        self._report.kills[what] += 1


class _weather:  # noqa: N801  used as `with _weather(...)`
    """Faults of the lines and the PACSs that come and go while the block runs."""

    def __init__(self, hospital: ChaosHospital, seed: int, report: Report) -> None:
        self._hospital, self._choose, self._report = hospital, random.Random(seed + 1000), report
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join()
        for name, line in self._hospital.lines.items():
            line.clear()
            self._hospital.pacs[name].refuse(0, times=0)
            self._hospital.pacs[name].slow(0)
            self._hospital.pacs[name].cut_after_store(0)

    def _run(self) -> None:
        while not self._stop.wait(self._choose.uniform(0.2, 1.5)):
            name = self._choose.choice(list(self._hospital.lines))
            line, pacs = self._hospital.lines[name], self._hospital.pacs[name]
            line.clear()
            pacs.slow(0)
            match self._choose.randrange(6):
                case 0:
                    line.down()
                case 1:
                    line.slow(0.05)
                case 2:
                    line.cut_after(self._choose.randrange(20_000))
                    self._report.lines_cut += 1
                case 3:
                    pacs.refuse(0xA700, times=2)
                case 4:
                    pacs.cut_after_store(1)
                    self._report.lines_cut += 1
                case 5:
                    pacs.slow(0.3)


def main() -> int:
    """Run what the arguments say and print the report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--studies", type=int, default=500)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--plant", action="store_true")
    arguments = parser.parse_args()
    seed = random.randrange(1 << 30) if arguments.seed is None else arguments.seed
    folder = Path(tempfile.mkdtemp(prefix="dicomnode-chaos-"))
    print(f"seed {seed}, in {folder}", file=sys.stderr)
    report = run(
        folder,
        studies=arguments.studies,
        kills=arguments.kills,
        seed=seed,
        database=arguments.database,
        planted=arguments.plant,
        seconds=arguments.seconds,
    )
    print(report.as_json())
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
