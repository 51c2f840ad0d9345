"""The anomaly gate: what the class findings of an image count for that is unlike the training images.

An image is flagged where any anomaly bundle that assessed it gave a score above its threshold. The gate works image by
image: beside a flagged image, a good one of the same study keeps its findings.
"""

from collections.abc import Sequence
from dataclasses import replace

from dicomnode.domain.findings import BundleResult, Finding, Prediction, Priority, WhenUnusual


def flagged_images(results: Sequence[BundleResult]) -> frozenset[str]:
    """Return the SOP Instance UIDs of the images that an anomaly bundle calls unlike its training images."""
    flagged = {result.anomaly.sop_instance_uid for result in results if result.anomaly and result.anomaly.is_unusual}
    scores = (prediction for result in results if result.anomaly for prediction in result.predictions)
    return frozenset(flagged.union(score.sop_instance_uid for score in scores if score.value > score.threshold))


def gate(results: tuple[BundleResult, ...], when_unusual: WhenUnusual) -> tuple[BundleResult, ...]:
    """Return `results` as `when_unusual` wants them; predictions stay as they are.

    `show`: a finding of a flagged image says so. `lower`: it says so and is routine, and a good image that is suspected
    goes first. `suppress`: findings come from good images alone; a class without one is withheld, never negative.
    """
    flagged = flagged_images(results)
    return tuple(_gated(result, flagged, when_unusual) for result in results)


def _gated(result: BundleResult, flagged: frozenset[str], when_unusual: WhenUnusual) -> BundleResult:
    findings: list[Finding] = []
    withheld: list[Finding] = []
    for finding in (*result.findings, *result.withheld):
        ours = [prediction for prediction in result.predictions if prediction.label == finding.label]
        good = [prediction for prediction in ours if prediction.sop_instance_uid not in flagged]
        if when_unusual is WhenUnusual.SUPPRESS:
            found = _from(finding, _largest(good) or _largest(ours), flagged)
            (withheld if found.is_from_unusual else findings).append(found)
        elif when_unusual is WhenUnusual.LOWER:
            suspected = [prediction for prediction in good if prediction.value >= prediction.threshold]
            found = _from(finding, _largest(suspected) or _largest(ours), flagged)
            findings.append(replace(found, priority=Priority.ROUTINE) if found.is_from_unusual else found)
        else:
            findings.append(_from(finding, _largest(ours), flagged))
    return replace(result, findings=tuple(findings), withheld=tuple(withheld), when_unusual=when_unusual)


def _largest(predictions: Sequence[Prediction]) -> Prediction | None:
    return max(predictions, key=lambda prediction: prediction.value, default=None)


def _from(finding: Finding, source: Prediction | None, flagged: frozenset[str]) -> Finding:
    """Return `finding` as the image of `source` gives it; as it is where no prediction is known."""
    if source is not None:
        finding = replace(finding, probability=source.value, sop_instance_uid=source.sop_instance_uid)
    return replace(finding, is_from_unusual=finding.sop_instance_uid in flagged)
