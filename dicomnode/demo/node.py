"""A node as a child process in a folder of its own: what `dicomnode demo` and the tests watch and disturb."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from dicomnode import config
from dicomnode.db import processes
from dicomnode.db.session import Database, now
from dicomnode.errors import DicomnodeError, Transient

ROLES = frozenset({"receive", "analyze", "deliver"})


class NodeDied(DicomnodeError):
    """The node ended although nobody asked it to."""


class RunningNode:
    """`dicomnode serve` over the settings in `folder/dicomnode.toml`; its log is `folder/node.log`."""

    def __init__(self, folder: Path, settings_text: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / config.FILE_NAME
        self.file.write_text(settings_text, encoding="utf-8")
        self.log_file = folder / "node.log"
        self.settings = config.load(self.file)
        self.database = Database(self.settings.database_url, pool_size=2)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self.database.close()

    @property
    def pid(self) -> int:
        """The process id of the supervisor."""
        if self._process is None:
            raise NodeDied("the node was not started")
        return self._process.pid

    def start(self, timeout_s: float = 120.0) -> None:
        """Start the supervisor and wait until every role is ready. Raises `NodeDied` with the end of the log."""
        command = [sys.executable, "-m", "dicomnode", "serve", "--config", str(self.file)]
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        self.wait_ready(timeout_s)

    def wait_ready(self, timeout_s: float = 120.0) -> None:
        """Wait until each role has a live process."""
        deadline = time.monotonic() + timeout_s
        while not self.pids().keys() >= ROLES:
            if self._process is None or self._process.poll() is not None:
                raise NodeDied(f"the node ended while it started; {self.log_file} ends with:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise NodeDied(f"no node within {timeout_s:g} s; {self.log_file} ends with:\n{self.log_tail()}")
            time.sleep(0.05)

    def pids(self) -> dict[str, int]:
        """Return the process ids of the live roles; empty before there is a database."""
        try:
            with self.database.read() as session:
                return {process.role: process.pid for process in processes.alive(session, now(session))}
        except Transient:
            return {}

    def kill(self, role: str) -> int:
        """End the process of a role with SIGKILL and return its id."""
        pid = self.pids()[role]
        os.kill(pid, signal.SIGKILL)
        return pid

    def stop(self, timeout_s: float = 60.0) -> None:
        """End the node by SIGTERM; by SIGKILL if it takes longer than `timeout_s`."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise NodeDied(f"the node did not stop within {timeout_s:g} s of SIGTERM: {self.log_tail()}") from None
        finally:
            self._process = None

    def kill_all(self) -> None:
        """End the supervisor by SIGKILL; its roles end themselves."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def log_tail(self, lines: int = 30) -> str:
        """Return the end of the log."""
        if not self.log_file.is_file():
            return ""
        return "\n".join(self.log_file.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
