"""Receive: an object that arrives is durable on disk and has a row before it is acknowledged (T1).

Standard: PS3.4 B.2.3 (statuses), PS3.7 9.1.1.
"""

import hashlib
from pathlib import Path

from sqlalchemy.exc import IntegrityError

from dicomnode import spool
from dicomnode.config import ReceiverSettings
from dicomnode.db import audit, intake, quarantine, studies
from dicomnode.db.session import Database, now
from dicomnode.domain.study import InstanceHeader
from dicomnode.errors import DatabaseUnavailable, SpoolFileMissing, UnreadableObject
from dicomnode.failpoint import failpoint
from dicomnode.flow.pressure import BackPressure
from dicomnode.log import get_logger
from dicomnode.metrics import ASSOCIATIONS_REJECTED, BYTES_RECEIVED, INSTANCES_RECEIVED
from dicomnode.network.part10 import file_header
from dicomnode.network.scp import Rejection, StoreAnswer, StoreRequest
from dicomnode.network.status import Status
from dicomnode.network.walk import walk

log = get_logger(__name__)
RACES = 5


class Reception:
    """Where received objects go: the spool at `root`, and rows."""

    def __init__(self, database: Database, root: Path, settings: ReceiverSettings) -> None:
        self._database = database
        self._root = root
        self._pressure = BackPressure(database, root, settings)

    def store(self, request: StoreRequest) -> StoreAnswer:
        """Return the answer to a C-STORE request; Success only when file and row are durable.

        Raises `SpoolFull`, `QueueFull`, `Paused` and `DatabaseUnavailable`: the sender may try again.
        """
        answer = self._store(request)
        INSTANCES_RECEIVED.labels(request.calling_ae_title, f"0x{answer.status:04X}").inc()
        return answer

    def _store(self, request: StoreRequest) -> StoreAnswer:
        self._pressure.check_space(len(request.dataset))
        try:
            header = walk(request.dataset, request.transfer_syntax_uid)
        except UnreadableObject as exc:
            return self._quarantine(request, Status.CANNOT_UNDERSTAND, str(exc))
        if mismatch := _mismatch(request, header):
            return self._quarantine(request, Status.DATA_SET_DOES_NOT_MATCH, mismatch)
        self._pressure.check_queue(header.study_instance_uid)
        failpoint("receive.walked")
        self._keep(request, header)
        BYTES_RECEIVED.labels(request.calling_ae_title).inc(len(request.dataset))
        return StoreAnswer(Status.SUCCESS, "")

    def _keep(self, request: StoreRequest, header: InstanceHeader) -> None:
        sha256 = hashlib.sha256(request.dataset).hexdigest()
        with self._database.read() as session:
            seen = intake.seen(session, header, sha256)
            if seen.is_known or studies.is_own_evidence(session, header.sop_instance_uid):
                log.info("instance known already", sop_instance_uid=header.sop_instance_uid)
                return
        # what retention is about to remove may have the same bytes: a new file has a name of its own
        content = f"{sha256}{request.transfer_syntax_uid}{seen.purges or ''}"
        name = spool.instance_name(header.study_instance_uid, header.sop_instance_uid, content)
        size = self._write(request, name)
        failpoint("receive.stored")
        file = studies.StoredFile(name, size, sha256)
        sender = studies.Sender(request.calling_ae_title, request.calling_address)
        self._add_row(header, file, sender, seen.purges)

    def _add_row(self, header: InstanceHeader, file: studies.StoredFile, sender: studies.Sender, purges: int) -> None:
        """Commit the row; a race with another receiver (first instance of a study, same UID) is run again.

        Raises `SpoolFileMissing` where retention went over the study meanwhile: it may have taken the new file too.
        """
        for _ in range(RACES):
            try:
                with self._database.write() as session:
                    if intake.seen(session, header, file.sha256).is_known:
                        return
                    studies.add_instance(session, header, file, sender, now(session))
                    if intake.seen(session, header, file.sha256).purges != purges:
                        raise SpoolFileMissing(f"{header.sop_instance_uid} was purged while it was received again")
                    failpoint("receive.flushed")
            except IntegrityError as exc:
                log.info("two receivers at one row", error=str(exc.orig))
            else:
                failpoint("receive.committed")
                return
        raise DatabaseUnavailable(f"{RACES} attempts to add {header.sop_instance_uid} met another receiver")

    def _write(self, request: StoreRequest, name: str) -> int:
        header = file_header(request.sop_class_uid, request.sop_instance_uid, request.transfer_syntax_uid)
        staged = spool.stage(self._root, (header, request.dataset))
        spool.keep(self._root, staged, name)
        return len(header) + len(request.dataset)

    def _quarantine(self, request: StoreRequest, status: Status, reason: str) -> StoreAnswer:
        """Keep an object that cannot be understood, with its reason, and return the refusal."""
        sha256 = hashlib.sha256(request.dataset).hexdigest()
        name = spool.quarantine_name(sha256, request.sop_instance_uid, request.transfer_syntax_uid)
        size = self._write(request, name)
        with self._database.write() as session:
            quarantine.add(
                session,
                studies.StoredFile(name, size, sha256),
                studies.Sender(request.calling_ae_title, request.calling_address),
                uids=(request.sop_class_uid, request.sop_instance_uid, request.transfer_syntax_uid),
                status=status,
                reason=reason,
                at=now(session),
            )
        failpoint("receive.quarantined")
        log.warning("object quarantined", sender=request.calling_ae_title, status=f"0x{status:04X}", reason=reason)
        return StoreAnswer(status, reason)

    def rejected(self, rejection: Rejection) -> None:
        """Remember a rejected association with the setting that would accept it."""
        ASSOCIATIONS_REJECTED.inc()
        with self._database.write() as session:
            audit.peer_rejected(
                session,
                ae_title=rejection.calling_ae_title,
                address=rejection.calling_address,
                reason=f"{rejection.reason}; {rejection.setting}",
                at=now(session),
            )


def _mismatch(request: StoreRequest, header: InstanceHeader) -> str:
    """Return in words how the data set contradicts its command, empty where it does not."""
    if header.sop_class_uid != request.sop_class_uid:
        return f"the data set is of SOP Class {header.sop_class_uid}, the command says {request.sop_class_uid}"
    if header.sop_instance_uid != request.sop_instance_uid:
        return f"the data set is instance {header.sop_instance_uid}, the command says {request.sop_instance_uid}"
    return ""
