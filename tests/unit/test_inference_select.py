"""Which instances the chest bundles look at, and the words in which the others are refused."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicomnode.errors import SpoolFileMissing
from dicomnode.inference import bundle as bundles
from dicomnode.inference.manifest import Selection
from dicomnode.inference.select import Refusal, SourceInstance, most_telling, refusal

DX, CR, CT, SC = (f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("1.1", "1", "2", "7"))
CHEST = Selection(
    modalities=("CR", "DX"),
    sop_classes=(DX, CR),
    body_parts=("CHEST",),
    views=("PA", "AP"),
    excluded_views=("LATERAL", "LL", "RL"),
    exclude={"PresentationIntentType": ("FOR PROCESSING",)},
    min_rows=32,
    min_columns=32,
)
Radiograph = Callable[..., Path]


def item(value: str, meaning: str) -> list[Dataset]:
    ds = Dataset()
    ds.CodeValue, ds.CodingSchemeDesignator, ds.CodeMeaning = value, "SCT", meaning
    return [ds]


ACCEPTED: dict[str, dict[str, Any]] = {
    "chest PA": {},
    "chest AP": {"ViewPosition": "AP"},
    "portable": {"ViewPosition": "AP SUPINE"},
    "thorax": {"BodyPartExamined": "THORAX"},
    "no view": {"ViewPosition": None},
    "no view, PA and lateral study": {"ViewPosition": "", "StudyDescription": "CHEST PA AND LAT"},
    "no view, protocol of both": {"ViewPosition": "", "ProtocolName": "Chest PA/LAT"},
    "view code AP": {"ViewPosition": None, "ViewCodeSequence": item("399348003", "antero-posterior")},
    "body part in the study": {"BodyPartExamined": None, "StudyDescription": "XR Chest 2 views"},
    "body part in the series": {"BodyPartExamined": "", "SeriesDescription": "Thorax p.a."},
    "body part in the protocol": {"BodyPartExamined": "UNKNOWN", "ProtocolName": "CHEST_PA"},
    "body part as a code": {"BodyPartExamined": None, "AnatomicRegionSequence": item("816094009", "Chest")},
    "frontal orientation": {"ViewPosition": None, "PatientOrientation": ["L", "F"]},
    "no intent": {"PresentationIntentType": None},
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "lateral": ({"ViewPosition": "LATERAL"}, "lateral view"),
    "left lateral": ({"ViewPosition": "LL"}, "lateral view"),
    "right lateral": ({"ViewPosition": "RL"}, "lateral view"),
    "lateral by code": (
        {"ViewPosition": None, "ViewCodeSequence": item("399173006", "left lateral")},
        "lateral view",
    ),
    "lateral by series": ({"ViewPosition": "", "SeriesDescription": "Chest Lat"}, "lateral view"),
    "lateral by orientation": ({"ViewPosition": None, "PatientOrientation": ["A", "F"]}, "lateral view"),
    "oblique": ({"ViewPosition": "RLO"}, "view is RLO, not PA or AP"),
    "oblique by code": (
        {"ViewPosition": None, "ViewCodeSequence": item("399182000", "oblique")},
        "view is OBLIQUE, not PA or AP",
    ),
    "hand": ({"BodyPartExamined": "HAND"}, "body part is HAND, not CHEST"),
    "hand by protocol": ({"BodyPartExamined": None, "ProtocolName": "Hand ap"}, "body part is HAND, not CHEST"),
    "no body part": ({"BodyPartExamined": None}, "the header does not say that it shows CHEST"),
    "for processing": (
        {"PresentationIntentType": "FOR PROCESSING"},
        "PresentationIntentType is FOR PROCESSING",
    ),
    "modality in the file": ({"Modality": "PX"}, "modality PX, not CR or DX"),
    "small": ({"Rows": 20}, "20 x 48 pixels, fewer than 32 x 32"),
    "no rows": ({"Rows": None}, "no image in the object"),
    "colour": ({"SamplesPerPixel": 3}, "colour image"),
    "frames": ({"NumberOfFrames": 2}, "more than one frame"),
}


def reason(path: Path, sop_class_uid: str = DX, modality: str = "DX", selection: Selection = CHEST) -> str:
    refused = refusal(SourceInstance(path, "1.2.3", sop_class_uid, modality), selection)
    return "" if refused is None else refused.reason


@pytest.mark.parametrize("case", ACCEPTED)
def test_a_frontal_chest_image_is_accepted(case: str, radiograph: Radiograph) -> None:
    assert reason(radiograph(**ACCEPTED[case])) == ""


@pytest.mark.parametrize("case", REFUSED)
def test_another_image_is_refused_in_words(case: str, radiograph: Radiograph) -> None:
    attributes, expected = REFUSED[case]
    assert reason(radiograph(**attributes)) == expected


def test_a_row_that_refuses_spares_reading_the_file(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert reason(missing, CT, "CT") == "modality CT, not CR or DX"
    assert reason(missing, SC, "CR") == "Secondary Capture Image Storage is not accepted"


@pytest.mark.parametrize("content", [b"", b"\0" * 132, b"not DICOM at all, but long enough " * 9])
def test_a_file_that_cannot_be_read_is_a_reason(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert reason(path)


def test_a_file_that_is_gone_is_no_reason(tmp_path: Path) -> None:
    with pytest.raises(SpoolFileMissing, match="gone cannot be read"):
        reason(tmp_path / "gone")


def test_a_header_that_holds_no_numbers_is_a_reason(radiograph: Radiograph) -> None:
    path = radiograph(NumberOfFrames=3)
    path.write_bytes(path.read_bytes().replace(b"IS\x02\x003 ", b"IS\x02\x00x "))
    assert reason(path).startswith("the header cannot be read")


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        ("004Y", ""),
        ("024M", ""),
        ("006M", "the patient is younger than 1 years"),
        ("034Y", "the patient is older than 18 years"),
        (None, "the patient's age is not named"),
        ("old", "the patient's age is not named"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*value for VR AS")
def test_age_counts_where_the_manifest_names_it(age: str | None, expected: str, radiograph: Radiograph) -> None:
    children = CHEST.model_copy(update={"min_age_years": 1, "max_age_years": 18})
    path = radiograph() if age is None else radiograph(PatientAge=age)
    assert reason(path, selection=children) == expected


def test_the_reason_that_came_furthest_tells_most() -> None:
    refusals = [Refusal("modality CT", 0), Refusal("modality CT", 0), Refusal("lateral view", 6)]
    assert most_telling(refusals) == "lateral view"
    assert most_telling([*refusals[:2], Refusal("modality MR", 0)]) == "modality CT"
    assert most_telling([]) == "no image in the study"


def test_our_chest_bundles_take_a_chest_and_no_screenshot(radiograph: Radiograph) -> None:
    found = bundles.find([bundles.builtin_directory()])
    for name in ("chest_xray_pneumonia", "chest_xray_anomaly"):
        selection, _ = bundles.read_manifest(found[name])
        assert reason(radiograph(Rows=2000, Columns=1600), selection=selection.input) == ""
        assert reason(radiograph(), SC, "DX", selection.input)


@pytest.mark.data
@pytest.mark.filterwarnings("ignore")
def test_no_real_file_makes_selection_raise() -> None:
    folder = Path(__file__).resolve().parents[3] / "shared/data/dicom/files"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    reasons = [reason(path) for path in files]
    assert len(reasons) > 300
    assert any(text == "" for text in reasons)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_the_header_is_read_in_every_encoding(syntax: str, radiograph: Radiograph) -> None:
    def written(**attributes: str) -> Path:
        path = radiograph(**attributes)
        ds = pydicom.dcmread(path)
        ds.file_meta.TransferSyntaxUID = syntax
        pydicom.dcmwrite(path, ds, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True)
        return path

    assert reason(written()) == ""
    assert reason(written(ViewPosition="LL")) == "lateral view"


def test_a_deflated_file_does_not_unfold_in_memory(radiograph: Radiograph) -> None:
    path = radiograph(TransferSyntaxUID=DeflatedExplicitVRLittleEndian, ViewPosition="LL", PixelData=bytes(64 << 20))
    assert path.stat().st_size < 1 << 20
    tracemalloc.start()
    try:
        assert reason(path) == "lateral view"
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()
