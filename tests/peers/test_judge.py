"""Validators that nobody here wrote find no error in what we send: dicom3tools, DCMTK, PixelMed (judge.sh)."""

import copy
import os
import shutil
import subprocess
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest
from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
)

from dicomnode.domain.findings import BundleResult, Priority, WhenUnusual, study_priority
from dicomnode.domain.gate import gate
from dicomnode.domain.study import version_uid
from dicomnode.evidence import ALTERNATIVES, Case, Predecessor, encoded, find_encoders, variant
from dicomnode.evidence._invented import invented_case

JUDGE = Path(os.environ.get("DICOMNODE_TEST_JUDGE", Path(__file__).parents[3] / "shared" / "judge" / "judge.sh"))
TOOLS = ("dciodvfy", "dcentvfy", "dsrdump", "dsr2html", "dcsrdump", "dcmdump", "java")
MISSING = [name for name in TOOLS if shutil.which(name) is None] + ([] if JUDGE.is_file() else [str(JUDGE)])

pytestmark = [
    pytest.mark.judge,
    pytest.mark.skipif(bool(MISSING), reason=f"missing: {', '.join(MISSING)}"),
]
CLASSIFIER, ANOMALY = invented_case().results


def put(ds: Dataset, **values: object) -> None:
    """Write values as they are, however odd."""
    for keyword, value in values.items():
        tag = tag_for_keyword(keyword)
        assert tag is not None
        ds[tag] = DataElement(tag, dictionary_VR(tag), value, validation_mode=0)


def code(value: str, scheme: str, meaning: str) -> Dataset:
    ds = Dataset()
    ds.CodeValue, ds.CodingSchemeDesignator, ds.CodeMeaning = value, scheme, meaning
    return ds


def radiograph() -> Dataset:
    """Return the header of the invented image with what every modality writes."""
    ds = copy.deepcopy(invented_case().sources[0])
    put(
        ds,
        SpecificCharacterSet="ISO_IR 100",
        PatientName="Müller^Jürgen",
        PatientBirthDate="19500102",
        PatientSex="M",
        PatientAge="076Y",
        StudyDate="20260101",
        StudyTime="101112",
        StudyID="S1",
        StudyDescription="Thorax p.a.",
        AccessionNumber="ACC-1",
        ReferringPhysicianName="Nobody^Nora",
        Manufacturer="Nobody",
        ManufacturerModelName="Invented DR",
        BodyPartExamined="CHEST",
    )
    order = Dataset()
    order.RequestedProcedureID, order.ScheduledProcedureStepID = "RP-7", "SPS-7"
    ds.RequestAttributesSequence = [order]
    return ds


def digital_x_ray() -> Dataset:
    """Return a whole DX image, with pixels, that itself passes dciodvfy; its name is ASCII, dcentvfy compares bytes."""
    ds = radiograph()
    put(
        ds,
        PatientName="Invented^Patient",
        SOPClassUID=DigitalXRayImageStorageForPresentation,
        PresentationIntentType="FOR PRESENTATION",
        ImageType=["ORIGINAL", "PRIMARY", ""],
        SeriesNumber="1",
        InstanceNumber="1",
        PatientOrientation=["L", "F"],
        ImageLaterality="U",
        ImagerPixelSpacing=["0.14", "0.14"],
        DetectorType="DIRECT",
        PositionerType="NONE",
        AcquisitionDate="20260101",
        AcquisitionTime="101112",
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        BitsAllocated=16,
        BitsStored=12,
        HighBit=11,
        PixelRepresentation=0,
        PixelIntensityRelationship="LOG",
        PixelIntensityRelationshipSign=-1,
        RescaleIntercept="0",
        RescaleSlope="1",
        RescaleType="US",
        PresentationLUTShape="IDENTITY",
        LossyImageCompression="00",
        BurnedInAnnotation="NO",
        WindowCenter="2048",
        WindowWidth="4096",
        AcquisitionContextSequence=[],
        PixelData=bytes(2 * 64 * 64),
    )
    view = code("399348003", "SCT", "antero-posterior")
    view.ViewModifierCodeSequence = []
    ds.ViewCodeSequence = [view]
    ds.AnatomicRegionSequence = [code("43799004", "SCT", "Chest")]
    ds["PixelData"].VR = "OW"
    return ds


def computed_radiograph() -> Dataset:
    ds = radiograph()
    put(ds, SOPClassUID=ComputedRadiographyImageStorage, Modality="CR")
    put(ds, PatientOrientation=["L", "F"], ImagerPixelSpacing=["0.1", "0.1"])
    return ds


def bare_header() -> Dataset:
    """Return what a modality without a worklist writes: no Type 2 attribute at all, odd orientation."""
    ds = copy.deepcopy(invented_case().sources[0])
    put(ds, SOPClassUID=ComputedRadiographyImageStorage, Modality="CR", PatientOrientation=None)
    put(ds, PixelSpacing=["0.1", "0.1"], PatientIdentityRemoved="YES")
    del ds.PatientName
    return ds


