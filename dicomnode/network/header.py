"""What study, series and worklist need of a walked data set, as text.

Standard: PS3.3 C.12.1.1.2 (Specific Character Set), PS3.5 section 6.1 (character sets), PS3.5 section 9 (UIDs).
"""

import re
import struct
from collections.abc import Mapping
from typing import Literal

from pydicom import charset

from dicomnode.domain.study import InstanceHeader, is_uid
from dicomnode.errors import UnreadableObject

MAX_TEXT_LENGTH = 1024
_MAX_TEXT_BYTES = 4 * MAX_TEXT_LENGTH
_DELIMITERS = set(b"\\^=")  # after them the first character set holds again (PS3.5 6.1.2.5.3)

UID_TAGS: Mapping[int, str] = {
    0x00080016: "SOPClassUID",
    0x00080018: "SOPInstanceUID",
    0x0020000D: "StudyInstanceUID",
    0x0020000E: "SeriesInstanceUID",
}
_CHARACTER_SET = 0x00080005
_TEXT_TAGS: Mapping[int, str] = {
    0x00080050: "AccessionNumber",
    0x00080070: "Manufacturer",
    0x00080090: "ReferringPhysicianName",
    0x00081010: "StationName",
    0x00081030: "StudyDescription",
    0x0008103E: "SeriesDescription",
    0x00081090: "ManufacturerModelName",
    0x00100010: "PatientName",
    0x00100020: "PatientID",
    0x00100021: "IssuerOfPatientID",
    0x00181030: "ProtocolName",
    0x00200010: "StudyID",
}
_PLAIN_TAGS: Mapping[int, str] = {
    _CHARACTER_SET: "SpecificCharacterSet",
    0x00080020: "StudyDate",
    0x00080030: "StudyTime",
    0x00080060: "Modality",
    0x00100030: "PatientBirthDate",
    0x00100040: "PatientSex",
    0x00101010: "PatientAge",
    0x00180015: "BodyPartExamined",
    0x00185101: "ViewPosition",
    0x00200011: "SeriesNumber",
    0x00200013: "InstanceNumber",
    0x00200060: "Laterality",
    0x00280008: "NumberOfFrames",
}
_NUMBER_TAGS: Mapping[int, str] = {0x00280010: "Rows", 0x00280011: "Columns"}
WANTED_TAGS = frozenset({*UID_TAGS, *_TEXT_TAGS, *_PLAIN_TAGS, *_NUMBER_TAGS})


def header_of(
    values: Mapping[int, bytes], transfer_syntax_uid: str, byte_order: Literal["<", ">"] = "<"
) -> InstanceHeader:
    """Return the header that the raw `values` (by tag, of the top level) give; attributes without a value are left out.

    Text is decoded with the Specific Character Set; what cannot be decoded becomes U+FFFD. Text longer than
    `MAX_TEXT_LENGTH` is cut. Raises `UnreadableObject` if one of the four UIDs is missing or is none.
    """
    uids = {keyword: _uid(keyword, values.get(tag)) for tag, keyword in UID_TAGS.items()}
    encodings = _encodings(_plain(values.get(_CHARACTER_SET, b"")))
    attributes: dict[str, str] = {}
    for tag, value in values.items():
        if tag in _TEXT_TAGS:
            keyword, text = _TEXT_TAGS[tag], _decoded(value[:_MAX_TEXT_BYTES], encodings)
        elif tag in _PLAIN_TAGS:
            keyword, text = _PLAIN_TAGS[tag], _plain(value[:_MAX_TEXT_BYTES])
        elif tag in _NUMBER_TAGS:
            keyword, text = _NUMBER_TAGS[tag], _number(value, byte_order)
        else:
            continue
        if text:
            attributes[keyword] = text[:MAX_TEXT_LENGTH]
    return InstanceHeader(
        sop_class_uid=uids["SOPClassUID"],
        sop_instance_uid=uids["SOPInstanceUID"],
        transfer_syntax_uid=transfer_syntax_uid,
        study_instance_uid=uids["StudyInstanceUID"],
        series_instance_uid=uids["SeriesInstanceUID"],
        attributes=attributes,
    )


def _uid(keyword: str, value: bytes | None) -> str:
    if value is None:
        raise UnreadableObject(f"the data set has no {keyword}")
    text = value[:80].decode("ascii", "replace").strip(" \0")
    if not is_uid(text):
        raise UnreadableObject(f"the {keyword} of the data set is no UID ({len(value)} bytes)")
    return text


def _plain(value: bytes) -> str:
    return value.decode("ascii", "replace").strip(" \0")


def _number(value: bytes, byte_order: Literal["<", ">"]) -> str:
    return str(struct.unpack_from(f"{byte_order}H", value)[0]) if len(value) >= 2 else ""


def _encodings(character_sets: str) -> list[str]:
    """Return the Python codecs of a Specific Character Set, also of misspelt ones (`ISO-IR 100`); unknown: ASCII."""
    terms = [re.sub(r"^ISO.?(2022)?.?IR.?(\d+)$", _defined_term, term.strip()) for term in character_sets.split("\\")]
    return [charset.python_encoding.get(term, "ascii") for term in terms]


def _defined_term(match: re.Match[str]) -> str:
    return f"ISO 2022 IR {match[2]}" if match[1] else f"ISO_IR {match[2]}"


def _decoded(value: bytes, encodings: list[str]) -> str:
    if b"\x1b" not in value:
        return value.decode(encodings[0], "replace").strip(" \0")
    try:
        return charset.decode_bytes(value, encodings, _DELIMITERS).strip(" \0")
    except (UnicodeError, LookupError, Warning):
        return value.decode(encodings[0], "replace").strip(" \0")
