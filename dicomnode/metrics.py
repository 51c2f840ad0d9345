"""Every counter and gauge of the node, declared once. No label ever holds patient data."""

from prometheus_client import Counter, Gauge, Histogram

INSTANCES_RECEIVED = Counter(
    "dicomnode_instances_received_total", "C-STORE requests by answered status", ["source", "status"]
)
BYTES_RECEIVED = Counter("dicomnode_received_bytes_total", "Bytes of acknowledged instances", ["source"])
ASSOCIATIONS_REJECTED = Counter("dicomnode_associations_rejected_total", "Rejected associations")
ANALYSIS_SECONDS = Histogram("dicomnode_analysis_seconds", "Seconds of one analysis of a study version", ["bundle"])
DELIVERY_ATTEMPTS = Counter(
    "dicomnode_delivery_attempts_total", "Delivery attempts by outcome", ["destination", "outcome"]
)
DRIFT_PSI = Gauge(
    "dicomnode_drift_psi",
    "Population stability index of the last images against the bundle's reference",
    ["source", "bundle", "label"],
    multiprocess_mode="mostrecent",
)
FLAG_RATE = Gauge(
    "dicomnode_flag_rate",
    "Share of the last images beyond the threshold",
    ["source", "bundle", "label"],
    multiprocess_mode="mostrecent",
)
