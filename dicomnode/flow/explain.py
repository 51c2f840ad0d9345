"""Explain: where suspected findings come from, as maps in the spool (part of the analyze step, before T4).

An explanation is a courtesy: whatever goes wrong with it becomes a reason, and the study goes on.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from dicomnode import spool
from dicomnode.db.explanations import KeptExplanation
from dicomnode.db.studies import StoredFile
from dicomnode.domain.findings import BundleResult
from dicomnode.inference.explain import When, wanted
from dicomnode.inference.predict import Analyzer
from dicomnode.inference.select import SourceInstance
from dicomnode.log import get_logger

log = get_logger(__name__)


def explain(
    analyzer: Analyzer,
    root: Path,
    version_id: int,
    instances: Sequence[SourceInstance],
    results: Sequence[BundleResult],
    when: When,
) -> list[KeptExplanation]:
    """Return the explanations that `when` asks for, their maps durable in the spool at `root`.

    A repeated step keeps the same file again: its name holds the version and the digest of its bytes.
    """
    paths = {instance.sop_instance_uid: instance.path for instance in instances}
    kept = []
    for asked in wanted(results, when):
        about = (asked.bundle_name, asked.label, asked.sop_instance_uid)
        try:
            found = analyzer.explain(paths[asked.sop_instance_uid], asked)
            if found is None:
                continue
            file = _keep(root, version_id, found.png)
        except Exception as exc:  # noqa: BLE001  a study must not fail for its illustration, whatever a network does
            reason = f"{type(exc).__name__}: {exc}"
            log.warning("not explained", version=version_id, bundle=asked.bundle_name, reason=reason)
            kept.append(KeptExplanation(*about, method="", reason=reason))
            continue
        kept.append(KeptExplanation(*about, found.method, file, found.rows, found.columns, found.maximum))
    return kept


def _keep(root: Path, version_id: int, png: bytes) -> StoredFile:
    digest = hashlib.sha256(png).hexdigest()
    name = f"{spool.EXPLANATIONS}/{version_id}/{digest[:40]}.png"
    spool.keep(root, spool.stage(root, (png,)), name)
    return StoredFile(name, len(png), digest)
