"""What we say in words. A finding is suspected or not suspected; nothing is ever called normal."""

from collections.abc import Iterator

from dicomnode.domain.findings import AnomalyFinding, BundleIdentity, BundleResult, Finding, Priority, WhenUnusual
from dicomnode.domain.gate import flagged_images

UNLIKE = "unlike the training images"
WARNING = "AI RESULT - NOT FOR DIAGNOSIS"
URGENCY = {Priority.CRITICAL: "CRITICAL", Priority.URGENT: "URGENT", Priority.ROUTINE: "ROUTINE"}

CONSEQUENCE = {
    WhenUnusual.SHOW: "class findings of such an image deserve little trust",
    WhenUnusual.LOWER: "class findings of such an image do not raise the urgency",
    WhenUnusual.SUPPRESS: "class findings of such an image are withheld",
}
"""What the setting `results.when_unusual` makes of a flagged image."""


def percent(fraction: float) -> float:
    """Return a probability as percent with one decimal."""
    return round(100 * float(fraction), 1)


def finding_sentence(finding: Finding, when_unusual: WhenUnusual) -> str:
    """Return one sentence for the Comment of a class; it says if the image is unlike the training images."""
    verdict = "suspected" if finding.is_suspected else "not suspected"
    numbers = f"probability {percent(finding.probability)} % (threshold {percent(finding.threshold)} %)"
    sentence = f"AI: {finding.label} {verdict}, {numbers}"
    if not finding.is_from_unusual:
        return sentence
    is_lowered = finding.is_suspected and when_unusual is WhenUnusual.LOWER
    return f"{sentence}; its image is {UNLIKE}{', so it does not raise the urgency' if is_lowered else ''}"


def anomaly_sentence(anomaly: AnomalyFinding, when_unusual: WhenUnusual) -> str:
    """Return one sentence for the Comment of an anomaly score, with what follows for the class findings."""
    score = f"AI: anomaly score {anomaly.score:.4g} (limit {anomaly.threshold:.4g}), {_place(anomaly.percentile)}"
    if not anomaly.is_unusual:
        return f"{score}: not unusual for the model"
    return f"{score}: {UNLIKE}; {CONSEQUENCE[when_unusual]}"


def _place(percentile: float) -> str:
    """Return where a score stands among those of the reference images; never rounded up to all of them."""
    if percentile >= 100:
        return "above all of its reference images"
    return f"above {int(percentile * 10) / 10:g} % of its reference images"


def unusual_images(results: tuple[BundleResult, ...]) -> str:
    """Return how many of the assessed images are unlike the training images, empty where none is."""
    flagged = len(flagged_images(results))
    assessed = len({uid for result in results if result.anomaly for uid in result.assessed})
    if not flagged:
        return ""
    if assessed <= 1:
        return f"The image is {UNLIKE}"
    return f"{flagged} of {assessed} images {'is' if flagged == 1 else 'are'} {UNLIKE}"


def model_name(bundle: BundleIdentity) -> str:
    """Return title, version and the beginning of the weights digest."""
    return f"{bundle.title} {bundle.version} (weights {bundle.weights_digest[:12]})"


def not_assessed(results: tuple[BundleResult, ...]) -> Iterator[str]:
    """Yield one sentence for each bundle that could not say anything, and for what the anomaly gate withholds."""
    for result in results:
        by = f"{result.bundle.title} {result.bundle.version}"
        if result.not_applicable:
            yield f"Not assessed by {by}: {result.not_applicable}"
        if result.withheld:
            labels = ", ".join(finding.label for finding in result.withheld)
            yield f"{labels} not assessed by {by}: image {UNLIKE}"
