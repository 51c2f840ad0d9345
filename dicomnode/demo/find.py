"""Answers to C-FIND over the headers that a demo PACS holds.

Standard: PS3.4 C.2.2.2 (single value, list of UID and universal matching), C.6.2.1 (Study Root).
"""

from collections.abc import Iterable, Sequence

from pydicom import Dataset
from pydicom.dataelem import DataElement
from pydicom.multival import MultiValue

LEVELS = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}
HEADER_KEYWORDS = (
    "SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID",
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "StudyDescription", "ReferringPhysicianName", "Modality", "SeriesNumber", "SeriesDescription",
    "InstanceNumber", "Rows", "Columns",
)  # fmt: skip
_CONTROL = ("QueryRetrieveLevel", "SpecificCharacterSet")


def answers(identifier: Dataset, headers: Sequence[Dataset]) -> list[Dataset]:
    """Return one answer for each study, series or instance of `headers` that `identifier` matches.

    A key without a value matches everything, one with a value must be equal; wildcards and ranges are not supported.
    Raises `ValueError` if the level is none of STUDY, SERIES and IMAGE.
    """
    level = str(identifier.get("QueryRetrieveLevel", ""))
    if level not in LEVELS:
        raise ValueError(f"QueryRetrieveLevel {level!r} is none of {', '.join(LEVELS)}")
    groups: dict[str, list[Dataset]] = {}
    for header in headers:
        if LEVELS[level] in header:
            groups.setdefault(str(header[LEVELS[level]].value), []).append(header)
    found = ((members[0], _counts(headers, members)) for members in groups.values())
    return [_answer(identifier, level, header, counts) for header, counts in found if _matches(identifier, header)]


def _matches(identifier: Dataset, header: Dataset) -> bool:
    keys = (e for e in identifier if e.keyword not in _CONTROL and e.keyword in HEADER_KEYWORDS and not e.is_empty)
    return all(str(header.get(e.keyword, "")) in _values(e) for e in keys)


def _values(element: DataElement) -> list[str]:
    return [str(v) for v in element.value] if isinstance(element.value, MultiValue) else [str(element.value)]


def _counts(headers: Iterable[Dataset], members: Sequence[Dataset]) -> dict[str, int | list[str]]:
    """Return the attributes that count what belongs to the study and to the series of `members`."""
    study = [h for h in headers if h.get("StudyInstanceUID") == members[0].get("StudyInstanceUID")]
    series = [h for h in study if h.get("SeriesInstanceUID") == members[0].get("SeriesInstanceUID")]
    return {
        "NumberOfStudyRelatedSeries": len({h.get("SeriesInstanceUID") for h in study}),
        "NumberOfStudyRelatedInstances": len(study),
        "NumberOfSeriesRelatedInstances": len(series),
        "ModalitiesInStudy": sorted({str(h.get("Modality", "")) for h in study}),
    }


def _answer(identifier: Dataset, level: str, header: Dataset, counts: dict[str, int | list[str]]) -> Dataset:
    answer = Dataset()
    for element in identifier:
        value = counts.get(element.keyword, header.get(element.keyword))
        answer.add_new(element.tag, element.VR, value)
    answer.SpecificCharacterSet = header.get("SpecificCharacterSet", "ISO_IR 6")
    answer.QueryRetrieveLevel = level
    answer[LEVELS[level]] = header[LEVELS[level]]
    return answer
