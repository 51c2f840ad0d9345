"""A Structured Report as text."""

import pytest
from pydicom import Dataset
from pydicom.sr.coding import Code

from dicomnode.demo import sr_text


def item(value_type, name="", **values):
    ds = Dataset()
    ds.ValueType = value_type
    if name:
        ds.ConceptNameCodeSequence = [coded(name)]
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def coded(meaning, value="1"):
    ds = Dataset()
    code = Code(value, "99TEST", meaning)
    ds.CodeValue, ds.CodingSchemeDesignator, ds.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return ds


def number(value, unit):
    measured = Dataset()
    measured.NumericValue, measured.MeasurementUnitsCodeSequence = value, [unit]
    return item("NUM", "Size", MeasuredValueSequence=[measured])


def reference(uid):
    ds = Dataset()
    ds.ReferencedSOPInstanceUID = uid
    return ds


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (item("TEXT", "Comment", TextValue="as seen"), "Comment: as seen"),
        (item("CODE", "Finding", ConceptCodeSequence=[coded("Pneumonia")]), "Finding: Pneumonia"),
        (number("91.5", coded("Percent", "%")), "Size: 91.5 %"),
        (number("1.25", coded("score", "{score}")), "Size: 1.25 score"),
        (item("NUM", "Size", MeasuredValueSequence=[]), "Size: not measured"),
        (item("IMAGE", "Source", ReferencedSOPSequence=[reference("1.2"), reference("1.3")]), "Source: 1.2, 1.3"),
        (item("SCOORD", "Place", GraphicType="POLYLINE", GraphicData=[0.0] * 10), "Place: polyline of 5 points"),
        (item("SCOORD3D", "Place", GraphicType="POINT", GraphicData=[0.0] * 3), "Place: point of 1 points"),
        (item("TABLE", "Numbers"), "Numbers: TABLE"),
        (item("CONTAINER", "Report"), "Report"),
        (item("CONTAINER"), ""),
    ],
)
def test_item(content, text):
    assert list(sr_text.lines(content)) == [text]


def test_tree_is_indented_and_replaced_documents_stand_first():
    report = item("CONTAINER", "Report", ContentSequence=[item("CONTAINER", "Group")])
    report.ContentSequence[0].ContentSequence = [item("TEXT", "Comment", TextValue="as seen")]
    series, study = Dataset(), Dataset()
    series.ReferencedSOPSequence = [reference("1.9")]
    study.ReferencedSeriesSequence = [series]
    report.PredecessorDocumentsSequence = [study]
    assert list(sr_text.lines(report)) == ["replaces document 1.9", "Report", "  Group", "    Comment: as seen"]
    assert sr_text.predecessors(report) == ["1.9"]
