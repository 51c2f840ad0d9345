"""Storage Commitment as SCP: a sender asks whether what it sent is safe here, and is told by N-EVENT-REPORT.

The report goes over the association that asked; where that is over, over a new one to the peer's host and port.

Standard: PS3.4 annex J (Push Model: J.3.2 N-ACTION, J.3.3 N-EVENT-REPORT), PS3.3 C.14.1.1 (Failure Reason).
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import build_role, evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association

from dicomnode.config import DeliverySettings, PeerSettings
from dicomnode.domain.study import is_uid
from dicomnode.log import get_logger
from dicomnode.network.commitment import (
    ALL_COMMITTED,
    INVALID_ARGUMENT_VALUE,
    REQUEST_STORAGE_COMMITMENT,
    SOME_FAILED,
    STORAGE_COMMITMENT,
    STORAGE_COMMITMENT_INSTANCE,
)

NO_SUCH_INSTANCE, CLASS_INSTANCE_CONFLICT = 0x0112, 0x0119
NO_SUCH_ACTION, NOT_AUTHORIZED = 0x0123, 0x0124
MAX_REFERENCES = 100_000
TRIES, FIRST_PAUSE_S = 6, 1.0
log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Reference:
    """An instance that a sender asks for."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class CommitmentRequest:
    """What a sender wants to have committed."""

    transaction_uid: str
    references: tuple[Reference, ...]
    calling_ae_title: str


Judge = Callable[[CommitmentRequest], Mapping[Reference, int]]
"""Returns the Failure Reason of each reference that is not safe here, nothing for those that are."""


def parse(information: Dataset, calling_ae_title: str) -> CommitmentRequest:
    """Return the request in the Action Information; raise `ValueError` if it has none (PS3.4 table J.3-1)."""
    transaction_uid = str(information.get("TransactionUID", ""))
    items = information.get("ReferencedSOPSequence") or []
    if not is_uid(transaction_uid) or not 0 < len(items) <= MAX_REFERENCES:
        raise ValueError(f"Transaction UID or references are missing or too many ({len(items)})")
    references = tuple(
        Reference(str(item.get("ReferencedSOPClassUID", "")), str(item.get("ReferencedSOPInstanceUID", "")))
        for item in items
    )
    return CommitmentRequest(transaction_uid, references, calling_ae_title)


def report(request: CommitmentRequest, failed: Mapping[Reference, int], ae_title: str) -> tuple[int, Dataset]:
    """Return Event Type ID and Event Information of the answer (PS3.4 table J.3-2)."""
    information = Dataset()
    information.TransactionUID = request.transaction_uid
    information.RetrieveAETitle = ae_title
    committed = [_item(reference) for reference in request.references if reference not in failed]
    if committed:
        information.ReferencedSOPSequence = committed
    if not failed:
        return ALL_COMMITTED, information
    information.FailedSOPSequence = [_item(reference, reason) for reference, reason in failed.items()]
    return SOME_FAILED, information


def _item(reference: Reference, reason: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = reference.sop_class_uid
    item.ReferencedSOPInstanceUID = reference.sop_instance_uid
    if reason is not None:
        item.FailureReason = reason
    return item


class CommitmentSCP:
    """Answers N-ACTION at once and reports from a thread of its own; a process that dies before is asked again."""

    def __init__(
        self, ae_title: str, peers: Mapping[str, PeerSettings], settings: DeliverySettings, judge: Judge
    ) -> None:
        self._ae_title, self._peers, self._settings, self._judge = ae_title, peers, settings, judge

    def on_n_action(self, event: evt.Event) -> tuple[int, Dataset | None]:
        """Return the status of an N-ACTION request (a handler of EVT_N_ACTION); never raises."""
        calling = str(event.assoc.requestor.ae_title).strip()
        if not any(peer.sends and peer.ae_title.strip() == calling for peer in self._peers.values()):
            return NOT_AUTHORIZED, None
        if event.action_type != REQUEST_STORAGE_COMMITMENT:
            return NO_SUCH_ACTION, None
        try:
            request = parse(event.action_information, calling)
        except Exception as exc:  # noqa: BLE001  pydicom raises of all kinds over what a peer sends
            log.warning("storage commitment request refused", sender=calling, error=type(exc).__name__)
            return INVALID_ARGUMENT_VALUE, None
        threading.Thread(target=self._answer, args=(request, event.assoc), daemon=True).start()
        return 0x0000, None

    def _answer(self, request: CommitmentRequest, assoc: Association) -> None:
        try:
            kind, information = report(request, self._judge(request), self._ae_title)
            if not self._send(kind, information, assoc):
                log.error("storage commitment could not be reported", sender=request.calling_ae_title)
        except Exception:
            log.exception("storage commitment failed", sender=request.calling_ae_title)

    def _send(self, kind: int, information: Dataset, assoc: Association) -> bool:
        if _report_over(assoc, kind, information):
            return True
        title = str(assoc.requestor.ae_title).strip()
        peer = next((p for p in self._peers.values() if p.ae_title.strip() == title and p.host and p.port), None)
        if peer is None:
            log.warning("a sender released before its storage commitment and has no host and port", sender=title)
            return False
        for number in range(TRIES):
            if number:
                time.sleep(FIRST_PAUSE_S * 2 ** (number - 1))
            if self._send_anew(peer, kind, information):
                return True
        return False

    def _send_anew(self, peer: PeerSettings, kind: int, information: Dataset) -> bool:
        ae = ApplicationEntity(self._ae_title)
        ae.connection_timeout = self._settings.connect_timeout_s
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = self._settings.network_timeout_s
        ae.add_requested_context(STORAGE_COMMITMENT)
        role = build_role(STORAGE_COMMITMENT, scp_role=True)  # we call, and are the SCP (PS3.4 J.3.3)
        try:
            assoc = ae.associate(peer.host, peer.port, ae_title=peer.ae_title, ext_neg=[role])
        except OSError:
            return False
        try:
            return _report_over(assoc, kind, information)
        finally:
            if assoc.is_established:
                assoc.release()


def _report_over(assoc: Association, kind: int, information: Dataset) -> bool:
    """Return whether the peer took an N-EVENT-REPORT over this association."""
    if not assoc.is_established:
        return False
    try:
        response, _ = assoc.send_n_event_report(
            information, kind, UID(STORAGE_COMMITMENT), UID(STORAGE_COMMITMENT_INSTANCE)
        )
    except (RuntimeError, ValueError):  # pynetdicom: it ended between the two lines, or the context was not accepted
        return False
    return bool("Status" in response and response.Status == 0x0000)
