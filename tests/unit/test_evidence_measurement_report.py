"""The findings document says what the bundles said, in codes and in words, and never more."""

import copy
import io
from collections.abc import Iterator
from dataclasses import replace

import highdicom as hd
import pydicom
import pytest
from pydicom import Dataset

from dicomnode.domain.findings import BundleResult
from dicomnode.evidence import Case, Predecessor, encoded
from dicomnode.evidence._invented import invented_case
from dicomnode.evidence.measurement_report import encode

CLASSIFIER, ANOMALY = invented_case().results
NOT_APPLICABLE = BundleResult(CLASSIFIER.bundle, not_applicable="no frontal view")


def document(**changes: object) -> Dataset:
    """Return the document of the invented case as a reader gets it."""
    (ds,) = encode(replace(invented_case(), **changes))
    return pydicom.dcmread(io.BytesIO(encoded(ds)))


def name_of(item: Dataset) -> str:
    return item.ConceptNameCodeSequence[0].CodeMeaning if "ConceptNameCodeSequence" in item else ""


def children(item: Dataset, name: str) -> list[Dataset]:
    return [child for child in item.get("ContentSequence", ()) if name_of(child) == name]


def walk(item: Dataset) -> Iterator[Dataset]:
    yield item
    for child in item.get("ContentSequence", ()):
        yield from walk(child)


def groups(ds: Dataset) -> dict[str, Dataset]:
    """Return measurement groups by Tracking Identifier."""
    (measurements,) = children(ds, "Imaging Measurements")
    found = children(measurements, "Measurement Group")
    return {children(group, "Tracking Identifier")[0].TextValue: group for group in found}


def number(group: Dataset, name: str) -> tuple[float, str]:
    (measured,) = children(group, name)[0].MeasuredValueSequence
    return float(measured.NumericValue), measured.MeasurementUnitsCodeSequence[0].CodeValue


def words(ds: Dataset) -> str:
    texts = [item.get("TextValue", "") for item in walk(ds)]
    meanings = [code.CodeMeaning for item in walk(ds) for code in item.get("ConceptCodeSequence", ())]
    return " | ".join([*texts, *meanings, ds.SeriesDescription])


def test_document_is_preliminary_unverified_and_complete() -> None:
    ds = document()

    assert ds.SOPClassUID == pydicom.uid.Comprehensive3DSRStorage
    assert (ds.CompletionFlag, ds.VerificationFlag, ds.PreliminaryFlag) == ("COMPLETE", "UNVERIFIED", "PRELIMINARY")


def test_every_container_is_separate() -> None:
    containers = [item for item in walk(document()) if item.ValueType == "CONTAINER"]

    assert len(containers) == 6
    assert {item.ContinuityOfContent for item in containers} == {"SEPARATE"}


def test_positive_and_negative_classes_have_a_group_each() -> None:
    found = groups(document())

    assert list(found) == ["Pneumothorax", "Pneumonia", "Anomaly score"]
    presence = {
        label: [item.ConceptCodeSequence[0].CodeMeaning for item in children(group, "Presence")]
        for label, group in found.items()
    }
    assert presence == {"Pneumothorax": ["Present"], "Pneumonia": ["Absent"], "Anomaly score": []}


def test_group_keeps_probability_threshold_model_and_image() -> None:
    group = groups(document())["Pneumothorax"]

    assert number(group, "Probability") == (91.0, "%")
    assert number(group, "Threshold Value") == (50.0, "%")
    assert children(group, "Algorithm Name")[0].TextValue == CLASSIFIER.bundle.name
    assert children(group, "Algorithm Version")[0].TextValue == CLASSIFIER.bundle.version
    parameters = [item.TextValue for item in children(group, "Algorithm Parameters")]
    assert parameters == ["input 64x64", f"bundle sha256 {'0' * 64}", f"weights sha256 {'0' * 64}"]
    (image,) = children(group, "Source of Measurement")
    assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == CLASSIFIER.assessed[0]


def test_comment_says_suspected_or_not_suspected() -> None:
    comments = {label: children(group, "Comment")[0].TextValue for label, group in groups(document()).items()}

    assert comments["Pneumothorax"] == "AI: Pneumothorax suspected, probability 91.0 % (threshold 50.0 %)"
    assert comments["Pneumonia"] == "AI: Pneumonia not suspected, probability 8.0 % (threshold 50.0 %)"


def test_probability_at_the_threshold_is_suspected() -> None:
    finding = replace(CLASSIFIER.findings[0], probability=0.5)

    group = groups(document(results=(replace(CLASSIFIER, findings=(finding,)),)))["Pneumothorax"]

    assert children(group, "Presence")[0].ConceptCodeSequence[0].CodeMeaning == "Present"


