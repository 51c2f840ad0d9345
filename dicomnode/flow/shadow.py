"""Shadow: bundles on trial look at a study after its active ones; what they say is stored and influences nothing.

It runs once a version at most: a shadow that kills its process must not do so for ever.
"""

import time
from pathlib import Path

from dicomnode.db import results, studies
from dicomnode.db.session import Database, now
from dicomnode.domain.lifecycle import State
from dicomnode.flow.analyze import source_instances
from dicomnode.flow.bundles import BundlesInUse, OpenSet
from dicomnode.inference.select import SourceInstance
from dicomnode.log import get_logger

log = get_logger(__name__)
ANALYZED = (State.REPORTING, State.DELIVERING, State.DONE, State.SKIPPED)


class Shadow:
    """The shadow step with what it needs: rows, the spool at `root`, the bundles in use."""

    def __init__(self, database: Database, root: Path, bundles: BundlesInUse) -> None:
        self._database = database
        self._root = root
        self._bundles = bundles

    def look(self, version_id: int) -> None:
        """Let the shadow bundles look at a version whose analysis is over, and store what they say."""
        with self._bundles.study() as opened:
            if opened.shadows is None:
                return
            instances = self._begin(version_id, opened)
            if not instances:
                return
            began = time.monotonic()
            found = opened.shadows.analyze(instances)
            seconds = time.monotonic() - began
            backends = opened.set.backends
        with self._database.write() as session:
            moment = now(session)
            for result in found:
                name = result.bundle.name
                results.finish_shadow(session, version_id, result, moment, seconds, backends[name])
        log.info("shadows looked", version=version_id, bundles=[r.bundle.name for r in found], seconds=seconds)

    def _begin(self, version_id: int, opened: OpenSet) -> list[SourceInstance]:
        """Return the instances for shadows that did not begin on the version before; none where there is no such."""
        with self._database.write() as session:
            if studies.version(session, version_id).state not in ANALYZED:
                return []
            moment = now(session)
            identities = [bundle.identity for bundle in opened.set.shadows]
            begun = [results.begin_shadow(session, version_id, identity, moment) for identity in identities]
            return source_instances(session, version_id, self._root) if any(begun) else []
