"""A running node whose processes are forks (`tests.chaos.zygote`)."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from dicomnode.demo.node import ROLES, NodeDied, RunningNode


class ForkedNode(RunningNode):
    """`RunningNode` with a supervisor and roles that start in a moment, and fail points that can be armed."""

    supervisor_pid = 0

    def start(self, timeout_s: float = 120.0) -> None:
        if self._process is None:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            with self.log_file.open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "tests.chaos.zygote", str(self.file.parent)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=environment,
                    start_new_session=True,
                )
            self._expect("ready")
        self.start_supervisor()
        self.wait_ready(timeout_s)

    def start_supervisor(self) -> None:
        """Fork a supervisor; its roles come up by and by."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(b"start\n")
        self._process.stdin.flush()
        self.supervisor_pid = int(self._expect())

    def kill_supervisor(self) -> None:
        """End the supervisor by SIGKILL; its roles end themselves."""
        os.kill(self.supervisor_pid, signal.SIGKILL)

    def arm(self, role: str, *points: str) -> None:
        """Arm one of `points` (NAME:N) at each start of `role` from now on."""
        with (self.file.parent / f"points.{role}").open("a") as file:
            file.writelines(f"{point}\n" for point in points)

    @property
    def armed(self) -> list[str]:
        """What was armed, in order."""
        file = self.file.parent / "armed"
        return file.read_text().splitlines() if file.exists() else []

    @property
    def waiting_points(self) -> int:
        """How many points wait for the next starts."""
        return sum(
            len([line for line in file.read_text().splitlines() if line])
            for role in ROLES
            if (file := self.file.parent / f"points.{role}").exists()
        )

    def stop(self, timeout_s: float = 120.0) -> None:
        """End supervisor and roles by SIGTERM, then the zygote."""
        if self._process is None:
            return
        pids = [self.supervisor_pid, *self.pids().values()]
        for pid in pids[:1]:
            _signal(pid, signal.SIGTERM)
        deadline = time.monotonic() + timeout_s
        while any(map(is_running, pids)):
            if time.monotonic() > deadline:
                for pid in pids:
                    _signal(pid, signal.SIGKILL)
                raise NodeDied(f"the node did not stop within {timeout_s:g} s: {self.log_tail()}")
            time.sleep(0.05)
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:  # it holds nothing any more
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process = None

    def _expect(self, text: str = "") -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode().strip()
        if not line or (text and line != text):
            raise NodeDied(f"{line!r} instead of {text or 'a process id'!r}: {self.log_tail()}")
        return line


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
