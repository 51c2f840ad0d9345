"""A node whose processes are forks of one that has imported everything: a restart costs a tenth of a new interpreter.

Run as a program it reads lines from its standard input: `start` forks a supervisor and prints its process id.
Supervisor and roles are the product's; only how a child process comes to be is replaced. Before each start of a role
the first line of `FOLDER/points.ROLE`, if there is one, arms a fail point in it. A file `FOLDER/plant` plants a fault.
"""

import contextlib
import importlib
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import ClassVar

from dicomnode import config, evidence, failpoint, log
from dicomnode.cli import roles, supervisor
from dicomnode.flow import bundles
from dicomnode.flow.receive import Reception

IMPORTED_BY_ROLES = (
    "dicomnode.engine",
    "dicomnode.flow.report",
    "dicomnode.flow.sweep",
    "dicomnode.inference.predict",
    "dicomnode.network.scp",
)
PLANTED_DELAY_S = 5.0


class Forked:
    """What the supervisor needs of a child process."""

    write_ends: ClassVar[list[int]] = []

    def __init__(self, folder: Path, role: str, executor_id: str) -> None:
        read_end, write_end = os.pipe()
        self.returncode: int | None = None
        self.stdin = os.fdopen(write_end, "wb")
        self.pid = os.fork()
        if self.pid == 0:
            _in_child(lambda: self._run(folder, role, executor_id, read_end, write_end))
        os.close(read_end)
        Forked.write_ends.append(write_end)

    @staticmethod
    def _run(folder: Path, role: str, executor_id: str, read_end: int, write_end: int) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the supervisor's handler would swallow it
        os.setsid()
        os.dup2(read_end, 0)
        for descriptor in (write_end, *Forked.write_ends):  # or a dead supervisor's pipe would stay open in us
            with contextlib.suppress(OSError):
                os.close(descriptor)
        os.environ[failpoint.VARIABLE] = _next_point(folder, role)
        roles._stop_with_supervisor = _wait_for_end
        roles.run(roles.Role(role), config.load(folder / config.FILE_NAME), executor_id, supervised=True)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = threading.Event()
        waited = 0.0
        while self.poll() is None:
            if timeout is not None and waited > timeout:
                raise supervisor.subprocess.TimeoutExpired("role", timeout)
            deadline.wait(0.05)
            waited += 0.05
        return self.returncode or 0

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


def _wait_for_end(stop: threading.Event) -> None:
    while os.read(0, 4096):
        pass
    stop.set()


def _next_point(folder: Path, role: str) -> str:
    file = folder / f"points.{role}"
    lines = file.read_text().splitlines() if file.exists() else []
    if not lines:
        return ""
    file.write_text("".join(f"{line}\n" for line in lines[1:]))
    with (folder / "armed").open("a") as armed:
        armed.write(f"{role} {lines[0]}\n")
    return lines[0]


def _in_child(work) -> None:
    code = 1
    try:
        work()
        code = 0
    except BaseException:  # noqa: BLE001  it must not run on as a second zygote
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _acknowledge_before_commit() -> None:
    """The planted fault: the row is written by a thread, after the answer."""
    add_row = Reception._add_row

    def later(self, *what):
        threading.Timer(PLANTED_DELAY_S, add_row, (self, *what)).start()

    Reception._add_row = later


def _supervise(folder: Path) -> None:
    file = folder / config.FILE_NAME
    settings = config.load(file)
    log.configure(level=settings.log.level, as_json=settings.log.as_json)

    def start(role, _config_file, pause_s):
        executor_id = roles.new_executor_id()
        return supervisor._Child(role, executor_id, Forked(folder, role, executor_id), pause_s)

    supervisor._start = start
    supervisor.supervise(settings, file)


def main(folder: Path) -> None:
    """Import and warm up what the roles need, then fork a supervisor for each line that arrives."""
    if (folder / "plant").exists():
        _acknowledge_before_commit()
    for name in IMPORTED_BY_ROLES:
        importlib.import_module(name)
    bundles.load_set(config.load(folder / config.FILE_NAME), {})
    evidence.warm_up()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    print("ready", flush=True)
    started: list[int] = []
    while os.read(0, 4096):
        pid = os.fork()
        if pid == 0:
            _in_child(lambda: _supervise(folder))
        started.append(pid)
        print(pid, flush=True)
        threading.Thread(target=os.waitpid, args=(pid, 0), daemon=True).start()
    for pid in started:  # whoever started us has ended: nothing stays behind
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
