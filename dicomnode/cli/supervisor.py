"""The supervisor behind `dicomnode serve`: a child process for each role, started again when it dies."""

import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from dicomnode import log as logs
from dicomnode.cli.roles import Role, new_executor_id
from dicomnode.config import Settings
from dicomnode.db import processes
from dicomnode.db.session import Database
from dicomnode.errors import Transient

log = logs.get_logger(__name__)
FIRST_PAUSE_S, LONGEST_PAUSE_S, STOP_WAIT_S = 1.0, 30.0, 30.0


@dataclass
class _Child:
    role: Role
    executor_id: str
    process: subprocess.Popen[bytes]
    pause_s: float
    restart_at: float | None = None


def supervise(settings: Settings, config_file: Path | None) -> None:
    """Keep one process a role running until SIGTERM or SIGINT; then end them in order, the receiver first."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    database = Database(settings.database_url, pool_size=1)
    children = [_start(role, config_file, 0.0) for role in Role]
    log.info("node starts", receiver=f"{settings.node.ae_title}@{settings.receiver.host}:{settings.receiver.port}")
    try:
        while not stop.wait(0.2):
            children = [_watch(child, database, config_file) for child in children]
    finally:
        _end(children)
        database.close()
    log.info("node stopped")


def _start(role: Role, config_file: Path | None, pause_s: float) -> _Child:
    executor_id = new_executor_id()
    command = [sys.executable, "-m", "dicomnode", "serve", "--role", role, "--executor-id", executor_id]
    if config_file is not None:
        command += ["--config", str(config_file)]
    # its standard input stays open as long as we live: a child whose supervisor was killed ends itself
    process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603
    return _Child(role, executor_id, process, pause_s)


def _watch(child: _Child, database: Database, config_file: Path | None) -> _Child:
    code = child.process.poll()
    if code is None:
        return child
    if child.restart_at is None:
        _close_stdin(child)
        was_ready = _forget(child, database)
        child.pause_s = 0.0 if was_ready else min(max(FIRST_PAUSE_S, 2 * child.pause_s), LONGEST_PAUSE_S)
        child.restart_at = time.monotonic() + child.pause_s
        log.error("role died", role=str(child.role), exit_code=code, restart_in_s=child.pause_s)
    if time.monotonic() < child.restart_at:
        return child
    return _start(child.role, config_file, child.pause_s)


def _forget(child: _Child, database: Database) -> bool:
    """Say at once that the child is gone: its work is taken over by the next sweep, not after its silence.

    Returns whether it had been ready: one that dies before is started again with growing pauses.
    """
    try:
        with database.write() as session:
            return processes.forget(session, child.executor_id)
    except Transient as exc:
        log.warning("the database does not know yet that a role died", error=str(exc))
        return False


def _end(children: list[_Child]) -> None:
    for child in children:
        if child.process.poll() is None:
            child.process.terminate()
    deadline = time.monotonic() + STOP_WAIT_S
    for child in children:
        try:
            child.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.error("role did not stop", role=str(child.role), pid=child.process.pid)
            child.process.kill()
            child.process.wait()
        _close_stdin(child)


def _close_stdin(child: _Child) -> None:
    if child.process.stdin is not None:
        child.process.stdin.close()
