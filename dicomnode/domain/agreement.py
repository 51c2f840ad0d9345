"""How far a shadow bundle agrees with the active one on the same studies, class by class."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pair:
    """What two bundles said of one class in one study version: probability (or score), and whether it is suspected."""

    version_id: int
    label: str
    value: float
    is_positive: bool
    other_value: float
    other_is_positive: bool

    @property
    def difference(self) -> float:
        """Of the values: first bundle less second."""
        return self.value - self.other_value


@dataclass(frozen=True, slots=True)
class Agreement:
    """One class over all studies that both bundles saw.

    `kappa` is Cohen's, None where chance alone would agree always; `low` and `high` hold the middle 95 % of the
    differences; `most_different` are the ids of study versions, the largest difference first.
    """

    label: str
    studies: int
    both_positive: int
    both_negative: int
    only_first: int
    only_second: int
    agreement: float
    kappa: float | None
    mean_difference: float
    low: float
    high: float
    most_different: tuple[int, ...]


def agreements(pairs: Sequence[Pair], worst: int) -> list[Agreement]:
    """Return the agreement of each label of `pairs`, in their order, with the ids of the `worst` studies."""
    labels = list(dict.fromkeys(pair.label for pair in pairs))
    return [_agreement(label, [pair for pair in pairs if pair.label == label], worst) for label in labels]


def _agreement(label: str, pairs: Sequence[Pair], worst: int) -> Agreement:
    count = len(pairs)
    both = sum(p.is_positive and p.other_is_positive for p in pairs)
    neither = sum(not p.is_positive and not p.other_is_positive for p in pairs)
    first = sum(p.is_positive for p in pairs)
    second = sum(p.other_is_positive for p in pairs)
    differences = sorted(p.difference for p in pairs)
    farthest = sorted(pairs, key=lambda p: (-abs(p.difference), p.version_id))
    return Agreement(
        label=label,
        studies=count,
        both_positive=both,
        both_negative=neither,
        only_first=first - both,
        only_second=second - both,
        agreement=(both + neither) / count,
        kappa=kappa(both, first - both, second - both, neither),
        mean_difference=statistics.fmean(differences),
        low=_quantile(differences, 0.025),
        high=_quantile(differences, 0.975),
        most_different=tuple(p.version_id for p in farthest[:worst]),
    )


def kappa(both: int, only_first: int, only_second: int, neither: int) -> float | None:
    """Return Cohen's kappa of a 2 x 2 table; None where both raters always say the same one thing."""
    count = both + only_first + only_second + neither
    seen = (both + neither) / count
    first, second = (both + only_first) / count, (both + only_second) / count
    chance = first * second + (1 - first) * (1 - second)
    return None if chance == 1 else (seen - chance) / (1 - chance)


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Return the quantile of sorted values, linear between neighbours."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
