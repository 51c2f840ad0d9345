"""Identities of a study: UIDs, what is read from an arriving instance, which version is which.

Standard: PS3.5 section 9 (UIDs), PS3.5 B.2 (UUID derived UIDs).
"""

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

UID_NAMESPACE = uuid.UUID("6b7d3b54-1a5c-5d7e-9d43-9f8a1c1e0d11")
_UID = re.compile(r"[0-9]+(?:\.[0-9]+)*")
MAX_UID_LENGTH = 64


def is_uid(text: str) -> bool:
    """Return whether `text` can be a UID and is safe in a path: digits and single dots, at most 64 characters.

    Leading zeros in a component are not refused: real devices write them.
    """
    return len(text) <= MAX_UID_LENGTH and _UID.fullmatch(text) is not None


def derived_uid(*parts: str | int) -> str:
    """Return the UID that `parts` always give (UUIDv5 as `2.25.`): a repeated step makes the same object."""
    name = "\x1f".join(str(part) for part in parts)
    return f"2.25.{uuid.uuid5(UID_NAMESPACE, name).int}"


@dataclass(frozen=True, slots=True)
class InstanceHeader:
    """What study, series and worklist need of one SOP Instance, read while its data set was walked.

    `attributes` maps DICOM keywords to decoded text (several values joined by a backslash, names as in the source).
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str
    series_instance_uid: str
    attributes: Mapping[str, str] = field(default_factory=dict)


def version_uid(study_instance_uid: str, number: int) -> str:
    """Return the identity of version `number` of a study, the same on every host."""
    return derived_uid("study version", study_instance_uid, number)
