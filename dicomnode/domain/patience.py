"""How long to wait before the next try, and when not to try at all: back-off and the circuit of a destination.

A circuit is closed while the peer answers. After so many failures in a row it is open: nothing is sent, one probe at a
time asks whether the peer is back. A refused object is no failure of the peer.
"""

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum

from dicomnode.domain.lifecycle import CircuitState


def back_off(first_s: float, longest_s: float, failures: int, seed: str) -> timedelta:
    """Return the wait after `failures` (1, 2, ...) failures: doubling, at most `longest_s`, less up to half by jitter.

    The jitter is a digest of `seed` and `failures`: the same always, and different for two seeds.
    """
    doubled = min(first_s * 2 ** min(max(failures, 1) - 1, 30), longest_s)
    digest = hashlib.sha256(f"{seed}/{failures}".encode()).digest()
    fraction = int.from_bytes(digest[:4], "big") / 2**32
    return timedelta(seconds=doubled * (1 - fraction / 2))


class Action(Enum):
    """What may be done with a destination now."""

    SEND = "send"
    PROBE = "probe"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings of a circuit: how many failures open it, the first wait and the longest ones, in seconds."""

    failures: int
    first_s: float
    longest_s: float
    longest_probe_s: float


@dataclass(frozen=True, slots=True)
class Circuit:
    """Whether a peer answers: `failures` in a row, and when it may be tried again after one."""

    name: str
    state: CircuitState = CircuitState.CLOSED
    failures: int = 0
    opened_at: datetime | None = None
    next_probe_at: datetime | None = None
    last_error: str = ""

    def action(self, at: datetime) -> Action:
        """Return what may be done at a moment."""
        if self.next_probe_at is not None and at < self.next_probe_at:
            return Action.WAIT
        return Action.SEND if self.state is CircuitState.CLOSED else Action.PROBE

    def probing(self, at: datetime, lease_s: float) -> "Circuit":
        """Return the circuit while one probe is under way; where that is lost, another may follow after `lease_s`."""
        return replace(self, state=CircuitState.HALF_OPEN, next_probe_at=at + timedelta(seconds=lease_s))

    def failed(self, at: datetime, error: str, limits: Limits, wait_s: float = 0.0) -> "Circuit":
        """Return the circuit after one more failure; `wait_s` is what the peer itself asked for."""
        failures = self.failures + 1
        is_open = failures >= limits.failures or self.state is not CircuitState.CLOSED
        longest_s = limits.longest_probe_s if is_open else limits.longest_s
        wait = max(back_off(limits.first_s, longest_s, failures, self.name), timedelta(seconds=wait_s))
        return replace(
            self,
            state=CircuitState.OPEN if is_open else CircuitState.CLOSED,
            failures=failures,
            opened_at=(self.opened_at or at) if is_open else None,
            next_probe_at=at + wait,
            last_error=error,
        )

    def reached(self) -> "Circuit":
        """Return the circuit after a probe was answered: it is closed, and the next failure opens it at once."""
        return replace(self, state=CircuitState.CLOSED, opened_at=None, next_probe_at=None)

    def answered(self) -> "Circuit":
        """Return the circuit after the peer answered for an object, whatever it said of it."""
        return Circuit(self.name)