def japanese_header() -> Dataset:
    ds = radiograph()
    put(
        ds,
        SpecificCharacterSet=["", "ISO 2022 IR 87"],
        PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう",
        PatientSex="U",
        PatientBirthDate="1950",
        StudyTime="101010.123456789",
        StudyDescription="胸部",
        PatientAge="75 years",
        TimezoneOffsetFromUTC="+0900",
        BodyPartExamined="HAND",
    )
    return ds


def computed_tomograph() -> Dataset:
    ds = radiograph()
    put(
        ds,
        SOPClassUID=CTImageStorage,
        Modality="CT",
        PixelSpacing=["0.7", "0.7"],
        SliceThickness="5",
        ImagePositionPatient=["-100.5", "-100.5", "33.333333333"],
        ImageOrientationPatient=["1", "0", "0", "0", "1", "0"],
        FrameOfReferenceUID="2.25.99",
    )
    return ds


def case_of(source: Dataset, results: tuple[BundleResult, ...] = (CLASSIFIER, ANOMALY)) -> Case:
    return replace(invented_case(), sources=(source,), results=results, priority=study_priority(results))


def second_version() -> Case:
    """Return a CR whose first version is named as predecessor: unusual, and the classifier was not applicable."""
    first = case_of(computed_radiograph())
    before = find_encoders()[0].encode(first)[0]
    assert ANOMALY.anomaly is not None
    unusual = replace(ANOMALY, anomaly=replace(ANOMALY.anomaly, score=0.93, percentile=99.6))
    not_applicable = BundleResult(CLASSIFIER.bundle, not_applicable="the image is no frontal view")
    return replace(
        case_of(first.sources[0], (not_applicable, unusual)),
        version_uid=version_uid(before.StudyInstanceUID, 2),
        version_number=2,
        priority=Priority.ROUTINE,
        predecessors=(
            Predecessor(before.StudyInstanceUID, before.SeriesInstanceUID, before.SOPClassUID, before.SOPInstanceUID),
        ),
    )


def flagged(setting: WhenUnusual) -> Case:
    """Return a CR that is unlike the training images, under a setting of the anomaly gate."""
    case = case_of(computed_radiograph())
    assert ANOMALY.anomaly is not None
    unusual = replace(ANOMALY, anomaly=replace(ANOMALY.anomaly, score=0.93, percentile=100.0))
    results = gate((CLASSIFIER, unusual), setting)
    return replace(case, results=results, priority=study_priority(results))


CASES: dict[str, Callable[[], Case]] = {
    "DX with its image": lambda: case_of(digital_x_ray()),
    "CR, second version": second_version,
    "CR, bare header, classifier only": lambda: case_of(bare_header(), (CLASSIFIER,)),
    "DX, Japanese and odd header": lambda: case_of(japanese_header()),
    "CT": lambda: case_of(computed_tomograph()),
    "CR, flagged, urgency lowered": lambda: flagged(WhenUnusual.LOWER),
    "CR, flagged, findings suppressed": lambda: flagged(WhenUnusual.SUPPRESS),
}


def write_source(folder: Path, source: Dataset) -> list[Path]:
    """Write the source too where it is a whole image: dcentvfy then compares patient and study with ours."""
    if "PixelData" not in source:
        return []
    path = folder / "source.dcm"
    ds = copy.deepcopy(source)
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.save_as(path, enforce_file_format=True)
    return [path]


@pytest.mark.parametrize("make", CASES.values(), ids=CASES.keys())
def test_no_validator_finds_an_error(make: Callable[[], Case], tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        case = make()
    paths = write_source(tmp_path, case.sources[0])
    for encoder in find_encoders():
        for ds in encoder.encode(case):
            paths.append(tmp_path / f"{encoder.name}.dcm")
            paths[-1].write_bytes(encoded(ds))

    judged = subprocess.run([JUDGE, *paths], capture_output=True, text=True, errors="replace", check=False)

    report = judged.stdout + judged.stderr
    assert judged.returncode == 0, report
    assert f"judge: {len(paths)} file(s), 0 errors" in report
    assert len(paths) >= 2


@pytest.mark.parametrize("name", ["CR, second version", "DX, Japanese and odd header"])
def test_no_validator_finds_an_error_in_a_report_of_another_sop_class(name: str, tmp_path: Path) -> None:
    """The same content tree is legal in the SOP Classes that a peer may take instead."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        case = CASES[name]()
    (report,) = next(encoder for encoder in find_encoders() if encoder.name == "measurement_report").encode(case)
    paths = []
    for sop_class in ALTERNATIVES[str(report.SOPClassUID)]:
        paths.append(tmp_path / f"{sop_class}.dcm")
        paths[-1].write_bytes(encoded(variant(encoded(report), sop_class)))

    judged = subprocess.run([JUDGE, *paths], capture_output=True, text=True, errors="replace", check=False)

    assert judged.returncode == 0, judged.stdout + judged.stderr
    assert f"judge: {len(paths)} file(s), 0 errors" in judged.stdout + judged.stderr
    assert len(paths) == 2
