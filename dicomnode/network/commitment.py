"""Storage Commitment as its SCU: ask a peer to keep what it was sent, and understand its answer.

The answer is an N-EVENT-REPORT: on the association that asked, or on one that the peer opens to our receiver.

Standard: PS3.4 annex J (Storage Commitment Push Model), PS3.7 10.1.1 and 10.1.4, PS3.3 C.14.
"""

import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import evt
from pynetdicom.association import Association

from dicomnode.domain.study import is_uid
from dicomnode.errors import Transient
from dicomnode.log import get_logger
from dicomnode.network.status import describe

STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"
STORAGE_COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"
REQUEST_STORAGE_COMMITMENT = 1
ALL_COMMITTED, SOME_FAILED = 1, 2
SUCCESS, PROCESSING_FAILURE = 0x0000, 0x0110
NO_SUCH_EVENT_TYPE, INVALID_ARGUMENT_VALUE = 0x0113, 0x0115
log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Commitment:
    """The result of a request: SOP Instance UIDs that the peer keeps, and those that it does not with their reasons."""

    transaction_uid: str
    committed: tuple[str, ...]
    failed: Mapping[str, int]


def new_transaction_uid() -> str:
    """Return a UID that nobody can guess. Standard: PS3.5 B.2."""
    return f"2.25.{uuid.uuid4().int}"


def ask(assoc: Association, transaction_uid: str, references: Iterable[tuple[str, str]], message_id: int) -> str:
    """Ask for commitment to `references` (SOP Class, SOP Instance); return in words why not, or nothing."""
    if not any(cx.abstract_syntax == STORAGE_COMMITMENT for cx in assoc.accepted_contexts):
        return "the peer does not accept the Storage Commitment Push Model; see commitment in its [peers] table"
    if not assoc.is_established:
        return "the association was lost before the request for commitment"
    request = Dataset()
    request.TransactionUID = transaction_uid
    request.ReferencedSOPSequence = [_reference(*pair) for pair in references]
    response, _reply = assoc.send_n_action(
        request,
        REQUEST_STORAGE_COMMITMENT,
        UID(STORAGE_COMMITMENT),
        UID(STORAGE_COMMITMENT_INSTANCE),
        msg_id=message_id,
    )
    if "Status" not in response:
        return "the peer did not answer the request for commitment"
    status = int(response.Status)
    return "" if status == SUCCESS else f"the request for commitment was refused: {describe(status)}"


def _reference(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
    return item


def on_event_report(settle: Callable[[Commitment], bool]) -> evt.EventHandlerType:
    """Return the handler of N-EVENT-REPORT that gives each result to `settle`, which says whether it asked for it."""

    def handle(event: evt.Event) -> tuple[int, None]:
        return answer(event, settle), None

    return evt.EVT_N_EVENT_REPORT, handle


def answer(event: evt.Event, settle: Callable[[Commitment], bool]) -> int:
    """Return the status of the response to an N-EVENT-REPORT; never raises. Standard: PS3.4 J.3.3."""
    try:
        if event.event_type not in (ALL_COMMITTED, SOME_FAILED):
            return NO_SUCH_EVENT_TYPE
        result = understand(event.event_information)
        if result is None or not settle(result):
            return INVALID_ARGUMENT_VALUE
    except Transient as exc:
        log.warning("result of a storage commitment not possible now", error=str(exc))
        return PROCESSING_FAILURE
    except Exception:
        log.exception("result of a storage commitment failed")
        return PROCESSING_FAILURE
    return SUCCESS


def understand(information: Dataset) -> Commitment | None:
    """Return the result that an Event Information data set carries, `None` where it has no transaction UID."""
    transaction_uid = str(information.get("TransactionUID", ""))
    if not is_uid(transaction_uid):
        return None
    return Commitment(
        transaction_uid,
        tuple(str(item.get("ReferencedSOPInstanceUID", "")) for item in information.get("ReferencedSOPSequence") or ()),
        {
            str(item.get("ReferencedSOPInstanceUID", "")): int(item.get("FailureReason", PROCESSING_FAILURE))
            for item in information.get("FailedSOPSequence") or ()
        },
    )
