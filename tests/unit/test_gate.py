"""The anomaly gate: what the findings of a flagged image count for, image by image."""

from dataclasses import replace

import pytest

from dicomnode.domain.codes import LUNG, PARTLY_WITH_FINDINGS, PRESENT, processing_summary
from dicomnode.domain.findings import (
    AnomalyFinding,
    BundleIdentity,
    BundleResult,
    Finding,
    Prediction,
    Priority,
    WhenUnusual,
    study_priority,
)
from dicomnode.domain.gate import flagged_images, gate

SHOW, LOWER, SUPPRESS = WhenUnusual
LIMIT = 2.0


def bundle(kind: str) -> BundleIdentity:
    return BundleIdentity(kind, "1.0.0", kind, f"A {kind}", "0" * 64, "0" * 64)


def study(**images: tuple[float, float]) -> tuple[BundleResult, BundleResult]:
    """Return ungated results of a study whose images have these (probability, anomaly score)."""
    classes = tuple(Prediction(uid, "Pneumonia", p, 0.5) for uid, (p, _) in images.items())
    scores = tuple(Prediction(uid, "Unusual image", score, LIMIT) for uid, (_, score) in images.items())
    top, worst = (max(found, key=lambda prediction: prediction.value) for found in (classes, scores))
    finding = Finding("Pneumonia", PRESENT, LUNG, top.value, 0.5, Priority.URGENT, top.sop_instance_uid)
    anomaly = AnomalyFinding("Unusual image", worst.value, LIMIT, 50.0, worst.sop_instance_uid)
    return (
        BundleResult(bundle("classifier"), classes, (finding,), assessed=tuple(images)),
        BundleResult(bundle("anomaly"), scores, anomaly=anomaly, assessed=tuple(images)),
    )


GOOD, GOOD_NEGATIVE, ODD, ODD_NEGATIVE = (0.7, 1.0), (0.2, 1.0), (0.9, 3.0), (0.1, 3.0)


@pytest.mark.parametrize(
    ("setting", "images", "image", "urgency"),
    [
        (SHOW, {"a": GOOD}, "a", Priority.URGENT),
        (SHOW, {"a": ODD}, "a", Priority.URGENT),
        (SHOW, {"a": ODD, "b": GOOD}, "a", Priority.URGENT),
        (LOWER, {"a": GOOD}, "a", Priority.URGENT),
        (LOWER, {"a": ODD}, "a", Priority.ROUTINE),
        (LOWER, {"a": ODD, "b": GOOD}, "b", Priority.URGENT),
        (LOWER, {"a": ODD, "b": GOOD_NEGATIVE}, "a", Priority.ROUTINE),
        (SUPPRESS, {"a": GOOD}, "a", Priority.URGENT),
        (SUPPRESS, {"a": ODD, "b": GOOD}, "b", Priority.URGENT),
        (SUPPRESS, {"a": ODD, "b": GOOD_NEGATIVE}, "b", Priority.ROUTINE),
        (SUPPRESS, {"a": ODD}, None, Priority.ROUTINE),
        (SUPPRESS, {"a": ODD_NEGATIVE}, None, Priority.ROUTINE),
    ],
)
def test_finding_comes_from_the_image_that_the_setting_trusts(setting, images, image, urgency) -> None:
    classified, _ = results = gate(study(**images), setting)

    assert [f.sop_instance_uid for f in classified.findings] == ([] if image is None else [image])
    assert study_priority(results) is urgency
    if image is not None:
        (finding,) = classified.findings
        assert finding.probability == images[image][0]
        assert finding.is_from_unusual is (images[image][1] > LIMIT)


@pytest.mark.parametrize("image", [ODD, ODD_NEGATIVE])
def test_suppressed_class_is_withheld_and_no_negative(image) -> None:
    raw = study(a=image)
    classified, anomaly = results = gate(raw, SUPPRESS)

    assert classified.findings == ()
    assert [(f.label, f.probability) for f in classified.withheld] == [("Pneumonia", image[0])]
    assert classified.predictions == raw[0].predictions
    assert anomaly.anomaly == raw[1].anomaly
    assert processing_summary(results) == PARTLY_WITH_FINDINGS


@pytest.mark.parametrize("setting", WhenUnusual)
def test_setting_in_force_stays_with_the_results(setting) -> None:
    assert {result.when_unusual for result in gate(study(a=GOOD), setting)} == {setting}


@pytest.mark.parametrize("images", [{"a": ODD, "b": GOOD}, {"a": ODD}])
@pytest.mark.parametrize("setting", WhenUnusual)
def test_gate_is_the_same_twice_and_changes_nothing_without_an_anomaly_bundle(setting, images) -> None:
    classified, anomaly = study(**images)
    once = gate((classified, anomaly), setting)

    assert gate(once, setting) == once
    assert gate((classified,), setting) == (replace(classified, when_unusual=setting),)


def test_any_anomaly_bundle_flags_an_image() -> None:
    classified, anomaly = study(a=GOOD, b=ODD)
    _, other = study(a=(0.0, 5.0))

    assert flagged_images((classified, anomaly)) == {"b"}
    assert flagged_images((classified, anomaly, other)) == {"a", "b"}


def test_score_at_the_threshold_is_not_flagged() -> None:
    assert flagged_images(study(a=(0.9, LIMIT))) == frozenset()
