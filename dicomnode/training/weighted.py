"""Metrics of many bootstrap draws at once: each image counts as often as its patient was drawn.

Every metric takes scores (N,), labels 0 and 1 (N,) and weights (B, N), and returns (B,) values; a value without a
denominator (no positive image, nothing predicted positive) is NaN. Weights of one give the plain figure.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
Labels = NDArray[np.int64]
Patients = NDArray[np.str_]
Values = NDArray[np.float64]
Metric = Callable[[Scores, Labels, Values], Values]

BINS = 15
DRAWS = 1000
CELLS = 10_000_000
"""Weights that are held at once: 80 MB."""


def counts(patients: Patients, seed: int = 0) -> Iterator[Values]:
    """Yield blocks of weights (B, N), 1,000 draws in all: how often each image counts where patients are drawn."""
    rng = np.random.default_rng(seed)
    names, groups = np.unique(patients, return_inverse=True)
    block = max(1, min(DRAWS, CELLS // max(1, len(patients))))
    for start in range(0, DRAWS, block):
        drawn = [rng.integers(0, len(names), len(names)) for _ in range(min(block, DRAWS - start))]
        yield np.array([np.bincount(one, minlength=len(names)) for one in drawn], dtype=np.float64)[:, groups]


def draws(metrics: Mapping[str, Metric], scores: Scores, labels: Labels, patients: Patients) -> dict[str, Values]:
    """Return the plain value of each metric and then 1,000 bootstrap values, (1001,)."""
    once = np.ones((1, len(labels)))
    values = {name: [metric(scores, labels, once)] for name, metric in metrics.items()}
    for weights in counts(patients):
        for name, metric in metrics.items():
            values[name].append(metric(scores, labels, weights))
    return {name: np.concatenate(found) for name, found in values.items()}


def percentiles(values: Values) -> tuple[float, float]:
    """Return the 2.5th and 97.5th percentile of what is not NaN."""
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def share(part: Values, whole: Values) -> Values:
    """Return `part` / `whole`, NaN where `whole` is zero."""
    shares: Values = np.divide(part, whole, out=np.full(np.broadcast(part, whole).shape, np.nan), where=whole != 0)
    return shares


def _by_score(scores: Scores, labels: Labels, weights: Values) -> tuple[Values, Values]:
    """Return the weights of positives and negatives, (B, U), at each different score, smallest first."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf) != 0)
    ordered, positive = weights[:, order], labels[order] == 1
    return (
        np.add.reduceat(ordered * positive, starts, axis=1),
        np.add.reduceat(ordered * ~positive, starts, axis=1),
    )


def auc(scores: Scores, labels: Labels, weights: Values) -> Values:
    """Return the area under the ROC curve: P(positive above negative), ties half."""
    positive, negative = _by_score(scores, labels, weights)
    below = negative.cumsum(1) - negative / 2
    return share((positive * below).sum(1), positive.sum(1) * negative.sum(1))


def average_precision(scores: Scores, labels: Labels, weights: Values) -> Values:
    """Return the average precision (AUPRC): the mean over positives of the precision from their score on."""
    positive, negative = (side[:, ::-1] for side in _by_score(scores, labels, weights))
    hits = positive.cumsum(1)
    precision_there = share(hits, hits + negative.cumsum(1))
    return share(np.nansum(positive * precision_there, axis=1), positive.sum(1))


def sensitivity(scores: Scores, labels: Labels, weights: Values, threshold: float) -> Values:
    """Return the share of positives at or above `threshold` (recall)."""
    positive = labels == 1
    return share(weights @ (positive & (scores >= threshold)), weights @ positive)


def specificity(scores: Scores, labels: Labels, weights: Values, threshold: float) -> Values:
    """Return the share of negatives below `threshold`."""
    negative = labels == 0
    return share(weights @ (negative & (scores < threshold)), weights @ negative)


def precision(scores: Scores, labels: Labels, weights: Values, threshold: float) -> Values:
    """Return the share of positives among what is at or above `threshold` (positive predictive value)."""
    reached = scores >= threshold
    return share(weights @ (reached & (labels == 1)), weights @ reached)


def negative_predictive_value(scores: Scores, labels: Labels, weights: Values, threshold: float) -> Values:
    """Return the share of negatives among what is below `threshold`."""
    below = scores < threshold
    return share(weights @ (below & (labels == 0)), weights @ below)


def f1(scores: Scores, labels: Labels, weights: Values, threshold: float) -> Values:
    """Return the harmonic mean of precision and sensitivity."""
    reached, positive = scores >= threshold, labels == 1
    return share(2 * (weights @ (reached & positive)), weights @ reached + weights @ positive)


def accuracy(scores: Scores, labels: Labels, weights: Values, threshold: float) -> Values:
    """Return the share of right answers at `threshold`."""
    return share(weights @ ((scores >= threshold) == (labels == 1)), weights.sum(1))


def mean(values: Scores, weights: Values) -> Values:
    """Return the mean of a number an image."""
    return share(weights @ values, weights.sum(1))


def brier(scores: Scores, labels: Labels, weights: Values) -> Values:
    """Return the mean squared error of probabilities."""
    return mean((scores - labels) ** 2, weights)


def log_loss(scores: Scores, labels: Labels, weights: Values) -> Values:
    """Return the mean negative log likelihood of probabilities."""
    right = np.where(labels == 1, scores, 1 - scores)
    return mean(-np.log(np.clip(right, 1e-12, 1)), weights)


def ece(scores: Scores, labels: Labels, weights: Values) -> Values:
    """Return the expected calibration error of probabilities over 15 equal bins."""
    gaps = np.zeros((len(scores), BINS))
    gaps[np.arange(len(scores)), np.minimum((scores * BINS).astype(int), BINS - 1)] = scores - labels
    return share(np.abs(weights @ gaps).sum(1), weights.sum(1))
