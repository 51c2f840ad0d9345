"""Purge: files past their retention go, rows stay (T7). Never before the results of a study are delivered.

The rows are marked first and the files removed after that: a crash in between leaves files that `flow.reconcile` finds.
"""

import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy.orm import Session

from dicomnode import spool
from dicomnode.config import RetentionSettings
from dicomnode.db import audit, retention
from dicomnode.db.session import Database, now
from dicomnode.failpoint import failpoint
from dicomnode.log import get_logger

log = get_logger(__name__)
BATCH = 100
AT_LEAST = timedelta(hours=1)
"""However full the disk is, so long the files of a delivered study stay."""

Mark = Callable[[Session, int, datetime, datetime], retention.Leaving | None]


@dataclass(frozen=True, slots=True)
class Purged:
    """What went."""

    studies: int = 0
    files: int = 0
    size_bytes: int = 0

    def __add__(self, other: "Purged") -> "Purged":
        return Purged(self.studies + other.studies, self.files + other.files, self.size_bytes + other.size_bytes)


def purge_aged(database: Database, root: Path, settings: RetentionSettings, stop: threading.Event) -> Purged:
    """Remove received images, results and quarantined objects that are older than their retention."""
    with database.read() as session:
        moment = now(session)
    images_before = moment - timedelta(days=settings.keep_days)
    evidence_before = moment - timedelta(days=settings.keep_evidence_days)
    purged = _purge_all(
        database,
        root,
        retention.purgeable_studies,
        retention.purge_study,
        images_before,
        f"images are kept {settings.keep_days:g} days",
        stop,
    )
    purged += _purge_all(
        database,
        root,
        retention.studies_with_old_evidence,
        retention.purge_evidence,
        evidence_before,
        f"results are kept {settings.keep_evidence_days:g} days",
        stop,
    )
    return purged + _purge_quarantine(database, root, moment - timedelta(days=settings.quarantine_days))


def purge_for_space(database: Database, root: Path, target_free_bytes: int, stop: threading.Event) -> Purged:
    """Remove the images of the studies that were received first until so many bytes are free, or none may go."""
    with database.read() as session:
        before = now(session) - AT_LEAST
    why = f"less than {target_free_bytes} bytes were free"
    purged, gone_before = Purged(), -1
    while purged.studies > gone_before:
        gone_before = purged.studies
        with database.read() as session:
            found = retention.purgeable_studies(session, before, BATCH)
        for study_id in found:
            if shutil.disk_usage(root).free >= target_free_bytes or stop.is_set():
                return purged
            purged += _purge(database, root, study_id, retention.purge_study, before, why)
    return purged


def _purge_all(
    database: Database,
    root: Path,
    find: Callable[[Session, datetime, int], list[int]],
    mark: Mark,
    before: datetime,
    why: str,
    stop: threading.Event,
) -> Purged:
    purged = Purged()
    while not stop.is_set():
        with database.read() as session:
            found = find(session, before, BATCH)
        gone = sum((_purge(database, root, study_id, mark, before, why) for study_id in found), Purged())
        purged += gone
        if gone.studies == 0:
            break
    return purged


def _purge(database: Database, root: Path, study_id: int, mark: Mark, before: datetime, why: str) -> Purged:
    with database.write() as session:
        moment = now(session)
        leaving = mark(session, study_id, before, moment)
        if leaving is None:
            return Purged()
        audit.record(
            session,
            "files purged",
            at=moment,
            version_id=leaving.version_id,
            files=len(leaving.files),
            size_bytes=leaving.size_bytes,
            why=why,
        )
        failpoint("purge.marked")
    failpoint("purge.committed")
    for file in leaving.files:
        spool.remove(root, file.path)
        failpoint("purge.removed")
    log.info("files purged", version=leaving.version_id, files=len(leaving.files), why=why)
    return Purged(1, len(leaving.files), leaving.size_bytes)


def _purge_quarantine(database: Database, root: Path, before: datetime) -> Purged:
    with database.write() as session:
        paths = retention.purge_quarantine(session, before, now(session), 10_000)
        if paths:
            audit.record(session, "quarantine purged", at=now(session), files=len(paths))
    for path in paths:
        spool.remove(root, path)
    return Purged(files=len(paths))
