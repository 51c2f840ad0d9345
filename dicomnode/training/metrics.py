"""Plain metrics that training needs, any metric's bootstrap interval by patient, calibration and threshold."""

from collections.abc import Callable
from functools import partial

import numpy as np

from dicomnode.training import weighted

Scores = weighted.Scores
Labels = weighted.Labels
Patients = weighted.Patients


def auc(scores: Scores, labels: Labels) -> float:
    """Return the area under the ROC curve of `scores` for labels 0 and 1: P(positive above negative), ties half."""
    return _plain(weighted.auc, scores, labels)


def average_precision(scores: Scores, labels: Labels) -> float:
    """Return the area under the precision-recall curve (average precision)."""
    return _plain(weighted.average_precision, scores, labels)


def accuracy(scores: Scores, labels: Labels, threshold: float) -> float:
    """Return the share of right answers at `threshold`."""
    return _plain(partial(weighted.accuracy, threshold=threshold), scores, labels)


def brier(scores: Scores, labels: Labels) -> float:
    """Return the mean squared error of probabilities."""
    return _plain(weighted.brier, scores, labels)


def ece(scores: Scores, labels: Labels) -> float:
    """Return the expected calibration error of probabilities over 15 equal bins."""
    return _plain(weighted.ece, scores, labels)


def sensitivity(scores: Scores, labels: Labels, threshold: float) -> float:
    """Return the share of positives at or above `threshold`."""
    return _plain(partial(weighted.sensitivity, threshold=threshold), scores, labels)


def specificity(scores: Scores, labels: Labels, threshold: float) -> float:
    """Return the share of negatives below `threshold`."""
    return _plain(partial(weighted.specificity, threshold=threshold), scores, labels)


def log_loss(scores: Scores, labels: Labels) -> float:
    """Return the mean negative log likelihood of probabilities."""
    return _plain(weighted.log_loss, scores, labels)


def _plain(metric: weighted.Metric, scores: Scores, labels: Labels) -> float:
    """Return the value of a metric where every image counts once."""
    return float(metric(scores, labels, np.ones((1, len(labels))))[0])


def interval(
    metric: Callable[[Scores, Labels], float], scores: Scores, labels: Labels, patients: Patients, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of any `metric`: 1,000 times patients are drawn with replacement."""
    rows = np.arange(len(labels))
    drawn = (np.repeat(rows, once.astype(int)) for block in weighted.counts(patients, seed) for once in block)
    return weighted.percentiles(np.array([metric(scores[some], labels[some]) for some in drawn]))


def platt(logits: Scores, labels: Labels) -> tuple[float, float]:
    """Return scale and offset that make `sigmoid(scale * logit + offset)` likeliest (Newton's method).

    Targets are Platt's smoothed ones, so that a perfect separation gives finite numbers.
    """
    positives, negatives = int(labels.sum()), int((1 - labels).sum())
    targets = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    design = np.stack([logits, np.ones_like(logits)], axis=1)  # (N, 2)
    weights = np.array([1.0, 0.0])
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(design @ weights, -60, 60)))
        gradient = design.T @ (p - targets)
        curvature = (design * (p * (1 - p))[:, None]).T @ design + 1e-6 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step * min(1.0, 2.0 / float(np.abs(step).max() + 1e-12))
    return float(weights[0]), float(weights[1])


def threshold_for_sensitivity(scores: Scores, labels: Labels, wanted: float) -> float:
    """Return the largest threshold whose sensitivity is at least `wanted`."""
    positives = np.sort(scores[labels == 1])
    return float(positives[int(np.floor((1 - wanted) * len(positives)))])
