"""A flagged image: what report and summary say of it under each setting of the gate, and that nothing is a negative."""

from dataclasses import replace

import pytest
from pydicom import Dataset

from dicomnode.domain.findings import Prediction, WhenUnusual, study_priority
from dicomnode.domain.gate import gate
from dicomnode.evidence import Case, measurement_report
from dicomnode.evidence._invented import invented_case
from dicomnode.evidence.summary_image import _lines

SHOW, LOWER, SUPPRESS = WhenUnusual


def flagged_case(setting: WhenUnusual, percentile: float = 99.96) -> Case:
    """Return the invented case with an unusual image, gated."""
    case = invented_case()
    classified, anomaly = case.results
    assert anomaly.anomaly is not None
    (uid,) = anomaly.assessed
    unusual = replace(
        anomaly,
        predictions=(Prediction(uid, "Anomaly score", 0.93, 0.6),),
        anomaly=replace(anomaly.anomaly, score=0.93, percentile=percentile),
    )
    found = tuple(Prediction(uid, f.label, f.probability, f.threshold) for f in classified.findings)
    results = gate((replace(classified, predictions=found), unusual), setting)
    return replace(case, results=results, priority=study_priority(results))


def comments(case: Case) -> list[str]:
    (ds,) = measurement_report.encode(case)
    return list(_texts(ds))


def _texts(item: Dataset):
    for child in item.get("ContentSequence", ()):
        if child.ValueType == "TEXT" and child.ConceptNameCodeSequence[0].CodeMeaning == "Comment":
            yield str(child.TextValue)
        yield from _texts(child)


def presences(case: Case) -> list[str]:
    (ds,) = measurement_report.encode(case)

    def walk(item: Dataset):
        for child in item.get("ContentSequence", ()):
            if child.ValueType == "CODE" and child.ConceptNameCodeSequence[0].CodeMeaning == "Presence":
                yield str(child.ConceptCodeSequence[0].CodeMeaning)
            yield from walk(child)

    return list(walk(ds))


SCORE = "AI: anomaly score 0.93 (limit 0.6), above 99.9 % of its reference images: unlike the training images; "
PNEUMOTHORAX = "AI: Pneumothorax suspected, probability 91.0 % (threshold 50.0 %)"
PNEUMONIA = "AI: Pneumonia not suspected, probability 8.0 % (threshold 50.0 %)"
IMAGE = "; its image is unlike the training images"
ROUTINE = ", so it does not raise the urgency"


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (
            SHOW,
            [PNEUMOTHORAX + IMAGE, PNEUMONIA + IMAGE, SCORE + "class findings of such an image deserve little trust"],
        ),
        (
            LOWER,
            [
                PNEUMOTHORAX + IMAGE + ROUTINE,
                PNEUMONIA + IMAGE,
                SCORE + "class findings of such an image do not raise the urgency",
            ],
        ),
        (
            SUPPRESS,
            [
                SCORE + "class findings of such an image are withheld",
                "Pneumothorax, Pneumonia not assessed by invented classifier 1.0.0: image unlike the training images",
            ],
        ),
    ],
    ids=list(WhenUnusual),
)
def test_report_says_what_a_flagged_image_means(setting, expected) -> None:
    assert comments(flagged_case(setting)) == expected


def test_suppressed_class_has_no_presence_in_the_report() -> None:
    assert presences(flagged_case(SHOW)) == ["Present", "Absent"]
    assert presences(flagged_case(SUPPRESS)) == []


@pytest.mark.parametrize(
    ("setting", "urgency", "says"),
    [
        (SHOW, "CRITICAL", "Pneumothorax (on an image unlike the training images)"),
        (LOWER, "ROUTINE", "Pneumothorax (on an image unlike the training images)"),
        (SUPPRESS, "ROUTINE", "not assessed: image unlike the training images"),
    ],
)
def test_summary_says_what_a_flagged_image_means(setting, urgency, says) -> None:
    text = "\n".join(line.text for line in _lines(flagged_case(setting)))

    assert (
        f"Suspected findings\n{says}\nThe image is unlike the training images\nClass findings of such an image" in text
    )
    assert f"Urgency suggested\n{urgency}" in text
    assert ("Looked for and not suspected" in text) is (setting is not SUPPRESS)
    assert ("not assessed by invented classifier" in text) is (setting is SUPPRESS)


def test_score_beyond_every_reference_image_says_so() -> None:
    assert "above all of its reference images" in comments(flagged_case(SHOW, 100.0))[-1]


def test_each_setting_gives_other_uids() -> None:
    assert len({flagged_case(setting).uid("x") for setting in WhenUnusual}) == 3
