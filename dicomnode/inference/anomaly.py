"""Anomaly score to percentile, by the reference quantiles of the manifest."""

from collections.abc import Sequence

import numpy as np


def percentile(score: float, quantiles: Sequence[float]) -> float:
    """Return the place (0..100) of `score` among the training kind, whose scores at 0, 1 ... 100 % are `quantiles`."""
    return float(np.interp(score, quantiles, np.linspace(0, 100, len(quantiles))))
