"""Every coded concept that the node or a bundle writes is a code, not an invention."""

import tomllib
from pathlib import Path

import pytest
from pydicom.sr.codedict import codes as dicom_codes

from dicomnode.domain import codes
from dicomnode.domain.codes import is_snomed_identifier, processing_summary
from dicomnode.domain.findings import AnomalyFinding, BundleIdentity, BundleResult, Code, Finding, Priority

MANIFESTS = sorted((Path(__file__).parents[2] / "models").glob("*/bundle.toml"))
OWN = {
    **{name: value for name, value in vars(codes).items() if isinstance(value, Code)},
    **{f"PRIORITY_VALUES.{priority}": code for priority, code in codes.PRIORITY_VALUES.items()},
}


def coded(value: object) -> list[Code]:
    """Return every object with value, scheme and meaning in a parsed manifest."""
    if isinstance(value, dict):
        if {"value", "scheme", "meaning"} <= value.keys():
            return [Code(value["value"], value["scheme"], value["meaning"])]
        return [code for inner in value.values() for code in coded(inner)]
    return [code for inner in value for code in coded(inner)] if isinstance(value, list) else []


def of_scheme(scheme: str) -> pytest.MarkDecorator:
    found = {name: code for name, code in OWN.items() if code.scheme == scheme}
    return pytest.mark.parametrize("code", found.values(), ids=found.keys())


@of_scheme("SCT")
def test_snomed_code_passes_the_check_digit(code: Code) -> None:
    assert is_snomed_identifier(code.value)


@of_scheme("DCM")
def test_dicom_code_stands_in_the_dictionary_with_its_meaning(code: Code) -> None:
    entries = (getattr(dicom_codes.DCM, name) for name in dicom_codes.DCM.dir())
    known = {entry.value: entry.meaning for entry in entries}
    assert known[code.value] == code.meaning


@pytest.mark.parametrize("code", OWN.values(), ids=OWN.keys())
def test_code_fits_its_attributes(code: Code) -> None:
    """Code Value and Coding Scheme Designator are SH, Code Meaning is LO (PS3.3 8.8)."""
    assert 0 < len(code.value) <= 16
    assert 0 < len(code.scheme) <= 16
    assert 0 < len(code.meaning) <= 64


def test_snomed_codes_of_the_bundles_pass_the_check_digit() -> None:
    assert MANIFESTS
    found = [code for path in MANIFESTS for code in coded(tomllib.loads(path.read_text(encoding="utf-8")))]

    assert [code for code in found if code.scheme == "SCT" and not is_snomed_identifier(code.value)] == []


@pytest.mark.parametrize("value", ["95436003", "60567007", "78381009", "129614006", "263837009"])
def test_codes_invented_by_others_are_caught(value: str) -> None:
    assert not is_snomed_identifier(value)


@pytest.mark.parametrize("value", ["", "12", "36118008x", "٣٦١١٨٠٠٨", "3" * 19])
def test_what_is_no_number_is_no_snomed_identifier(value: str) -> None:
    assert not is_snomed_identifier(value)


def test_every_priority_has_a_code() -> None:
    assert set(codes.PRIORITY_VALUES) == set(Priority)


BUNDLE = BundleIdentity("b", "1", "classifier", "B", "0" * 64, "0" * 64)


def result(probability: float = 0.1, score: float = 0.1, not_applicable: str = "") -> BundleResult:
    finding = Finding("x", codes.ABNORMAL, None, probability, 0.5, Priority.URGENT, "1.2")
    return BundleResult(
        BUNDLE,
        findings=(finding,),
        anomaly=AnomalyFinding("a", score, 0.5, 50.0, "1.2"),
        not_applicable=not_applicable,
    )


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ((result(),), codes.SUCCEEDED_WITHOUT_FINDINGS),
        ((result(probability=0.5),), codes.SUCCEEDED_WITH_FINDINGS),
        ((result(score=0.6),), codes.SUCCEEDED_WITH_FINDINGS),
        ((result(), BundleResult(BUNDLE, not_applicable="lateral view")), codes.PARTLY_WITHOUT_FINDINGS),
        ((result(0.9), BundleResult(BUNDLE, not_applicable="lateral view")), codes.PARTLY_WITH_FINDINGS),
    ],
    ids=["nothing", "suspected", "unusual", "part not applicable", "suspected, part not applicable"],
)
def test_processing_summary_says_what_ran_and_whether_it_found(results, expected) -> None:
    assert processing_summary(results) == expected
