"""Rows of objects that cannot be understood."""

from datetime import datetime

from sqlalchemy.orm import Session

from dicomnode.db.studies import Sender, StoredFile
from dicomnode.db.tables import Quarantine


def add(
    session: Session,
    file: StoredFile,
    sender: Sender,
    *,
    uids: tuple[str, str, str],
    status: int,
    reason: str,
    at: datetime,
) -> None:
    """Add a quarantined object; `uids` are SOP Class, SOP Instance and transfer syntax as the command says."""
    sop_class_uid, sop_instance_uid, transfer_syntax_uid = (uid[:128] for uid in uids)
    session.add(
        Quarantine(
            received_at=at,
            calling_ae_title=sender.ae_title,
            calling_address=sender.address,
            sop_class_uid=sop_class_uid,
            sop_instance_uid=sop_instance_uid,
            transfer_syntax_uid=transfer_syntax_uid,
            dimse_status=status,
            reason=reason,
            path=file.path,
            size_bytes=file.size_bytes,
            sha256=file.sha256,
        )
    )
