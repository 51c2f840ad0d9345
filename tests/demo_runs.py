"""`dicomnode demo` as a child process, and which processes it left."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

TIMEOUT_S = 240


def command(folder, *options):
    """The command line of a demo that ends with JSON."""
    return [sys.executable, "-m", "dicomnode", "demo", "--json", "--folder", str(folder), *options]


def demo(folder, *options):
    """Run the demo and return its exit code, what it says in JSON, and what it told on the way."""
    ended = subprocess.run(command(folder, *options), capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    return ended.returncode, json.loads(ended.stdout) if ended.stdout else {}, ended.stderr


def reports(said):
    """The Structured Reports of all versions."""
    return [line for version in said["versions"] for line in version["objects"] if line["is_report"]]


def processes_of(folder):
    """Command lines of the processes that work in `folder`, beside the demo itself."""
    lines = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode() if entry.name.isdigit() else ""
        except OSError:  # it ended meanwhile
            continue
        if str(folder) in line and int(entry.name) != os.getpid() and " demo " not in line:
            lines.append(line)
    return lines


def wait_for_processes(folder, count):
    """Wait until so many processes work in `folder`."""
    deadline = time.monotonic() + TIMEOUT_S
    while len(processes_of(folder)) < count:
        assert time.monotonic() < deadline, f"{processes_of(folder)} work in {folder}, {count} are wanted"
        time.sleep(0.1)