def test_score_below_its_limit_has_neither_finding_nor_normality() -> None:
    group = groups(document())["Anomaly score"]

    assert number(group, "Anomaly score") == (0.21, "{score}")
    assert (children(group, "Finding"), children(group, "Normality")) == ([], [])


def test_score_above_its_limit_is_abnormally_high() -> None:
    assert ANOMALY.anomaly is not None
    unusual = replace(ANOMALY, anomaly=replace(ANOMALY.anomaly, score=0.9))

    group = groups(document(results=(unusual,)))["Anomaly score"]

    assert children(group, "Finding")[0].ConceptCodeSequence[0].CodeMeaning == "Abnormal"
    assert children(group, "Normality")[0].ConceptCodeSequence[0].CodeMeaning == "Abnormally High"


@pytest.mark.parametrize("results", [(CLASSIFIER, ANOMALY), (ANOMALY,), (ANOMALY, NOT_APPLICABLE)])
def test_nothing_is_called_normal(results) -> None:
    assert "normal" not in words(document(results=results)).lower().split()


def test_every_group_has_a_place_that_is_the_whole_image() -> None:
    """OHIF 3.13 shows a black viewport for a group without a coordinate."""
    for group in groups(document()).values():
        (place,) = [item for item in walk(group) if item.ValueType == "SCOORD"]
        assert place.GraphicType == "POLYLINE"
        assert list(place.GraphicData) == [0, 0, 64, 0, 64, 64, 0, 64, 0, 0]


def test_tracking_uids_are_all_different() -> None:
    uids = [children(group, "Tracking Unique Identifier")[0].UID for group in groups(document()).values()]

    assert len(set(uids)) == 3


def test_urgency_and_run_status_stand_at_the_root() -> None:
    (study,) = children(document(), "Qualitative Evaluations")

    assert children(study, "Priority")[0].ConceptCodeSequence[0].CodeMeaning == "Stat"
    (status,) = children(study, "CAD Processing and Findings Summary")
    assert status.ConceptCodeSequence[0].CodeValue == "111242"


def test_what_was_not_assessed_is_said() -> None:
    (study,) = children(document(results=(ANOMALY, NOT_APPLICABLE)), "Qualitative Evaluations")

    assert [item.TextValue for item in children(study, "Comment")] == [
        "Not assessed by invented classifier 1.0.0: no frontal view"
    ]
    (status,) = children(study, "CAD Processing and Findings Summary")
    assert status.ConceptCodeSequence[0].CodeValue == "111243"


def test_nothing_assessed_gives_no_document() -> None:
    assert encode(replace(invented_case(), results=(NOT_APPLICABLE,))) == []


def test_private_scheme_is_explained_only_where_it_is_used() -> None:
    assert "CodingSchemeIdentificationSequence" not in document(results=(CLASSIFIER,))
    assert document().CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99DICOMNODE"


def test_first_version_has_no_predecessor() -> None:
    assert "PredecessorDocumentsSequence" not in document()


def test_second_version_names_the_first() -> None:
    before = document()
    case = invented_case()
    named = Predecessor(before.StudyInstanceUID, before.SeriesInstanceUID, before.SOPClassUID, before.SOPInstanceUID)

    after = document(version_uid="2.25.7", version_number=2, predecessors=(named,))

    (study,) = after.PredecessorDocumentsSequence
    (series,) = study.ReferencedSeriesSequence
    (instance,) = series.ReferencedSOPSequence
    assert study.StudyInstanceUID == case.sources[0].StudyInstanceUID
    assert series.SeriesInstanceUID == before.SeriesInstanceUID
    assert instance.ReferencedSOPInstanceUID == before.SOPInstanceUID


def test_every_assessed_image_is_evidence() -> None:
    case = invented_case()
    other = copy.deepcopy(case.sources[0])
    other.SOPInstanceUID = "1.2.3"

    (study,) = document(sources=(*case.sources, other)).CurrentRequestedProcedureEvidenceSequence

    (series,) = study.ReferencedSeriesSequence
    named = {item.ReferencedSOPInstanceUID for item in series.ReferencedSOPSequence}
    assert named == {"1.2.3", str(case.sources[0].SOPInstanceUID)}


@pytest.mark.parametrize(
    ("modality", "code"), [("CT", "25045-6"), ("MR", "25056-3"), ("DX", "363679005"), ("CR", "363679005")]
)
def test_procedure_reported_follows_the_modality(modality: str, code: str) -> None:
    case = invented_case()
    case.sources[0].Modality = modality

    ds = document(sources=case.sources)

    assert children(ds, "Procedure reported")[0].ConceptCodeSequence[0].CodeValue == code


def test_highdicom_reads_the_document_back() -> None:
    case: Case = invented_case()

    report = hd.sr.srread(io.BytesIO(encoded(encode(case)[0])))

    found = report.content.get_image_measurement_groups()
    assert [group.tracking_identifier for group in found] == ["Pneumothorax", "Pneumonia", "Anomaly score"]
