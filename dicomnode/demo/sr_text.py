"""A Structured Report as lines of text: one a content item, `name: value unit`, indented as the tree is.

Standard: PS3.3 C.17.3 (SR Document Content).
"""

from collections.abc import Callable, Iterator, Mapping

from pydicom import Dataset

INDENT = "  "
_TEXT_OF = {
    "TEXT": "TextValue",
    "UIDREF": "UID",
    "PNAME": "PersonName",
    "DATE": "Date",
    "TIME": "Time",
    "DATETIME": "DateTime",
}


def lines(ds: Dataset) -> Iterator[str]:
    """Yield the lines of a document: the documents that it replaces, then its tree."""
    yield from (f"replaces document {uid}" for uid in predecessors(ds))
    yield from _item(ds, 0)


def predecessors(ds: Dataset) -> list[str]:
    """Return the SOP Instance UIDs of the documents that this one replaces. Standard: PS3.3 C.17.2."""
    return [
        str(document.ReferencedSOPInstanceUID)
        for study in ds.get("PredecessorDocumentsSequence", ())
        for series in study.ReferencedSeriesSequence
        for document in series.ReferencedSOPSequence
    ]


def _item(item: Dataset, depth: int) -> Iterator[str]:
    name, value = _meaning(item, "ConceptNameCodeSequence"), _value(item)
    yield INDENT * depth + ": ".join(part for part in (name, value) if part)
    for child in item.get("ContentSequence", ()):
        yield from _item(child, depth + 1)


def _value(item: Dataset) -> str:
    kind = str(item.get("ValueType", ""))
    if kind in _TEXT_OF:
        return str(item.get(_TEXT_OF[kind], ""))
    if kind in _VALUE_OF:
        return _VALUE_OF[kind](item)
    reference = item.get("ReferencedContentItemIdentifier")
    return kind if reference is None else f"see item {reference}"


def _number(item: Dataset) -> str:
    measured = item.get("MeasuredValueSequence", ())
    if not measured:
        return _meaning(item, "NumericValueQualifierCodeSequence") or "not measured"
    unit = measured[0].MeasurementUnitsCodeSequence[0]
    written = str(unit.get("CodeValue", ""))
    return f"{measured[0].NumericValue} {unit.CodeMeaning if written.startswith('{') else written}"


def _meaning(item: Dataset, keyword: str) -> str:
    sequence = item.get(keyword, ())
    return str(sequence[0].get("CodeMeaning", "")) if sequence else ""


def _references(item: Dataset) -> str:
    return ", ".join(str(sop.ReferencedSOPInstanceUID) for sop in item.get("ReferencedSOPSequence", ()))


def _points(item: Dataset, dimensions: int) -> str:
    return f"{str(item.get('GraphicType', '')).lower()} of {len(item.get('GraphicData', ())) // dimensions} points"


_VALUE_OF: Mapping[str, Callable[[Dataset], str]] = {
    "CONTAINER": lambda _item: "",
    "CODE": lambda item: _meaning(item, "ConceptCodeSequence"),
    "NUM": _number,
    "IMAGE": _references,
    "COMPOSITE": _references,
    "WAVEFORM": _references,
    "SCOORD": lambda item: _points(item, 2),
    "SCOORD3D": lambda item: _points(item, 3),
}
