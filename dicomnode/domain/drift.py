"""Drift: how far the scores of a source are from a bundle's reference, as two figures with limits.

The population stability index compares shares in bins that hold a tenth of the reference each; the flag rate stands on
a control chart with binomial limits around the rate that the bundle was calibrated to.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

DECIMALS = 4
"""Outputs of bundles are rounded to so many decimals; quantiles are compared as rounded too."""
THREE_SIGMA = 0.00135
"""Probability beyond three standard deviations on one side: the limits of a control chart."""


class DriftState(StrEnum):
    """What an operator has to do: nothing, keep an eye on it, look for the cause."""

    OK = "ok"
    WATCH = "watch"
    ALARM = "alarm"


@dataclass(frozen=True, slots=True)
class Reference:
    """What one output of a bundle gave on its reference images: quantiles at 0, 1, ... 100 %, expected share of flags.

    None where the manifest does not say; of a class the expected share is never known: it is the site's own.
    """

    bundle_digest: str
    label: str
    quantiles: tuple[float, ...] | None
    flag_rate: float | None


@dataclass(frozen=True, slots=True)
class Bins:
    """Bins of a reference: `edges` close the bins from above, all but the last; `shares` of the reference sum to 1."""

    edges: tuple[float, ...]
    shares: tuple[float, ...]


def bins(quantiles: Sequence[float]) -> Bins:
    """Return bins at the deciles of 101 quantiles; deciles that are equal fall into one bin with their whole share."""
    rounded = [round(value, DECIMALS) for value in quantiles]
    edges, below = [], [0.0]
    for decile in range(10, 100, 10):
        edge = rounded[decile]
        share = (bisect_right(rounded, edge) - 1) / (len(rounded) - 1)
        if below[-1] < share < 1:
            edges.append(edge)
            below.append(share)
    below.append(1.0)
    return Bins(tuple(edges), tuple(b - a for a, b in pairwise(below)))


def population_stability_index(values: Sequence[float], reference: Bins) -> float | None:
    """Return the sum of (actual - expected) * ln(actual / expected) over the bins; None where there is one bin.

    Half an image is added to each bin, so that an empty one gives a finite number.
    """
    if len(reference.shares) < 2 or not values:
        return None
    counts = [0.5] * len(reference.shares)
    for value in values:
        counts[bisect_left(reference.edges, value)] += 1
    total = sum(counts)
    pairs = [(count / total, share) for count, share in zip(counts, reference.shares, strict=True)]
    return sum((actual - share) * math.log(actual / share) for actual, share in pairs)


def control_limits(n: int, rate: float) -> tuple[float, float]:
    """Return the lowest and highest share of `n` images that chance alone explains at `rate` (exact binomial, 3 sigma).

    A share below or above them has a probability of at most 0.00135 on its side.
    """
    if rate <= 0 or rate >= 1:
        return rate, rate
    log_p, log_q = math.log(rate), math.log1p(-rate)
    whole = math.lgamma(n + 1)
    lower, upper, cumulative = 0, n, 0.0
    for k in range(n + 1):
        cumulative += math.exp(whole - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * log_p + (n - k) * log_q)
        if cumulative <= THREE_SIGMA:
            lower = k + 1
        if 1 - cumulative <= THREE_SIGMA:
            upper = k
            break
    return lower / n, upper / n


@dataclass(frozen=True, slots=True)
class Limits:
    """From which index a state is `watch` or `alarm`, and how many images an index needs to mean anything."""

    watch: float
    alarm: float
    minimum_images: int


@dataclass(frozen=True, slots=True)
class Measurement:
    """A window of `n` images: `psi` and the limits are None where the reference, or the number of images, has none."""

    n: int
    psi: float | None
    flag_rate: float
    lower: float | None
    upper: float | None
    state: DriftState


def measure(
    values: Sequence[float],
    flagged: int,
    quantiles: Sequence[float] | None,
    expected_rate: float | None,
    limits: Limits,
) -> Measurement:
    """Return what a window of `values`, `flagged` of them beyond the threshold, says against the reference."""
    n = len(values)
    psi = None
    if quantiles is not None and n >= limits.minimum_images:
        psi = population_stability_index(values, bins(quantiles))
    lower, upper = (None, None) if expected_rate is None else control_limits(n, expected_rate)
    rate = flagged / n
    return Measurement(n, psi, rate, lower, upper, _state(psi, rate, lower, upper, limits))


def _state(psi: float | None, rate: float, lower: float | None, upper: float | None, limits: Limits) -> DriftState:
    """Return the worse of what the index and the chart say; fewer flags than expected is worth a look, no alarm."""
    index = psi or 0.0
    if index >= limits.alarm or (upper is not None and rate > upper):
        return DriftState.ALARM
    if index >= limits.watch or (lower is not None and rate < lower):
        return DriftState.WATCH
    return DriftState.OK
