"""The DIMSE statuses that we answer, and what we make of those that a peer answers.

Standard: PS3.4 table B.2-1 (C-STORE), PS3.7 9.1.1.1.9 and annex C (general statuses), PS3.4 GG.4 (warnings).
"""

from enum import Enum, IntEnum


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
    """What a sender does after a C-STORE response."""

    ACCEPTED = "accepted"
    RETRY = "retry"
    REFUSED = "refused"


_ACCEPTED = frozenset(
    {
        0x0000,
        0x0001,  # requested optional attributes are not supported (PS3.7 C.4.4)
        0x0107,  # attribute list error (PS3.7 C.4.2)
        0x0116,  # attribute value out of range (PS3.7 C.4.3)
        0xB000,  # coercion of data elements
        0xB006,  # elements discarded
        0xB007,  # data set does not match its SOP Class, but is kept
    }
)
_RETRY = frozenset(
    {
        0x0110,  # processing failure: general, says nothing of the object
        0x0210,  # duplicate invocation
        0x0213,  # resource limitation
        0xFE00,  # cancelled
    }
)
_TEXTS = {
    0x0105: "no such attribute",
    0x0106: "invalid attribute value",
    0x0110: "processing failure",
    0x0111: "duplicate SOP instance",
    0x0112: "no such SOP instance",
    0x0117: "invalid SOP instance",
    0x0118: "no such SOP class",
    0x0122: "SOP class not supported",
    0x0124: "not authorized",
    0x0210: "duplicate invocation",
    0x0211: "unrecognized operation",
    0x0212: "mistyped argument",
    0x0213: "resource limitation",
    0xB000: "coercion of data elements",
    0xB006: "elements discarded",
    0xB007: "data set does not match SOP class",
}


def classify(status: int) -> Outcome:
    """Return what the status of a C-STORE response means for the sender.

    Unknown statuses of the warning class (0xBxxx) count as accepted: PS3.7 9.1.1 has the object stored with them.
    Everything else that is unknown is refused, for an operator to see.
    """
    if status in _ACCEPTED or status & 0xF000 == 0xB000:
        return Outcome.ACCEPTED
    if status in _RETRY or status & 0xFF00 == 0xA700:
        return Outcome.RETRY
    return Outcome.REFUSED


def describe(status: int) -> str:
    """Return a status as an operator reads it: `0xA700 (out of resources)`."""
    text = _TEXTS.get(status)
    if status == Status.SUCCESS:
        text = "success"
    elif status & 0xFF00 == 0xA700:
        text = "out of resources"
    elif status & 0xFF00 == 0xA900:
        text = "data set does not match SOP class"
    elif status & 0xF000 == 0xC000:
        text = "cannot understand"
    return f"0x{status:04X} ({text or 'unknown'})"
