"""Places where a test may end or freeze this process.

`DICOMNODE_FAILPOINT=NAME:N` kills it (SIGKILL) at the N-th passage of NAME, `NAME:N:stop` freezes it (SIGSTOP), for
the tests of fencing. Without the variable a passage is one comparison. `docs/reliability.md` lists the points.
"""

import os
import signal
import threading

from dicomnode.errors import ConfigError

VARIABLE = "DICOMNODE_FAILPOINT"
NAMES = (
    "spool.written",
    "spool.fsynced",
    "spool.renamed",
    "spool.named",
    "receive.walked",
    "receive.stored",
    "receive.flushed",
    "receive.committed",
    "receive.answering",
    "receive.quarantined",
    "sweep.started",
    "close.chosen",
    "close.closed",
    "close.enqueued",
    "close.committed",
    "analyze.started",
    "analyze.start_committed",
    "analyze.decoded",
    "analyze.predicted",
    "analyze.written",
    "analyze.committed",
    "report.read",
    "report.encoded",
    "report.kept",
    "report.enqueued",
    "report.committed",
    "give_up.written",
    "give_up.committed",
    "deliver.read",
    "send.connected",
    "choose.chosen",
    "send.answered",
    "deliver.sent",
    "settle.written",
    "settle.committed",
    "rounds.ordered",
    "rounds.committed",
    "takeover.found",
    "takeover.done",
    "purge.marked",
    "purge.committed",
    "purge.removed",
    "heartbeat.written",
)
_armed = ""
_passages = 0
_at = 1
_signal = signal.SIGKILL
_lock = threading.Lock()


def arm(text: str) -> None:
    """Arm the point that `text` (NAME:N or NAME:N:stop) names, none if it is empty. Raises `ConfigError`."""
    global _armed, _passages, _at, _signal  # noqa: PLW0603  the process has one
    name, _, rest = text.partition(":")
    number, _, how = rest.partition(":")
    if text and (name not in NAMES or not number.isdecimal() or int(number) < 1 or how not in {"", "stop"}):
        raise ConfigError(f"{VARIABLE}={text}: NAME:N or NAME:N:stop is meant; the names: {', '.join(NAMES)}")
    _armed, _passages, _at = name, 0, int(number or 1)
    _signal = signal.SIGSTOP if how else signal.SIGKILL


def failpoint(name: str) -> None:
    """End or freeze this process if `name` is armed and this is its passage."""
    if name == _armed:
        _pass()


def _pass() -> None:
    global _passages  # noqa: PLW0603
    with _lock:
        _passages += 1
        if _passages == _at:
            os.kill(os.getpid(), _signal)
