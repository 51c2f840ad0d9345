"""The statuses that we answer, and what we make of those that a peer answers: DIMSE, HTTP, failure reasons.

Standard: PS3.4 table B.2-1 (C-STORE), PS3.7 9.1.1.1.9 and annex C (general statuses), PS3.4 GG.4 (warnings),
PS3.3 C.14 (Failure Reason), PS3.18 10.5.3 (status codes of the store transaction).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from types import MappingProxyType


class Status(IntEnum):
    """The statuses that this node answers to C-STORE and C-ECHO."""

    SUCCESS = 0x0000
    """Stored durably (PS3.7 C.1.1)."""
    INVALID_SOP_INSTANCE = 0x0117
    """The SOP Instance UID of the command is no UID (PS3.7 C.5.6)."""
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    """The SOP Class of the command is not that of the presentation context (PS3.7 C.5.12)."""
    NOT_AUTHORIZED = 0x0124
    """The peer may not store here (PS3.7 C.5.22)."""
    OUT_OF_RESOURCES = 0xA700
    """The fault is ours and may pass: no space, no database (PS3.4 B.2.3)."""
    DATA_SET_DOES_NOT_MATCH = 0xA900
    """The data set contradicts its command (PS3.4 B.2.3)."""
    CANNOT_UNDERSTAND = 0xC000
    """The bytes are no complete data set (PS3.4 B.2.3)."""


class Outcome(Enum):
    """What a sender does after one attempt.

    A warning counts as accepted: the peer keeps the object. `UNAVAILABLE` says nothing of the object: the peer did not
    answer, or takes nothing now, so that there is no use in sending it another one.
    """

    ACCEPTED = "accepted"
    WARNING = "warning"
    RETRY = "retry"
    REFUSED = "refused"
    UNAVAILABLE = "unavailable"

    @property
    def is_accepted(self) -> bool:
        """Whether the peer has the object."""
        return self in (Outcome.ACCEPTED, Outcome.WARNING)


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a status of a C-STORE response, or a Failure Reason, says to a sender."""

    outcome: Outcome
    text: str
    reference: str


_A, _W, _R, _D = Outcome.ACCEPTED, Outcome.WARNING, Outcome.RETRY, Outcome.REFUSED
_STORE, _GENERAL = "PS3.4 B.2.3", "PS3.7 9.1.1.1.9 and annex C"
STATUSES: Mapping[int, Meaning] = MappingProxyType(
    {
        0x0000: Meaning(_A, "success", "PS3.7 C.1"),
        0x0001: Meaning(_W, "requested optional attributes are not supported", "PS3.7 C.4"),
        0x0105: Meaning(_D, "no such attribute", _GENERAL),
        0x0106: Meaning(_D, "invalid attribute value", _GENERAL),
        0x0107: Meaning(_W, "attribute list error", "PS3.7 C.4"),
        0x0110: Meaning(_R, "processing failure", _GENERAL),  # says nothing of the object
        0x0111: Meaning(_D, "duplicate SOP instance", _GENERAL),
        0x0112: Meaning(_D, "no such SOP instance", _GENERAL),
        0x0113: Meaning(_D, "no such event type", _GENERAL),
        0x0114: Meaning(_D, "no such argument", _GENERAL),
        0x0115: Meaning(_D, "invalid argument value", _GENERAL),
        0x0116: Meaning(_W, "attribute value out of range", "PS3.7 C.4"),
        0x0117: Meaning(_D, "invalid SOP instance", _GENERAL),
        0x0118: Meaning(_D, "no such SOP class", _GENERAL),
        0x0119: Meaning(_D, "class-instance conflict", _GENERAL),
        0x0120: Meaning(_D, "missing attribute", _GENERAL),
        0x0121: Meaning(_D, "missing attribute value", _GENERAL),
        0x0122: Meaning(_D, "SOP class not supported", _GENERAL),
        0x0123: Meaning(_D, "no such action", _GENERAL),
        0x0124: Meaning(_D, "not authorized", _GENERAL),
        0x0131: Meaning(_R, "duplicate transaction UID", "PS3.3 C.14"),
        0x0210: Meaning(_R, "duplicate invocation", _GENERAL),
        0x0211: Meaning(_D, "unrecognized operation", _GENERAL),
        0x0212: Meaning(_D, "mistyped argument", _GENERAL),
        0x0213: Meaning(_R, "resource limitation", _GENERAL),
        0xB000: Meaning(_W, "coercion of data elements", _STORE),
        0xB006: Meaning(_W, "elements discarded", _STORE),
        0xB007: Meaning(_W, "data set does not match SOP class", _STORE),
        0xFE00: Meaning(_R, "cancelled", "PS3.7 C.3"),
    }
)
_RANGES: tuple[tuple[int, int, Meaning], ...] = (
    (0xA700, 0xFF00, Meaning(_R, "out of resources", _STORE)),
    (0xA900, 0xFF00, Meaning(_D, "data set does not match SOP class", _STORE)),
    (0xC000, 0xF000, Meaning(_D, "cannot understand", _STORE)),
    (0xB000, 0xF000, Meaning(_W, "unknown", "PS3.7 C.4: the object is stored")),
)
_UNKNOWN = Meaning(_D, "unknown", "none: an operator must see it")


def meaning(status: int) -> Meaning:
    """Return what a status means: the standard's, else that of its range, else refused, for an operator to see."""
    if status in STATUSES:
        return STATUSES[status]
    return next((what for start, mask, what in _RANGES if status & mask == start), _UNKNOWN)


def classify(status: int) -> Outcome:
    """Return what the status of a C-STORE response means for the sender."""
    return meaning(status).outcome


def describe(status: int) -> str:
    """Return a status as an operator reads it: `0xA700 (out of resources)`."""
    return f"0x{status:04X} ({meaning(status).text})"


_UNCOMMITTED_FOR_NOW = frozenset({0x0110, 0x0112, 0x0131, 0x0213})


def classify_commitment_failure(reason: int) -> Outcome:
    """Return what follows from the Failure Reason of an object that the peer did not commit to.

    What it does not have (any more) is sent again; a SOP Class that it does not know or that contradicts what it holds
    never succeeds. Standard: PS3.3 C.14.1.1.
    """
    return Outcome.RETRY if reason in _UNCOMMITTED_FOR_NOW else Outcome.REFUSED


_HTTP: Mapping[int, Outcome] = MappingProxyType(
    {
        401: Outcome.UNAVAILABLE,  # the credentials, the address or the proxy are wrong: no object would fare better
        403: Outcome.UNAVAILABLE,
        404: Outcome.UNAVAILABLE,
        405: Outcome.UNAVAILABLE,
        407: Outcome.UNAVAILABLE,
        408: Outcome.UNAVAILABLE,
        425: Outcome.RETRY,
        429: Outcome.UNAVAILABLE,
        500: Outcome.RETRY,
        501: Outcome.UNAVAILABLE,
        502: Outcome.UNAVAILABLE,
        503: Outcome.UNAVAILABLE,
        504: Outcome.UNAVAILABLE,
        507: Outcome.RETRY,
    }
)


def classify_http(status: int) -> Outcome:
    """Return what the HTTP status of a store transaction means, where its body says nothing of the object.

    Standard: PS3.18 table 10.5.3-1; RFC 9110 section 15.
    """
    if 200 <= status < 300:
        return Outcome.ACCEPTED
    if 300 <= status < 400:
        return Outcome.UNAVAILABLE
    return _HTTP.get(status, Outcome.RETRY if status >= 500 else Outcome.REFUSED)
