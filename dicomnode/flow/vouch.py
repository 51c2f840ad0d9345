"""Vouch: what a sender asks to have committed is looked up, rows and files, before it may delete its copy.

A sender that asks for all that we hold of a study has sent it all: with `closes_by_commitment` that closes the version.
Standard: PS3.4 annex J.
"""

from collections.abc import Mapping
from pathlib import Path

from dicomnode.config import PeerSettings
from dicomnode.db import audit, holdings
from dicomnode.db.session import Database, now
from dicomnode.db.tables import SOPInstance
from dicomnode.engine import Queue
from dicomnode.flow.close import force_close
from dicomnode.log import get_logger
from dicomnode.network.commitment import PROCESSING_FAILURE
from dicomnode.network.commitment_scp import CLASS_INSTANCE_CONFLICT, NO_SUCH_INSTANCE, CommitmentRequest, Reference

log = get_logger(__name__)


class Vouching:
    """The answer to storage commitment with what it needs: rows, the spool at `root`, where closed studies go."""

    def __init__(self, database: Database, root: Path, peers: Mapping[str, PeerSettings]) -> None:
        self._database, self._root, self._peers = database, root, peers

    def judge(self, request: CommitmentRequest) -> dict[Reference, int]:
        """Return the Failure Reason of each reference that is not safe here; write the audit."""
        with self._database.read() as session:
            held = holdings.current_instances(session, [r.sop_instance_uid for r in request.references])
        failed = {
            r: reason for r in request.references if (reason := self._failure(r, held.get(r.sop_instance_uid, [])))
        }
        with self._database.write() as session:
            audit.record(
                session,
                "storage commitment",
                at=now(session),
                sender=request.calling_ae_title,
                transaction_uid=request.transaction_uid,
                instances=len(request.references),
                failed=len(failed),
            )
        if not failed and self._closes(request.calling_ae_title):
            self._close(request, {row.study_id for rows in held.values() for row in rows})
        return failed

    def _failure(self, reference: Reference, rows: list[SOPInstance]) -> int:
        """Return the Failure Reason, 0 for an instance whose row and whole file are here."""
        if not rows:
            return NO_SUCH_INSTANCE
        if all(row.sop_class_uid != reference.sop_class_uid for row in rows):
            return CLASS_INSTANCE_CONFLICT
        paths = [(self._root / row.path, row.size_bytes) for row in rows]
        return 0 if all(p.is_file() and p.stat().st_size == size for p, size in paths) else PROCESSING_FAILURE

    def _closes(self, calling_ae_title: str) -> bool:
        return any(p.closes_by_commitment and p.ae_title.strip() == calling_ae_title for p in self._peers.values())

    def _close(self, request: CommitmentRequest, study_ids: set[int]) -> None:
        """Close the open versions of the studies of which the request names every instance."""
        named = {reference.sop_instance_uid for reference in request.references}
        with self._database.read() as session:
            whole = [
                version
                for study_id in study_ids
                if (version := holdings.receiving_version(session, study_id)) is not None
                and holdings.current_uids(session, study_id) <= named
            ]
        if not whole:
            return
        queue = Queue(self._database.url)
        try:
            reason = f"{request.calling_ae_title} asked for storage commitment of all {len(named)} instances"
            for version_id in whole:
                force_close(self._database, queue, version_id, audit.NODE, reason)
        finally:
            queue.close()
