"""The spool: files over one directory, durable before they are named.

    staging/       objects on their way in; what a crash leaves here has no row and was never acknowledged
    instances/     received SOP Instances, named by the digest of their UIDs and bytes
    evidence/      results, written before their first send and sent unchanged
    explanations/  maps of where findings come from, named by version and digest
    quarantine/    what cannot be understood, kept with its reason

No name comes from a peer unchecked: a received file is named by SHA-256. The five functions are the seam for an object
store when several hosts must share files.
"""

import contextlib
import functools
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from dicomnode.errors import SpoolFull
from dicomnode.failpoint import failpoint

STAGING, INSTANCES, EVIDENCE, QUARANTINE = "staging", "instances", "evidence", "quarantine"
EXPLANATIONS = "explanations"


def prepare(root: Path) -> None:
    """Create the folders of the spool."""
    for name in (STAGING, INSTANCES, EVIDENCE, EXPLANATIONS, QUARANTINE):
        (root / name).mkdir(parents=True, exist_ok=True)


def check_space(root: Path, min_free_bytes: int, wanted_bytes: int = 0) -> None:
    """Raise `SpoolFull` if `wanted_bytes` more would leave less than `min_free_bytes` free."""
    free = shutil.disk_usage(root).free
    if free - wanted_bytes < min_free_bytes:
        raise SpoolFull(
            f"{root}: {free} bytes are free, {wanted_bytes} are wanted and receiver.min_free_bytes is {min_free_bytes}"
        )


def stage(root: Path, chunks: Iterable[bytes | memoryview]) -> Path:
    """Return a new file in `staging/` that holds `chunks` durably (fdatasync)."""
    path = root / STAGING / uuid.uuid4().hex
    with path.open("xb", buffering=0) as file:
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                view = view[file.write(view) :]
        failpoint("spool.written")
        os.fdatasync(file.fileno())
    failpoint("spool.fsynced")
    return path


def keep(root: Path, staged: Path, name: str) -> None:
    """Rename a staged file to `name` (relative to the spool) and make the name durable (directory fsync)."""
    target = root / name
    if not target.parent.is_dir():
        _make_durable.cache_clear()
    _make_durable(root, target.parent)
    staged.rename(target)
    failpoint("spool.renamed")
    _fsync_directory(target.parent)
    failpoint("spool.named")


def remove(root: Path, name: str) -> None:
    """Remove a file of the spool, and its folder with the last one; one that is gone already is no error."""
    path = root / name
    path.unlink(missing_ok=True)
    if path.parent.parent != root:
        with contextlib.suppress(OSError):
            path.parent.rmdir()


def folders(root: Path, top: str) -> Iterator[tuple[str, list[str]]]:
    """Give each folder below `top` with the names of its files, one folder in memory at a time."""
    for folder, _, names in os.walk(root / top):
        if names:
            yield str(Path(folder).relative_to(root)), names


def instance_name(study_instance_uid: str, sop_instance_uid: str, digest: str) -> str:
    """Return the name of a received instance: a folder by study, a file by SOP Instance UID and content."""
    study = hashlib.sha256(study_instance_uid.encode()).hexdigest()[:32]
    instance = hashlib.sha256(f"{sop_instance_uid}\0{digest}".encode()).hexdigest()[:40]
    return f"{INSTANCES}/{study[:2]}/{study}/{instance}.dcm"


def quarantine_name(digest: str, *command: str) -> str:
    """Return the name of an object that cannot be understood, by its bytes and what the command said of it."""
    return f"{QUARANTINE}/{hashlib.sha256(chr(0).join((digest, *command)).encode()).hexdigest()[:40]}.dcm"


def sweep_staging(root: Path, older_than_s: float, now: float) -> int:
    """Remove staged files whose last change lies `older_than_s` before `now` (epoch seconds); return how many."""
    removed = 0
    for path in (root / STAGING).iterdir():
        if path.stat().st_mtime < now - older_than_s:
            path.unlink(missing_ok=True)
            removed += 1
    return removed


@functools.lru_cache(maxsize=4096)
def _make_durable(root: Path, folder: Path) -> None:
    """Make `folder` below `root`, and the names of all folders on the way durable, once a process.

    Another process may have made it a moment ago without having come to its fsync: that it is there is not enough.
    """
    if folder != root:
        _make_durable(root, folder.parent)
        folder.mkdir(exist_ok=True)
        _fsync_directory(folder.parent)


def _fsync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
