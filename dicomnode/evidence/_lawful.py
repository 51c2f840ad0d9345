"""Values as DICOM allows them: the same meaning in lawful form where there is one, else nothing.

Names and identifiers are not touched, whatever they look like: the archive finds the patient and the order by them.

Standard: PS3.5 section 6.2 (Value Representations), PS3.3 C.7.1.1 (Patient's Sex).
"""

import re
from datetime import datetime

from pydicom import DataElement
from pydicom.config import RAISE
from pydicom.datadict import dictionary_VM
from pydicom.valuerep import VR, validate_value

_DATE = re.compile(r"((?:1[89]|2\d)\d\d)\.?(\d\d)\.?(\d\d)")
_TIME = re.compile(r"([01]\d|2[0-3])(?::?([0-5]\d)(?::?([0-5]\d|60)(\.\d{1,6})?\d*)?)?")
_IDENTIFIERS = frozenset(("PatientName", "PatientID", "AccessionNumber", "StudyID", "ReferringPhysicianName"))


def lawful(element: DataElement) -> DataElement | None:
    """Return `element`, repaired if its value means something that can be written lawfully, else None."""
    if element.keyword in _IDENTIFIERS or element.is_empty or element.VR == VR.SQ:
        return element
    value = str(element.value).strip(" \0")
    if element.VR == VR.DA:
        return _with(element, _date(value))
    if element.VR == VR.TM:
        return _with(element, _time(value))
    if element.keyword == "PatientSex":
        return _with(element, value.upper() if value.upper() in ("M", "F", "O") else "")
    return element if _is_valid(element) else None


def _with(element: DataElement, value: str) -> DataElement | None:
    return DataElement(element.tag, element.VR, value) if value else None


def _date(value: str) -> str:
    """Return YYYYMMDD, also for the dots of ACR-NEMA, or an empty text."""
    match = _DATE.fullmatch(value)
    digits = "".join(match.groups()) if match else ""
    try:
        datetime.strptime(digits, "%Y%m%d")  # noqa: DTZ007  a calendar date has no time zone
    except ValueError:
        return ""
    return digits


def _time(value: str) -> str:
    """Return HHMMSS.FFFFFF as far as it is given, without colons and without more than six decimals."""
    match = _TIME.fullmatch(value)
    return "".join(part or "" for part in match.groups()) if match else ""


def _is_valid(element: DataElement) -> bool:
    values = list(element.value) if element.VM > 1 else [element.value]
    if element.VM > 1 and dictionary_VM(element.tag) == "1":
        return False
    try:
        for value in values:
            validate_value(element.VR, str(value), RAISE)
    except ValueError:
        return False
    return True
