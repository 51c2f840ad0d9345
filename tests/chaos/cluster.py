"""A PostgreSQL of a test's own, to be killed and started again at will."""

import glob
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg

from tests.hospital import free_port
from tests.needs import missing


class Cluster:
    """A cluster in a folder of its own; `url` is that of an empty database."""

    def __init__(self) -> None:
        found = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
        if not found:
            missing("/usr/lib/postgresql/*/bin is absent")
        self._bin = Path(found[-1])
        self._folder = Path(tempfile.mkdtemp(prefix="dicomnode-pg-"))
        self.port = free_port()
        if os.getuid() == 0:
            shutil.chown(self._folder, "postgres", "postgres")
        self._run(self._bin / "initdb", "-D", self._folder / "data", "-U", "postgres", "-A", "trust", "--no-sync")
        self.start()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self, timeout_s: float = 120) -> None:
        """Start the server and wait until it answers."""
        deadline = time.monotonic() + timeout_s
        options = f"-p {self.port} -k {self._folder} -c listen_addresses=127.0.0.1 -c shared_buffers=32MB"
        while True:
            try:
                self._run(
                    self._bin / "pg_ctl", "-D", self._folder / "data", "-o", options,
                    "-l", self._folder / "log", "-w", "start",
                )  # fmt: skip
                break
            except subprocess.CalledProcessError:  # processes of the killed one still hold its memory
                if time.monotonic() > deadline:
                    raise AssertionError((self._folder / "log").read_text()[-2000:]) from None
                time.sleep(0.3)
        while True:
            try:
                psycopg.connect(self.conninfo, connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    @property
    def conninfo(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def kill(self) -> None:
        """End the server by SIGKILL, as a power cut would; its children follow."""
        pid = int((self._folder / "data/postmaster.pid").read_text().split()[0])
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def _run(self, *command: object) -> None:
        prefix = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        subprocess.run(
            [*prefix, *map(str, command)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/tmp"
        )
