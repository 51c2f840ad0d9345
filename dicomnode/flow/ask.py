"""Ask: a source that can be asked says how many instances a study has; a study that has them all closes at once.

The timer stays: a source that is silent, wrong or still acquiring closes nothing earlier and nothing later. No
transaction is open while a peer is asked.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from dicomnode.config import DeliverySettings, PeerSettings, Settings
from dicomnode.db import holdings, studies
from dicomnode.db.session import Database, now
from dicomnode.engine import Queue
from dicomnode.errors import PeerRefused, PeerUnavailable, Transient
from dicomnode.flow.close import force_close
from dicomnode.log import get_logger
from dicomnode.network.query import related_instances

log = get_logger(__name__)
Ask = Callable[[PeerSettings, str, str, DeliverySettings], int | None]
TRIES = 5
FIRST_WAIT_S = 1.0
STUDIES_AT_ONCE = 20


@dataclass
class _Asked:
    """What was asked of one version: with how many instances, how often, when again (database time, seconds)."""

    instances: int
    tries: int
    next_s: float


class Source:
    """Asks the sources with `study_root = true`; keeps in memory what it asked, so a restart only asks again."""

    def __init__(self, database: Database, queue: Queue, settings: Settings, ask: Ask = related_instances) -> None:
        self._database, self._queue, self._settings, self._ask = database, queue, settings, ask
        self._asked: dict[int, _Asked] = {}
        self.peers = {p.ae_title: p for p in settings.peers.values() if p.study_root and p.sends}

    def close_complete_studies(self) -> int:
        """Close the receiving versions whose source says that nothing is missing; return how many."""
        with self._database.read() as session:
            moment = now(session)
            quiet_since = moment - timedelta(seconds=FIRST_WAIT_S)
            waiting = [
                (
                    version.id,
                    study.study_instance_uid,
                    version.source_ae_title,
                    studies.received_count(session, study.id),
                )
                for version, study in holdings.receiving_from(session, list(self.peers), quiet_since, STUDIES_AT_ONCE)
            ]
        self._asked = {version: asked for version, asked in self._asked.items() if version in {w[0] for w in waiting}}
        closed = 0
        for version_id, uid, title, count in waiting:
            if self._is_due(version_id, count, moment.timestamp()) and self._has_all(self.peers[title], uid, count):
                reason = f"{title} has {count} instances, and so have we"
                closed += force_close(self._database, self._queue, version_id, "node", reason)
        return closed

    def _is_due(self, version_id: int, count: int, moment_s: float) -> bool:
        """Return whether to ask now: doubling waits, at most `TRIES` times for the same number of instances."""
        asked = self._asked.get(version_id)
        if asked is None or asked.instances != count:
            asked = self._asked[version_id] = _Asked(count, 0, moment_s)
        if asked.tries >= TRIES or moment_s < asked.next_s:
            return False
        asked.tries += 1
        asked.next_s = moment_s + FIRST_WAIT_S * 2**asked.tries
        return True

    def _has_all(self, source: PeerSettings, study_instance_uid: str, count: int) -> bool:
        try:
            there = self._ask(source, self._settings.node.ae_title, study_instance_uid, self._settings.delivery)
        except (PeerUnavailable, PeerRefused) as exc:
            log.warning("a source cannot be asked; the quiet period closes the study", error=str(exc))
            return False
        return there is not None and count >= there


def run_forever(source: Source, settings: Settings, stop: threading.Event) -> None:
    """Ask until `stop`, beside the sweep: a source that does not answer must not hold it up."""
    if not source.peers:
        return
    while not stop.wait(settings.study.sweep_interval_s):
        try:
            source.close_complete_studies()
        except Transient as exc:
            log.warning("asking waits", error=str(exc))
        except Exception:
            log.exception("asking failed")
