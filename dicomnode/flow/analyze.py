"""Analyze: the active bundles look at a closed study version; what they say becomes rows (T3, T4).

No transaction is open while the networks run.
"""

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sqlalchemy.orm import Session

from dicomnode.config import AnalysisSettings
from dicomnode.db import explanations, operate, pauses, results, studies
from dicomnode.db.explanations import KeptExplanation
from dicomnode.db.session import Database, now
from dicomnode.db.tables import Series, SOPInstance
from dicomnode.domain.findings import BundleResult, WhenUnusual, study_priority
from dicomnode.domain.gate import gate
from dicomnode.domain.lifecycle import Event, Stage, State
from dicomnode.engine import Queue
from dicomnode.errors import InstancesPurged, Permanent, SpoolFileMissing, Transient
from dicomnode.failpoint import failpoint
from dicomnode.flow.bundles import BundleSet, BundlesInUse
from dicomnode.flow.explain import explain
from dicomnode.inference.codes import ImageCode
from dicomnode.inference.select import SourceInstance
from dicomnode.log import get_logger
from dicomnode.metrics import ANALYSIS_SECONDS

log = get_logger(__name__)
PAUSE_LOOK_S = 0.5


_Started = tuple[studies.Attempt, list[tuple[SOPInstance, Series]]]


@dataclass(frozen=True)
class _Found:
    """What an analysis found, and in how many seconds."""

    results: tuple[BundleResult, ...]
    seconds: float
    kept: list[KeptExplanation]
    codes: tuple[ImageCode, ...]


class Analysis:
    """The analyze step with what it needs: rows, the spool at `root`, the queue, the bundles in use.

    `when_unusual` is the anomaly gate's setting.
    """

    def __init__(
        self,
        database: Database,
        root: Path,
        queue: Queue,
        bundles: BundlesInUse,
        settings: AnalysisSettings,
        when_unusual: WhenUnusual = WhenUnusual.SHOW,
    ) -> None:
        self._database = database
        self._root = root
        self._queue = queue
        self._stopped = threading.Event()
        self._bundles = bundles
        self._settings = settings
        self._when_unusual = when_unusual

    def analyze(self, version_id: int) -> bool:
        """Analyze a version; return whether there is something to report.

        A version that another has finished or replaced is left alone. Raises `Permanent` when it was tried too often
        (each time the process that analyzed it died), `SpoolFileMissing` where a received file is gone.
        """
        while (started := self._start(version_id)) == "paused":
            if not self._wait_for_resume(version_id):
                return False
        if started is None:
            return self._is_reporting(version_id)
        attempt, members = started
        _require_unpurged([instance for instance, _ in members])
        instances = [_source(instance, series, self._root) for instance, series in members]
        _require_files(instances)
        began = time.monotonic()
        with self._bundles.study() as opened:
            examined = opened.analyzer.examine(instances)
            found = gate(examined.results, self._when_unusual)
            seconds = time.monotonic() - began
            kept = explain(opened.analyzer, self._root, version_id, instances, found, self._settings.explanations)
            failpoint("analyze.predicted")
            return self._finish(version_id, attempt, _Found(found, seconds, kept, examined.codes), opened.set)

    def stop(self) -> None:
        """Let no step wait any longer for the end of a pause: the process ends."""
        self._stopped.set()

    def _wait_for_resume(self, version_id: int) -> bool:
        """Wait until analysis is not paused; `False` if the process ends first: then the version is queued again."""
        while not self._stopped.wait(PAUSE_LOOK_S):
            try:
                with self._database.read() as session:
                    if not pauses.is_paused(session, Stage.ANALYZE):
                        return True
            except Transient as exc:
                log.warning("a paused analysis waits for the database", error=str(exc))
        with self._database.write() as session:
            version = operate.requeue(session, version_id)
            if version is not None:
                self._queue.add_study(session, version.uid, version.id, version.run)
        return False

    def _start(self, version_id: int) -> _Started | Literal["paused"] | None:
        started = self._begin(version_id)
        failpoint("analyze.start_committed")
        return started

    def _begin(self, version_id: int) -> _Started | Literal["paused"] | None:
        with self._database.write() as session:
            moment = now(session)
            if pauses.is_paused(session, Stage.ANALYZE):
                studies.advance(session, version_id, Event.RELEASED, moment, "analysis is paused")
                return "paused"
            studies.advance(session, version_id, Event.STARTED, moment)
            if studies.version(session, version_id).state != State.ANALYZING:
                return None
            attempt = studies.start_attempt(session, version_id)
            failpoint("analyze.started")
            if attempt.number <= self._settings.max_attempts:
                return attempt, studies.members(session, version_id)
        raise Permanent(
            f"{self._settings.max_attempts} attempts ended with the death of the process; see analysis.max_attempts"
        )

    def _is_reporting(self, version_id: int) -> bool:
        with self._database.read() as session:
            return studies.version(session, version_id).state == State.REPORTING

    def _finish(self, version_id: int, attempt: studies.Attempt, what: "_Found", used: BundleSet) -> bool:
        found, seconds = what.results, what.seconds
        applicable = any(not result.not_applicable for result in found)
        priority = study_priority(found) if applicable else None
        with self._database.write() as session:
            moment = now(session)
            event = Event.ANALYZED if applicable else Event.NO_MODEL
            reason = "" if applicable else _why_none(found, used.refused)
            is_newest = studies.advance(session, version_id, event, moment, reason, attempt=attempt) is not None
            if is_newest:
                results.add_results(session, version_id, found, priority, moment, seconds, used.backends)
                explanations.add_explanations(session, version_id, what.kept)
                codes = ((c.bundle_name, c.sop_instance_uid, c.code) for c in what.codes)
                explanations.add_codes(session, version_id, codes)
            failpoint("analyze.written")
        failpoint("analyze.committed")
        if not is_newest:
            log.warning("another attempt took over", version=version_id, attempt=attempt.number)
            return self._is_reporting(version_id)
        for result in found:
            ANALYSIS_SECONDS.labels(result.bundle.name).observe(seconds)
        log.info("study analyzed", version=version_id, applicable=applicable, priority=priority, seconds=seconds)
        return applicable


