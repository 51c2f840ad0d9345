"""The state machine of a study version and of a delivery, each as one table.

The tables are the whole truth: `db.studies.advance` takes them by compare-and-set, and the diagram in
`docs/architecture.md` is made from them.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from dicomnode.errors import LifecycleError


class State(StrEnum):
    """Where a study version stands."""

    RECEIVING = "RECEIVING"
    QUEUED = "QUEUED"
    ANALYZING = "ANALYZING"
    REPORTING = "REPORTING"
    DELIVERING = "DELIVERING"
    DONE = "DONE"
    SKIPPED = "SKIPPED"
    FAILED = "FAILED"
    SUPERSEDED = "SUPERSEDED"

    @property
    def is_final(self) -> bool:
        """Whether nothing more happens to the version unless a newer one arrives or an operator sends it again."""
        return self in (State.DONE, State.SKIPPED, State.SUPERSEDED)


class Event(StrEnum):
    """What moves a study version."""

    QUIET = "QUIET"
    STARTED = "STARTED"
    RELEASED = "RELEASED"
    ANALYZED = "ANALYZED"
    NO_MODEL = "NO_MODEL"
    REPORTED = "REPORTED"
    DELIVERED = "DELIVERED"
    GAVE_UP = "GAVE_UP"
    RETRIED = "RETRIED"
    RESENT = "RESENT"
    NEWER = "NEWER"


S, E = State, Event
TRANSITIONS: Mapping[tuple[State, Event], State] = MappingProxyType(
    {
        (S.RECEIVING, E.QUIET): S.QUEUED,
        (S.QUEUED, E.STARTED): S.ANALYZING,
        (S.ANALYZING, E.RELEASED): S.QUEUED,
        (S.ANALYZING, E.ANALYZED): S.REPORTING,
        (S.ANALYZING, E.NO_MODEL): S.SKIPPED,
        (S.REPORTING, E.REPORTED): S.DELIVERING,
        (S.DELIVERING, E.DELIVERED): S.DONE,
        (S.QUEUED, E.GAVE_UP): S.FAILED,
        (S.ANALYZING, E.GAVE_UP): S.FAILED,
        (S.REPORTING, E.GAVE_UP): S.FAILED,
        (S.DELIVERING, E.GAVE_UP): S.FAILED,
        (S.FAILED, E.RETRIED): S.QUEUED,
        (S.FAILED, E.RESENT): S.DELIVERING,
        (S.DONE, E.RESENT): S.DELIVERING,
        (S.QUEUED, E.NEWER): S.SUPERSEDED,
        (S.FAILED, E.NEWER): S.SUPERSEDED,
        (S.SKIPPED, E.NEWER): S.SUPERSEDED,
        (S.DONE, E.NEWER): S.SUPERSEDED,
    }
)


class DeliveryState(StrEnum):
    """Where one evidence object stands on its way to one destination."""

    DUE = "due"
    WAITING = "waiting"
    UNCOMMITTED = "uncommitted"
    SENT = "sent"
    COMMITTED = "committed"
    DEAD = "dead"

    @property
    def is_settled(self) -> bool:
        """Whether the destination has the object, and has committed to keep it where it can."""
        return self in (DeliveryState.SENT, DeliveryState.COMMITTED)

    @property
    def is_open(self) -> bool:
        """Whether the node will do something more of itself."""
        return self in (DeliveryState.DUE, DeliveryState.WAITING, DeliveryState.UNCOMMITTED)


class CircuitState(StrEnum):
    """Whether a destination is sent to: closed as usual, open not, half open while a probe asks whether it is back."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Stage(StrEnum):
    """A stage of the flow that an operator can pause: nothing new starts in it, what runs ends."""

    RECEIVE = "receive"
    CLOSE = "close"
    ANALYZE = "analyze"
    DELIVER = "deliver"


def next_state(state: State, event: Event) -> State:
    """Return the state after `event`; raise `LifecycleError` where the table has no such row."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise LifecycleError(f"a study version in {state} knows no {event}") from None


def sources(event: Event) -> tuple[State, ...]:
    """Return the states that `event` may leave."""
    return tuple(state for state, known in TRANSITIONS if known is event)


def mermaid() -> str:
    """Return the state machine as a Mermaid state diagram."""
    rows = [f"    {state} --> {after}: {event}" for (state, event), after in TRANSITIONS.items()]
    return "\n".join(["stateDiagram-v2", "    [*] --> RECEIVING", *rows, ""])


if __name__ == "__main__":
    print(mermaid(), end="")  # noqa: T201  the diagram of docs/architecture.md


class BundleState(StrEnum):
    """Where an installed model bundle stands; an operator moves it, and each move is a row."""

    INSTALLED = "installed"
    SHADOW = "shadow"
    ACTIVE = "active"
    RETIRED = "retired"
