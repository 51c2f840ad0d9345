"""Agreement of two bundles, against numbers worked out by hand."""

import pytest

from dicomnode.domain.agreement import Pair, agreements, kappa


def test_a_class_is_counted_and_its_differences_described() -> None:
    pairs = [
        Pair(1, "Pneumonia", 0.9, True, 0.8, True),
        Pair(2, "Pneumonia", 0.2, False, 0.1, False),
        Pair(3, "Pneumonia", 0.7, True, 0.3, False),
        Pair(4, "Pneumonia", 0.1, False, 0.6, True),
    ]
    (found,) = agreements(pairs, worst=2)
    assert (found.studies, found.both_positive, found.both_negative) == (4, 1, 1)
    assert (found.only_first, found.only_second, found.agreement) == (1, 1, 0.5)
    assert found.kappa == pytest.approx(0.0)
    assert found.mean_difference == pytest.approx(0.025)
    assert (found.low, found.high) == (pytest.approx(-0.455), pytest.approx(0.3775))
    assert found.most_different == (4, 3)


def test_each_class_has_its_own_figures() -> None:
    pairs = [Pair(1, "A", 0.9, True, 0.9, True), Pair(1, "B", 0.1, False, 0.1, False)]
    assert [(one.label, one.studies) for one in agreements(pairs, worst=1)] == [("A", 1), ("B", 1)]
    assert agreements([], worst=5) == []


def test_kappa_of_the_textbook() -> None:
    """Cohen's example of 50 grant proposals: 20 and 15 agreed, 5 and 10 not."""
    assert kappa(20, 5, 10, 15) == pytest.approx(0.4)


def test_kappa_is_none_where_chance_agrees_always() -> None:
    assert kappa(0, 0, 0, 7) is None
