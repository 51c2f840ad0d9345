"""The summary page names the patient, warns, and leaves nothing out however long or foreign the text is."""

import copy
from dataclasses import replace

import numpy as np
import pytest

from dicomnode.domain.findings import BundleResult
from dicomnode.evidence import Case, _page
from dicomnode.evidence._invented import invented_case
from dicomnode.evidence.summary_image import _lines, encode

CLASSIFIER, ANOMALY = invented_case().results


def case_with(results: tuple[BundleResult, ...] = (CLASSIFIER, ANOMALY), **header: str) -> Case:
    case = invented_case()
    for keyword, value in header.items():
        setattr(case.sources[0], keyword, value)
    return replace(case, results=results)


def words(case: Case) -> str:
    return "\n".join(line.text for line in _lines(case))


def test_page_is_a_plain_grey_picture_that_names_a_patient() -> None:
    (ds,) = encode(invented_case())

    assert ds.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
    assert (ds.PhotometricInterpretation, ds.BitsStored, ds.Columns) == ("MONOCHROME2", 8, 1024)
    assert (ds.BurnedInAnnotation, ds.RecognizableVisualFeatures) == ("YES", "NO")
    assert list(ds.ImageType) == ["DERIVED", "SECONDARY"]
    assert ds.pixel_array.shape == (ds.Rows, 1024)
    assert (ds.pixel_array.min(), ds.pixel_array.max()) == (_page.BACKGROUND, _page.INK)


def test_page_warns_and_identifies() -> None:
    text = words(case_with(PatientName="Doe^Jane", PatientID="P-1", StudyDate="20260102", AccessionNumber="A-9"))

    assert "AI RESULT - NOT FOR DIAGNOSIS" in text
    for part in ("Patient: Doe, Jane", "Patient ID: P-1", "Study date: 2026-01-02", "Accession number: A-9"):
        assert part in text


def test_page_says_suspected_urgency_and_what_was_looked_for() -> None:
    text = words(case_with())

    assert "Suspected findings\nPneumothorax\n" in text
    assert "Urgency suggested\nCRITICAL" in text
    assert "Looked for and not suspected\nPneumonia\n" in text
    assert "invented classifier 1.0.0 (weights 000000000000)" in text


def test_page_shows_no_probability() -> None:
    assert "%" not in words(case_with())
    assert "91" not in words(case_with())


@pytest.mark.parametrize("results", [(CLASSIFIER, ANOMALY), (ANOMALY,), (CLASSIFIER,)])
def test_page_calls_nothing_normal(results) -> None:
    assert "normal" not in words(case_with(results)).lower()


def test_page_says_what_was_not_assessed() -> None:
    none = BundleResult(CLASSIFIER.bundle, not_applicable="no frontal view")

    text = words(case_with((none, ANOMALY)))

    assert "Suspected findings\nno finding was looked for" in text
    assert "Not assessed by invented classifier 1.0.0: no frontal view" in text


def test_page_grows_with_its_text() -> None:
    finding = CLASSIFIER.findings[1]
    many = replace(CLASSIFIER, findings=tuple(replace(finding, label=f"Finding number {n}") for n in range(200)))

    (ds,) = encode(case_with((many,)))

    assert ds.Rows > 2000
    assert ds.pixel_array[-_page.MARGIN :].max() == _page.BACKGROUND


def test_word_longer_than_a_row_is_cut_into_pieces_and_kept() -> None:
    rows = _page._wrap("9" * 300, 32)

    assert "".join(rows) == "9" * 300
    assert len(rows) > 1


def test_nothing_is_drawn_over_the_margin() -> None:
    page = _page.draw([_page.Line("W" * 200, size=40), _page.Line("word " * 60, size=26)])

    assert page[:, : _page.MARGIN // 2].max() == _page.BACKGROUND
    assert page[:, -_page.MARGIN // 2 :].max() == _page.BACKGROUND


@pytest.mark.parametrize(
    "name",
    [
        "山田^太郎",
        "=山田^太郎=やまだ^たろう",
        "محمد^علي",
        "😀^\u202e",
        "Doe\r\n\t^Jane\x00",
        "",
        "^^^^",
        "a\u0301^e\u0308",
    ],
)
def test_any_name_makes_a_page(name: str) -> None:
    case = invented_case()
    case.sources[0].SpecificCharacterSet = "ISO_IR 192"

    (ds,) = encode(case_with(PatientName=name))

    assert ds.pixel_array.max() == _page.INK


def test_unknown_glyph_shows_a_replacement() -> None:
    assert _page._drawable("Jane 山") == f"Jane {_page.REPLACEMENT}"
    known, unknown = (np.count_nonzero(_page.draw([_page.Line(text)]) > 100) for text in ("", "山"))
    assert unknown > known


@pytest.mark.parametrize(
    ("given", "drawn"),
    [("Müller", "Muller"), ("Weiß", "Weiss"), ("Łukasz", "Lukasz"), ("Nguyễn", "Nguyen"), ("a\nb", "a b"), ("Ж", "?")],
)
def test_letter_that_the_font_lacks_is_drawn_without_its_mark(given: str, drawn: str) -> None:
    assert _page._drawable(given) == drawn


def test_unknown_glyph_in_an_identifier_is_spelled_out() -> None:
    assert "Patient ID: P<U+5C71>1" in words(case_with(PatientID="P山1"))


@pytest.mark.parametrize(
    ("header", "laterality"),
    [
        ({"BodyPartExamined": "CHEST"}, "absent"),
        ({"BodyPartExamined": "HAND", "Laterality": "R"}, "R"),
        ({"BodyPartExamined": "HAND"}, None),
        ({}, None),
    ],
    ids=["no sides", "right hand", "hand of unknown side", "unknown part"],
)
def test_laterality_stands_where_the_part_may_have_sides(header: dict[str, str], laterality: str | None) -> None:
    (ds,) = encode(case_with(**header))

    assert (ds.get("Laterality") if "Laterality" in ds else "absent") == laterality


def test_page_references_the_images_that_gave_findings() -> None:
    case = invented_case()
    other = copy.deepcopy(case.sources[0])
    other.SOPInstanceUID = "1.2.3"

    (ds,) = encode(replace(case, sources=(*case.sources, other)))

    assert [item.ReferencedSOPInstanceUID for item in ds.SourceImageSequence] == [case.sources[0].SOPInstanceUID]
