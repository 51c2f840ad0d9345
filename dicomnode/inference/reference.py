"""The reference that a bundle's scores are compared with, from its manifest."""

from dicomnode.domain.drift import Reference
from dicomnode.inference.manifest import Manifest


def references(manifest: Manifest, bundle_digest: str) -> tuple[Reference, ...]:
    """Return the reference of each output that the node reports."""
    if manifest.anomaly is not None:
        output = manifest.anomaly
        return (Reference(bundle_digest, output.label, output.quantiles, round(1 - output.flag_quantile, 9)),)
    classes = () if manifest.classifier is None else manifest.classifier.classes
    return tuple(Reference(bundle_digest, known.label, known.quantiles, None) for known in classes)
