"""Metrics of bootstrap draws: against scikit-learn with the same weights, and against drawing the rows themselves."""

from functools import partial

import numpy as np
import pytest
from sklearn import metrics as sklearn

from dicomnode.training import metrics, weighted
from dicomnode.training.weighted import Metric

RNG = np.random.default_rng(5)
LABELS = RNG.integers(0, 2, 240)
SCORES = np.clip(RNG.normal(0.35 + 0.3 * LABELS, 0.25).round(2), 0, 1)  # rounded: with ties
PATIENTS = RNG.integers(0, 90, 240).astype(np.str_)
THRESHOLD = 0.5
REACHED = (SCORES >= THRESHOLD).astype(int)
SKLEARN = {
    "auc": lambda w: sklearn.roc_auc_score(LABELS, SCORES, sample_weight=w),
    "average_precision": lambda w: sklearn.average_precision_score(LABELS, SCORES, sample_weight=w),
    "accuracy": lambda w: sklearn.accuracy_score(LABELS, REACHED, sample_weight=w),
    "precision": lambda w: sklearn.precision_score(LABELS, REACHED, sample_weight=w),
    "sensitivity": lambda w: sklearn.recall_score(LABELS, REACHED, sample_weight=w),
    "specificity": lambda w: sklearn.recall_score(LABELS, REACHED, pos_label=0, sample_weight=w),
    "negative_predictive_value": lambda w: sklearn.precision_score(LABELS, REACHED, pos_label=0, sample_weight=w),
    "f1": lambda w: sklearn.f1_score(LABELS, REACHED, sample_weight=w),
    "brier": lambda w: sklearn.brier_score_loss(LABELS, SCORES, sample_weight=w),
    "log_loss": lambda w: sklearn.log_loss(LABELS, np.clip(SCORES, 1e-12, 1 - 1e-12), sample_weight=w),
}
AT = {"accuracy", "precision", "sensitivity", "specificity", "negative_predictive_value", "f1"}


def metric(name: str) -> Metric:
    found: Metric = getattr(weighted, name)
    return partial(found, threshold=THRESHOLD) if name in AT else found  # type: ignore[call-arg]


@pytest.mark.parametrize("name", SKLEARN)
def test_a_metric_is_that_of_scikit_learn_with_the_same_weights(name: str) -> None:
    draws = next(weighted.counts(PATIENTS))[:4]
    found = metric(name)(SCORES, LABELS, draws)
    assert found == pytest.approx([SKLEARN[name](weights) for weights in draws], rel=1e-9)


def test_the_calibration_error_of_a_draw_is_that_of_its_rows() -> None:
    draws = next(weighted.counts(PATIENTS))[:3]
    for weights, found in zip(draws, weighted.ece(SCORES, LABELS, draws), strict=True):
        rows = np.repeat(np.arange(len(LABELS)), weights.astype(int))
        scores, labels = SCORES[rows], LABELS[rows]
        bins = np.minimum((scores * 15).astype(int), 14)
        gaps = [abs((scores[bins == b] - labels[bins == b]).sum()) for b in range(15)]
        assert found == pytest.approx(sum(gaps) / len(rows))


@pytest.mark.parametrize("name", ["auc", "average_precision", "precision"])
def test_the_interval_is_that_of_drawing_the_rows(name: str) -> None:
    values = weighted.draws({"it": metric(name)}, SCORES, LABELS, PATIENTS)["it"]
    by_rows = metrics.interval(
        lambda s, y: float(metric(name)(s, y, np.ones((1, len(y))))[0]), SCORES, LABELS, PATIENTS
    )
    assert len(values) == 1001
    assert weighted.percentiles(values[1:]) == pytest.approx(by_rows, rel=1e-9)


def test_the_same_seed_gives_the_same_draws_however_they_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(weighted.counts(PATIENTS)))
    monkeypatch.setattr(weighted, "CELLS", 7 * len(PATIENTS))
    assert np.array_equal(np.concatenate(list(weighted.counts(PATIENTS))), whole)
    assert not np.array_equal(np.concatenate(list(weighted.counts(PATIENTS, seed=1))), whole)


def test_a_patient_is_drawn_with_all_images() -> None:
    for weights in next(weighted.counts(PATIENTS))[:5]:
        for patient in np.unique(PATIENTS):
            assert len(set(weights[patient == PATIENTS])) == 1


def test_without_a_denominator_there_is_no_number() -> None:
    ones = np.ones((1, 3))
    scores, positive = np.array([0.1, 0.2, 0.3]), np.ones(3, np.int64)
    assert np.isnan(weighted.auc(scores, positive, ones)).all()
    assert np.isnan(weighted.precision(scores, positive, ones, 0.9)).all()
    assert np.isnan(weighted.average_precision(scores, 1 - positive, ones)).all()
    assert np.isnan(weighted.percentiles(np.full(5, np.nan))).all()
