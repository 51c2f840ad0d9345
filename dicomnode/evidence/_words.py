"""What we say in words. A finding is suspected or not suspected; nothing is ever called normal."""

from collections.abc import Iterator

from dicomnode.domain.findings import AnomalyFinding, BundleIdentity, BundleResult, Finding, Priority

WARNING = "AI RESULT - NOT FOR DIAGNOSIS"
URGENCY = {Priority.CRITICAL: "CRITICAL", Priority.URGENT: "URGENT", Priority.ROUTINE: "ROUTINE"}


def percent(fraction: float) -> float:
    """Return a probability as percent with one decimal."""
    return round(100 * float(fraction), 1)


def finding_sentence(finding: Finding) -> str:
    """Return one sentence for the Comment of a class."""
    verdict = "suspected" if finding.is_suspected else "not suspected"
    numbers = f"probability {percent(finding.probability)} % (threshold {percent(finding.threshold)} %)"
    return f"AI: {finding.label} {verdict}, {numbers}"


def anomaly_sentence(anomaly: AnomalyFinding) -> str:
    """Return one sentence for the Comment of an anomaly score."""
    verdict = "unlike the images the model knows" if anomaly.is_unusual else "not unusual for the model"
    rank = f"above {anomaly.percentile:.0f} % of its reference images"
    return f"AI: anomaly score {anomaly.score:.4g} (limit {anomaly.threshold:.4g}), {rank}: {verdict}"


def model_name(bundle: BundleIdentity) -> str:
    """Return title, version and the beginning of the weights digest."""
    return f"{bundle.title} {bundle.version} (weights {bundle.weights_digest[:12]})"


def not_assessed(results: tuple[BundleResult, ...]) -> Iterator[str]:
    """Yield one sentence for each bundle that could not say anything."""
    for result in results:
        if result.not_applicable:
            yield f"Not assessed by {result.bundle.title} {result.bundle.version}: {result.not_applicable}"
