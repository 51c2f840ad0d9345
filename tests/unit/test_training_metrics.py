"""Metrics against their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomnode.training import metrics

SCORES = np.array([0.1, 0.4, 0.35, 0.8])
LABELS = np.array([0, 0, 1, 1])


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1)), min_size=2, max_size=30))
def test_auc_is_the_share_of_pairs_in_order(rows: list[tuple[int, int]]) -> None:
    positives = [score for score, label in rows if label]
    negatives = [score for score, label in rows if not label]
    found = metrics.auc(np.array([float(s) for s, _ in rows]), np.array([label for _, label in rows]))
    if not positives or not negatives:
        assert np.isnan(found)
        return
    pairs = [1.0 if p > n else 0.5 if p == n else 0.0 for p in positives for n in negatives]
    assert found == pytest.approx(sum(pairs) / len(pairs))


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        (metrics.auc, 0.75),
        (metrics.average_precision, (1 + 2 / 3) / 2),
        (lambda s, y: metrics.accuracy(s, y, 0.35), 0.75),
        (lambda s, y: metrics.sensitivity(s, y, 0.5), 0.5),
        (lambda s, y: metrics.specificity(s, y, 0.4), 0.5),
        (metrics.brier, (0.01 + 0.16 + 0.4225 + 0.04) / 4),
        (metrics.ece, (0.1 + 0.4 + 0.65 + 0.2) / 4),
        (metrics.log_loss, -np.log([0.9, 0.6, 0.35, 0.8]).mean()),
    ],
)
def test_a_metric_is_what_its_definition_says(measure: object, expected: float) -> None:
    assert callable(measure)
    assert measure(SCORES, LABELS) == pytest.approx(expected)


def test_platt_finds_the_scale_and_offset_that_made_the_labels() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, 20000)
    labels = (rng.random(20000) < 1 / (1 + np.exp(-(0.5 * logits + 1)))).astype(np.int64)
    scale, offset = metrics.platt(logits, labels)
    assert (scale, offset) == (pytest.approx(0.5, abs=0.03), pytest.approx(1, abs=0.05))


def test_platt_stays_finite_where_the_classes_are_apart() -> None:
    scale, offset = metrics.platt(np.array([-3.0, -2.0, 2.0, 3.0]), np.array([0, 0, 1, 1]))
    assert 0 < scale < 10
    assert abs(offset) < 10


@pytest.mark.parametrize("wanted", [0.5, 0.9, 0.97, 1.0])
def test_the_threshold_is_the_largest_with_the_wanted_sensitivity(wanted: float) -> None:
    scores, labels = np.linspace(0, 1, 101), np.ones(101, np.int64)
    threshold = metrics.threshold_for_sensitivity(scores, labels, wanted)
    assert metrics.sensitivity(scores, labels, threshold) >= wanted
    assert metrics.sensitivity(scores, labels, threshold + 0.01) < wanted


def test_the_interval_draws_patients_not_images() -> None:
    scores, labels = np.tile([0.2, 0.9], 50), np.tile([0, 1], 50)
    alone = metrics.interval(lambda s, _: float(s.mean()), scores, labels, np.arange(100).astype(np.str_))
    grouped = metrics.interval(lambda s, _: float(s.mean()), scores, labels, np.repeat(["a", "b"], 50))
    assert alone[0] < 0.55 < alone[1]
    assert grouped == (pytest.approx(0.55), pytest.approx(0.55))
