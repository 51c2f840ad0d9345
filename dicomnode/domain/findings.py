"""What an analysis says about a study, as plain values: codes, predictions, findings, urgency.

A finding is never "normal": it is suspected, or not suspected at the operating point of the bundle.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from enum import StrEnum


class Priority(StrEnum):
    """Urgency that the analysis suggests; `worklist` turns it into an order."""

    CRITICAL = "critical"
    URGENT = "urgent"
    ROUTINE = "routine"

    @property
    def rank(self) -> int:
        """0 for the most urgent."""
        return list(Priority).index(self)


class WhenUnusual(StrEnum):
    """What a site wants of the class findings of an image that is unlike the training images; see `domain.gate`."""

    SHOW = "show"
    LOWER = "lower"
    SUPPRESS = "suppress"


@dataclass(frozen=True, slots=True)
class Code:
    """A coded concept: Code Value, Coding Scheme Designator, Code Meaning. Standard: PS3.3 8.1."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True, slots=True)
class BundleIdentity:
    """Which model said it: every number that we show keeps this.

    `digest` is the SHA-256 over the bundle's manifest and files, `weights_digest` that of its weights alone.
    `parameters` are lines for Algorithm Parameters (TID 4019), for instance `input 224x224`.
    """

    name: str
    version: str
    kind: str
    title: str
    digest: str
    weights_digest: str
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Prediction:
    """One number that a bundle gave for one image.

    `value` is a probability in 0..1 for a classifier and the score in the bundle's unit for an anomaly bundle.
    """

    sop_instance_uid: str
    label: str
    value: float
    threshold: float


@dataclass(frozen=True, slots=True)
class Finding:
    """A class of a classifier over the study: the largest probability and the image that gave it.

    `probability` and `threshold` are in 0..1; `priority` is what the class means where it is suspected, lowered to
    routine by the gate if the site wants so. `is_from_unusual`: its image is unlike the training images.
    """

    label: str
    code: Code
    site: Code | None
    probability: float
    threshold: float
    priority: Priority
    sop_instance_uid: str
    is_from_unusual: bool = False

    @property
    def is_suspected(self) -> bool:
        """Whether the probability reaches the operating point."""
        return self.probability >= self.threshold


@dataclass(frozen=True, slots=True)
class AnomalyFinding:
    """The anomaly score of the study: the largest score and the image that gave it.

    `score` and `threshold` are in the bundle's unit; `percentile` (0..100) is the place of the score among the images
    of the training kind.
    """

    label: str
    score: float
    threshold: float
    percentile: float
    sop_instance_uid: str

    @property
    def is_unusual(self) -> bool:
        """Whether the image is unlike the training images."""
        return self.score > self.threshold


@dataclass(frozen=True, slots=True)
class BundleResult:
    """What one bundle said about one study version.

    `assessed` are the SOP Instance UIDs that went through the network; `not_applicable` says in words why none did.
    `withheld` are findings that the anomaly gate keeps back: not assessed, neither suspected nor not suspected;
    `when_unusual` is the setting of the gate that was in force.
    """

    bundle: BundleIdentity
    predictions: tuple[Prediction, ...] = ()
    findings: tuple[Finding, ...] = ()
    anomaly: AnomalyFinding | None = None
    assessed: tuple[str, ...] = ()
    not_applicable: str = ""
    withheld: tuple[Finding, ...] = ()
    when_unusual: WhenUnusual = WhenUnusual.SHOW


def study_priority(results: tuple[BundleResult, ...]) -> Priority:
    """Return the most urgent priority of the suspected findings; an unusual image alone stays routine."""
    suspected = [f.priority for r in results for f in r.findings if f.is_suspected]
    return min(suspected, key=lambda p: p.rank, default=Priority.ROUTINE)


def findings_digest(results: tuple[BundleResult, ...]) -> str:
    """Return the SHA-256 (hex) over everything that the bundles said, the same for the same results."""
    text = json.dumps([asdict(r) for r in results], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
