"""Every counter and gauge of the node, declared once. No label ever holds patient data."""

from prometheus_client import Counter, Gauge, Histogram

INSTANCES_RECEIVED = Counter(
    "dicomnode_instances_received_total", "C-STORE requests by answered status", ["source", "status"]
)
BYTES_RECEIVED = Counter("dicomnode_received_bytes_total", "Bytes of acknowledged instances", ["source"])
ASSOCIATIONS_REJECTED = Counter("dicomnode_associations_rejected_total", "Rejected associations")
STUDY_VERSIONS = Gauge("dicomnode_study_versions", "Study versions by state", ["state"])
ANALYSIS_SECONDS = Histogram("dicomnode_analysis_seconds", "Seconds of one analysis of a study version", ["bundle"])
BATCH_IMAGES = Histogram(
    "dicomnode_batch_images", "Images of one forward pass", ["bundle"], buckets=(1, 2, 4, 8, 16, 32)
)
DELIVERY_ATTEMPTS = Counter(
    "dicomnode_delivery_attempts_total", "Delivery attempts by outcome", ["destination", "outcome"]
)
