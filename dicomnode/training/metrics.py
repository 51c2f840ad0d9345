"""Metrics of a classifier with bootstrap intervals by patient, and its calibration: plain numpy over scores."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
Labels = NDArray[np.int64]
Patients = NDArray[np.str_]
BINS = 15


def auc(scores: Scores, labels: Labels) -> float:
    """Return the area under the ROC curve of `scores` for labels 0 and 1: P(positive above negative), ties half."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return float("nan")
    return float((ranks[labels == 1].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(scores: Scores, labels: Labels) -> float:
    """Return the area under the precision-recall curve (average precision)."""
    order = np.argsort(-scores, kind="stable")
    hits = labels[order].cumsum()
    return float((hits / np.arange(1, len(order) + 1))[labels[order] == 1].mean())


def sensitivity(scores: Scores, labels: Labels, threshold: float) -> float:
    """Return the share of positives at or above `threshold`, NaN where there is none."""
    positives = scores[labels == 1]
    return float((positives >= threshold).mean()) if len(positives) else float("nan")


def specificity(scores: Scores, labels: Labels, threshold: float) -> float:
    """Return the share of negatives below `threshold`, NaN where there is none."""
    negatives = scores[labels == 0]
    return float((negatives < threshold).mean()) if len(negatives) else float("nan")


def accuracy(scores: Scores, labels: Labels, threshold: float) -> float:
    """Return the share of right answers at `threshold`."""
    return float(((scores >= threshold) == (labels == 1)).mean())


def brier(scores: Scores, labels: Labels) -> float:
    """Return the mean squared error of probabilities."""
    return float(np.mean((scores - labels) ** 2))


def log_loss(scores: Scores, labels: Labels) -> float:
    """Return the mean negative log likelihood of probabilities."""
    right = np.where(labels == 1, scores, 1 - scores)
    return float(-np.log(np.clip(right, 1e-12, 1)).mean())


def ece(scores: Scores, labels: Labels) -> float:
    """Return the expected calibration error of probabilities over 15 equal bins."""
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, weights=scores - labels, minlength=BINS)
    return float(np.abs(gaps).sum() / len(scores))


def interval(
    metric: Callable[[Scores, Labels], float], scores: Scores, labels: Labels, patients: Patients, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of `metric`: 1,000 times patients are drawn with replacement."""
    rng = np.random.default_rng(seed)
    names, groups = np.unique(patients, return_inverse=True)
    order, sizes = np.argsort(groups, kind="stable"), np.bincount(groups)
    starts = np.cumsum(sizes) - sizes
    values = []
    for _ in range(1000):
        drawn = rng.integers(0, len(names), len(names))
        ends = np.cumsum(sizes[drawn])
        places = np.arange(ends[-1]) + np.repeat(starts[drawn] - ends + sizes[drawn], sizes[drawn])
        rows = order[places]  # every image of every patient drawn
        values.append(metric(scores[rows], labels[rows]))
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


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
