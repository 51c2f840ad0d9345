"""Analyze: the active bundles look at a closed study version; what they say becomes rows (T3, T4).

No transaction is open while the networks run.
"""

import time
from pathlib import Path

from dicomnode.config import AnalysisSettings
from dicomnode.db import results, studies
from dicomnode.db.session import Database, now
from dicomnode.domain.findings import BundleResult, study_priority
from dicomnode.domain.lifecycle import Event, State
from dicomnode.errors import Permanent, SpoolFileMissing
from dicomnode.failpoint import failpoint
from dicomnode.inference.predict import Analyzer
from dicomnode.inference.select import SourceInstance
from dicomnode.log import get_logger
from dicomnode.metrics import ANALYSIS_SECONDS

log = get_logger(__name__)


class Analysis:
    """The analyze step with what it needs: rows, the spool at `root`, the loaded bundles.

    `refused` says in words which active bundles were not loaded and why.
    """

    def __init__(
        self,
        database: Database,
        root: Path,
        analyzer: Analyzer,
        settings: AnalysisSettings,
        refused: tuple[str, ...] = (),
    ) -> None:
        self._database = database
        self._root = root
        self._analyzer = analyzer
        self._settings = settings
        self._refused = refused

    def analyze(self, version_id: int) -> bool:
        """Analyze a version; return whether there is something to report.

        A version that another has finished or replaced is left alone. Raises `Permanent` when it was tried too often
        (each time the process that analyzed it died), `SpoolFileMissing` where a received file is gone.
        """
        started = self._start(version_id)
        if started is None:
            return self._is_reporting(version_id)
        attempt, instances = started
        _require_files(instances)
        began = time.monotonic()
        found = self._analyzer.analyze(instances)
        seconds = time.monotonic() - began
        failpoint("analyze.predicted")
        return self._finish(version_id, attempt, found, seconds)

    def _start(self, version_id: int) -> tuple[studies.Attempt, list[SourceInstance]] | None:
        started = self._begin(version_id)
        failpoint("analyze.start_committed")
        return started

    def _begin(self, version_id: int) -> tuple[studies.Attempt, list[SourceInstance]] | None:
        with self._database.write() as session:
            moment = now(session)
            studies.advance(session, version_id, Event.STARTED, moment)
            if studies.version(session, version_id).state != State.ANALYZING:
                return None
            attempt = studies.start_attempt(session, version_id)
            failpoint("analyze.started")
            if attempt.number <= self._settings.max_attempts:
                members = studies.members(session, version_id)
                return attempt, [
                    SourceInstance(
                        path=self._root / instance.path,
                        sop_instance_uid=instance.sop_instance_uid,
                        sop_class_uid=instance.sop_class_uid,
                        modality=series.modality,
                    )
                    for instance, series in members
                ]
        raise Permanent(
            f"{self._settings.max_attempts} attempts ended with the death of the process; see analysis.max_attempts"
        )

    def _is_reporting(self, version_id: int) -> bool:
        with self._database.read() as session:
            return studies.version(session, version_id).state == State.REPORTING

    def _finish(
        self, version_id: int, attempt: studies.Attempt, found: tuple[BundleResult, ...], seconds: float
    ) -> bool:
        applicable = any(not result.not_applicable for result in found)
        priority = study_priority(found) if applicable else None
        with self._database.write() as session:
            moment = now(session)
            event = Event.ANALYZED if applicable else Event.NO_MODEL
            reason = "" if applicable else self._why_none(found)
            is_newest = studies.advance(session, version_id, event, moment, reason, attempt=attempt) is not None
            if is_newest:
                results.add_results(session, version_id, found, priority, moment, seconds)
            failpoint("analyze.written")
        failpoint("analyze.committed")
        if not is_newest:
            log.warning("another attempt took over", version=version_id, attempt=attempt.number)
            return self._is_reporting(version_id)
        for result in found:
            ANALYSIS_SECONDS.labels(result.bundle.name).observe(seconds)
        log.info("study analyzed", version=version_id, applicable=applicable, priority=priority, seconds=seconds)
        return applicable

    def _why_none(self, found: tuple[BundleResult, ...]) -> str:
        reasons = [f"{result.bundle.name}: {result.not_applicable}" for result in found]
        return "; ".join([*reasons, *self._refused]) or "no bundle is active; see models.active"


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
