"""Drift figures against values worked out elsewhere."""

import math
import random

import pytest

from dicomnode.domain.drift import DriftState, Limits, bins, control_limits, measure, population_stability_index

UNIFORM = [n / 100 for n in range(101)]
LIMITS = Limits(watch=0.1, alarm=0.25, minimum_images=100)


def tenths(counts: list[int]) -> list[float]:
    """Return so many values in each tenth of 0..1."""
    return [0.05 + 0.1 * tenth for tenth, count in enumerate(counts) for _ in range(count)]


def test_bins_hold_a_tenth_each() -> None:
    found = bins(UNIFORM)
    assert found.edges == pytest.approx([0.1 * n for n in range(1, 10)])
    assert found.shares == pytest.approx([0.1] * 10)


@pytest.mark.parametrize(
    ("quantiles", "edges", "shares"),
    [
        ([0.0] * 36 + UNIFORM[36:], (0.0, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), (0.35, 0.05, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1)),
        (UNIFORM[:65] + [1.0] * 36, (0.1, 0.2, 0.3, 0.4, 0.5, 0.6), (0.1,) * 6 + (0.4,)),
        ([0.5] * 101, (), (1.0,)),
    ],
    ids=["a third is 0", "a third is 1", "all the same"],
)
def test_equal_deciles_are_one_bin_with_their_whole_share(quantiles, edges, shares) -> None:
    found = bins(quantiles)
    assert found.edges == pytest.approx(edges)
    assert found.shares == pytest.approx(shares)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([100_000] * 10, 0.0),
        # sum of (a - 0.1) * ln(a / 0.1) over a = 0.15, 0.05, then eight tenths: 0.05 * (ln 1.5 + ln 2)
        ([150_000, 50_000] + [100_000] * 8, 0.05 * (math.log(1.5) + math.log(2))),
        # a = 0.04 five times and 0.16 five times
        ([40_000] * 5 + [160_000] * 5, 5 * 0.06 * math.log(1.6) + 5 * 0.06 * math.log(2.5)),
    ],
    ids=["the same", "a shift between two tenths", "a shift of the half"],
)
def test_index_of_known_shares(counts, expected) -> None:
    assert population_stability_index(tenths(counts), bins(UNIFORM)) == pytest.approx(expected, abs=1e-4)


def test_empty_bins_give_a_finite_number() -> None:
    found = population_stability_index([0.95] * 50, bins(UNIFORM))
    last, other = 50.5 / 55, 0.5 / 55
    assert found == pytest.approx((last - 0.1) * math.log(last * 10) + 9 * (other - 0.1) * math.log(other * 10))


def test_reference_without_spread_has_no_index() -> None:
    assert population_stability_index([0.5], bins([0.5] * 101)) is None


def test_value_on_an_edge_belongs_below_it() -> None:
    reference = bins([0.0] * 51 + [1.0] * 50)
    assert population_stability_index([0.0] * 500 + [1.0] * 500, reference) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(
    ("n", "rate", "lower", "upper"),
    [
        # scipy.stats.binom.ppf(0.00135, n, rate), .isf(0.00135, n, rate)
        (10, 0.015, 0, 2),
        (100, 0.015, 0, 6),
        (500, 0.015, 1, 17),
        (1000, 0.5, 453, 547),
    ],
)
def test_control_limits_are_those_of_the_binomial_distribution(n, rate, lower, upper) -> None:
    assert control_limits(n, rate) == (lower / n, upper / n)


@pytest.mark.parametrize(
    ("values", "flagged", "state"),
    [
        (tenths([20] * 10), 3, DriftState.OK),
        (tenths([36, 4] + [20] * 8), 3, DriftState.WATCH),
        (tenths([0] * 5 + [40] * 5), 3, DriftState.ALARM),
        (tenths([20] * 10), 12, DriftState.ALARM),
        (tenths([2] * 10), 0, DriftState.OK),
        (tenths([0] * 9 + [20]), 0, DriftState.OK),
    ],
    ids=["alike", "a little off", "far off", "too many flags", "few images", "few images far off"],
)
def test_state_is_the_worse_of_index_and_flag_rate(values, flagged, state) -> None:
    assert measure(values, flagged, UNIFORM, 0.015, LIMITS).state is state


def test_fewer_flags_than_chance_explains_are_worth_a_look() -> None:
    values = tenths([200] * 10)
    assert measure(values, 5, UNIFORM, 0.015, LIMITS).state is DriftState.WATCH


def test_without_reference_there_is_the_flag_rate_alone() -> None:
    found = measure(tenths([20] * 10), 60, None, None, LIMITS)
    assert (found.psi, found.lower, found.upper, found.state) == (None, None, None, DriftState.OK)
    assert found.flag_rate == 0.3


def test_chance_alone_seldom_exceeds_the_watch_limit_at_500_images() -> None:
    generator = random.Random(1)
    reference = bins(UNIFORM)
    found = [population_stability_index([generator.random() for _ in range(500)], reference) for _ in range(200)]
    assert max(psi for psi in found if psi is not None) < 0.1
