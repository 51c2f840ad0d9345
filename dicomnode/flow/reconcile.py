"""Reconcile: once a day files and rows are held side by side, and what does not fit is said.

A file without a row was never acknowledged, or the database was restored from a backup: it goes to quarantine with a
row, from where it can be sent to the node again. A row without a file is an event; its analysis fails with that reason.
"""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

from pydicom.filereader import read_file_meta_info

from dicomnode import spool
from dicomnode.db import audit, files, quarantine, studies
from dicomnode.db.session import Database, now
from dicomnode.log import get_logger
from dicomnode.network.status import Status

log = get_logger(__name__)
GRACE_S = 86400.0
BATCH = 500
NO_ROW = (
    "a file without a row: never acknowledged, or the database was restored from a backup; "
    "`dicomnode send` it to this node to take it in again"
)


@dataclass
class Account:
    """What was found: files and rows that were looked at, and what did not fit."""

    files: int = 0
    rows: int = 0
    staged_removed: int = 0
    purged_removed: int = 0
    maps_removed: int = 0
    quarantined: int = 0
    missing: int = 0


def reconcile(database: Database, root: Path, stop: threading.Event, now_s: float) -> Account:
    """Hold the spool and the rows side by side; `now_s` is the clock of the files (epoch seconds).

    What is younger than a day is left alone: it may be on its way. Memory holds one folder and one study at a time.
    """
    account = Account(staged_removed=spool.sweep_staging(root, GRACE_S, now_s))
    for name, is_purged in _without_row(database, root, account, stop):
        if not _is_older(root / name, now_s - GRACE_S):
            continue
        if is_purged:
            spool.remove(root, name)
            account.purged_removed += 1
        else:
            _quarantine(database, root, name)
            account.quarantined += 1
    _remove_maps(database, root, account, stop, now_s)
    for kind in files.TABLES:
        _find_missing(database, root, kind, account, stop)
    with database.write() as session:
        audit.record(session, "spool reconciled", at=now(session), **asdict(account))
    text = log.warning if account.quarantined or account.missing else log.info
    text("spool reconciled", **asdict(account))
    return account


def _is_older(path: Path, moment_s: float) -> bool:
    try:
        return path.stat().st_mtime < moment_s
    except FileNotFoundError:
        return False


def _without_row(database: Database, root: Path, account: Account, stop: threading.Event) -> Iterator[tuple[str, bool]]:
    """Give each file that no row holds, and whether its row says that it was purged."""
    for top in (spool.QUARANTINE, spool.INSTANCES, spool.EVIDENCE):
        for folder, names in spool.folders(root, top):
            known: dict[str, bool] = {}
            for start in range(0, len(names), BATCH):
                if stop.is_set():
                    return
                batch = [f"{folder}/{name}" for name in names[start : start + BATCH]]
                account.files += len(batch)
                if top == spool.QUARANTINE:
                    with database.read() as session:
                        known = files.quarantined(session, batch)
                for name in batch:
                    if name not in known and top != spool.QUARANTINE:
                        known |= _beside(database, root, top, name)
                    if known.get(name, True):
                        yield name, name in known


def _remove_maps(database: Database, root: Path, account: Account, stop: threading.Event, now_s: float) -> None:
    """Remove maps that no explanation names (any more): a retry replaced them, or a crash came before their rows."""
    for folder, names in spool.folders(root, spool.EXPLANATIONS):
        for start in range(0, len(names), BATCH):
            if stop.is_set():
                return
            batch = [f"{folder}/{name}" for name in names[start : start + BATCH]]
            account.files += len(batch)
            with database.read() as session:
                known = files.maps(session, batch)
            for name in batch:
                if name not in known and _is_older(root / name, now_s - GRACE_S):
                    spool.remove(root, name)
                    account.maps_removed += 1


def _beside(database: Database, root: Path, top: str, name: str) -> dict[str, bool]:
    """Return the files that the rows know around this one: one look tells of a whole study."""
    with database.read() as session:
        if top == spool.EVIDENCE:
            return files.paths_beside(session, "evidence", Path(name).stem)
        return files.paths_beside(session, "instance", _sop_instance_uid(root / name))


def _sop_instance_uid(path: Path) -> str:
    try:
        return str(read_file_meta_info(path).get("MediaStorageSOPInstanceUID", ""))
    except Exception:  # noqa: BLE001  whatever lies there: it is no file of ours, or not any more
        return ""


def _quarantine(database: Database, root: Path, name: str) -> None:
    path = root / name
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    size = path.stat().st_size
    if not name.startswith(f"{spool.QUARANTINE}/"):
        kept = spool.quarantine_name(digest, name)
        spool.keep(root, path, kept)
        name = kept
    uid = _sop_instance_uid(root / name)
    with database.write() as session:
        quarantine.add(
            session,
            studies.StoredFile(name, size, digest),
            studies.Sender("", ""),
            uids=("", uid, ""),
            status=Status.OUT_OF_RESOURCES,
            reason=NO_ROW,
            at=now(session),
        )


def _find_missing(database: Database, root: Path, kind: files.Kind, account: Account, stop: threading.Event) -> None:
    last = 0
    while not stop.is_set():
        with database.read() as session:
            before = now(session) - timedelta(seconds=GRACE_S)
            rows = files.held(session, kind, last, before, BATCH)
        if not rows:
            return
        last = rows[-1][0]
        account.rows += len(rows)
        gone: dict[int, list[str]] = {}
        for _, path, version_id in rows:
            if not (root / path).is_file():
                gone.setdefault(version_id, []).append(path)
        for version_id, paths in gone.items():
            account.missing += len(paths)
            _report(database, version_id, kind, paths)


def _report(database: Database, version_id: int, kind: files.Kind, paths: list[str]) -> None:
    with database.write() as session:
        if files.is_reported_missing(session, version_id):
            return
        audit.record(
            session,
            files.FILES_MISSING,
            at=now(session),
            version_id=version_id,
            kind=kind,
            files=len(paths),
            first=paths[0],
        )
    log.error(files.FILES_MISSING, version=version_id, kind=kind, files=len(paths), first=paths[0])
