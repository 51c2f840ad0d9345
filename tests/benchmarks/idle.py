"""What an idle node costs: CPU time of its processes as % of one core; other load on the machine hardly counts.

python -m tests.benchmarks.idle [--seconds 60] [--postgresql URL of an empty database]
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sqlalchemy import text

from tests.hospital import Hospital

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Start a node, let it settle, and print what it costs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--postgresql", default="", help="URL of an empty database; else SQLite")
    parser.add_argument("--threads", action="store_true", help="by thread too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        hospital = Hospital(Path(folder) / "node", {}, quiet_period_s=30, database_url=arguments.postgresql)
        if arguments.postgresql:
            command = [sys.executable, "-m", "dicomnode", "db", "upgrade", "--config", str(hospital.node.file)]
            subprocess.run(command, check=True, capture_output=True)
        with hospital.node:
            time.sleep(15)
            processes = {"supervisor": hospital.node.pid, **hospital.node.pids()}
            servers = server_pids(hospital.node.database)
            before = {pid: cpu_s(pid) for pid in [*processes.values(), *servers]}
            threads = {role: thread_times(pid) for role, pid in processes.items()}
            began = time.monotonic()
            time.sleep(arguments.seconds)
            took = time.monotonic() - began
            used = {role: 100 * (cpu_s(pid) - before[pid]) / took for role, pid in processes.items()}
            for role, percent in used.items():
                print(f"{percent:6.2f} % of a core  {role}")
            print(f"{sum(used.values()):6.2f} % of a core  all processes of the node, over {took:.0f} s")
            if servers:
                percent = 100 * sum(cpu_s(pid) - before[pid] for pid in servers) / took
                print(f"{percent:6.2f} % of a core  PostgreSQL for its connections")
            if arguments.threads:
                show_threads(processes, threads, took)


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process; 0 of one that has ended."""
    with contextlib.suppress(FileNotFoundError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND
    return 0.0


def thread_times(pid: int) -> dict[str, float]:
    """Return CPU seconds by thread (id and name)."""
    times = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        name, _, rest = (task / "stat").read_text().partition("(")[2].rpartition(")")
        fields = rest.split()
        times[f"{task.name} {name}"] = (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND
    return times


def show_threads(processes, threads, took) -> None:
    for role, pid in processes.items():
        for thread, seconds in sorted(thread_times(pid).items()):
            percent = 100 * (seconds - threads[role].get(thread, 0)) / took
            if percent >= 0.1:
                print(f"{percent:9.2f} % {role} thread {thread}")


def server_pids(database) -> list[int]:
    """Return the processes of PostgreSQL that serve the node."""
    if database.dialect == "sqlite":
        return []
    with database.read() as session:
        query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
        return list(session.scalars(text(query)))


if __name__ == "__main__":
    main()