def _why_none(found: tuple[BundleResult, ...], refused: tuple[str, ...]) -> str:
    reasons = [f"{result.bundle.name}: {result.not_applicable}" for result in found]
    return "; ".join([*reasons, *refused]) or "no bundle is active; see models.active"


def source_instances(session: Session, version_id: int, root: Path) -> list[SourceInstance]:
    """Return the instances of a version with their files in the spool at `root`."""
    return [_source(instance, series, root) for instance, series in studies.members(session, version_id)]


def _source(instance: SOPInstance, series: Series, root: Path) -> SourceInstance:
    return SourceInstance(
        path=root / instance.path,
        sop_instance_uid=instance.sop_instance_uid,
        sop_class_uid=instance.sop_class_uid,
        modality=series.modality,
    )


def _require_unpurged(instances: list[SOPInstance]) -> None:
    purged = [instance.purged_at for instance in instances if instance.purged_at]
    if purged:
        raise InstancesPurged(
            f"{len(purged)} of {len(instances)} instances were removed by [retention] on {min(purged):%Y-%m-%d}; "
            "let the PACS send the whole study again"
        )


def _require_files(instances: list[SourceInstance]) -> None:
    missing = [instance.path for instance in instances if not instance.path.is_file()]
    if missing:
        raise SpoolFileMissing(f"{len(missing)} of {len(instances)} received files are gone, the first: {missing[0]}")


def give_up(database: Database, version_id: int, reason: str) -> None:
    """Move a version to FAILED with its reason: a dead letter that an operator can see and retry."""
    with database.write() as session:
        state = studies.advance(session, version_id, Event.GAVE_UP, now(session), reason)
        failpoint("give_up.written")
    failpoint("give_up.committed")
    log.error("study version given up", version=version_id, state=str(state), reason=reason)
