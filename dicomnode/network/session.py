"""What the receiver relies on inside pynetdicom, in one place: its DIMSE provider with limits, its server.

pynetdicom (3.0) collects a message without a limit, never answers a C-STORE without SOP Instance UID, and lets an
exception in its state machine end a thread while the association stays. The session checks commands before pynetdicom
reads them.

Standard: PS3.7 section 9.3.1 (C-STORE command), PS3.8 section 9.3.5 (P-DATA-TF).
"""

import socket
import socketserver
from dataclasses import dataclass, replace

from pydicom.config import IGNORE
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.dimse_primitives import C_STORE, DimsePrimitiveType
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import ThreadedAssociationServer

from dicomnode.domain.study import is_uid
from dicomnode.log import get_logger
from dicomnode.network.access import Admission
from dicomnode.network.status import Status

MAX_COMMAND_BYTES = 65536
_C_STORE_RQ, _C_ECHO_RQ = 0x0001, 0x0030
_INVALID_PDU = "Evt19"  # PS3.8 table 9-10: AA-8, which is A-ABORT
_SOP_CLASS, _SOP_INSTANCE = 0x00000002, 0x00001000
_PLACEHOLDER_UID = "0.0"
_CT_IMAGE_STORAGE = UID("1.2.840.10008.5.1.4.1.1.2")
VERIFICATION = UID("1.2.840.10008.1.1")

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class StoreAnswer:
    """The response to a C-STORE request; `comment` becomes the Error Comment (at most 64 characters)."""

    status: int = Status.SUCCESS
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a C-STORE command is worth: the answer to one that must not be stored, and the real SOP Instance UID.

    `is_altered` says that pynetdicom was given other UIDs, so that they must not be in the response.
    """

    answer: StoreAnswer | None
    sop_instance_uid: str
    is_altered: bool


class Session(DIMSEServiceProvider):
    """The DIMSE provider of one accepted association, and what the receiver knows of it."""

    def __init__(self, assoc: Association, max_dataset_bytes: int) -> None:
        super().__init__(assoc)
        self.admission: Admission | None = None
        self.is_reported = False
        self.handling = False
        self.answered = 0
        self._max_dataset_bytes = max_dataset_bytes
        self._command_bytes = 0
        self._dataset_bytes = 0
        self._judgements: dict[int, Judgement] = {}

    @property
    def is_busy(self) -> bool:
        """Whether a request is being received, waits or is being handled."""
        return self.handling or self.message is not None or not self.msg_queue.empty()

    def send_msg(self, primitive: DimsePrimitiveType, context_id: int) -> None:
        """Queue a message for the peer; a C-STORE response ends the handling of its request."""
        super().send_msg(primitive, context_id)
        if isinstance(primitive, C_STORE):
            self.handling = False
            self.answered += 1

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Collect fragments within the limits; what cannot be a message aborts the association (called by the DUL)."""
        try:
            self._limit(primitive)
            super().receive_primitive(primitive)
            if self.message is None:
                self._command_bytes = self._dataset_bytes = 0
        except Exception as exc:  # noqa: BLE001  pynetdicom's thread would die and leave the peer waiting
            log.warning("association aborted: no DIMSE message", error=f"{type(exc).__name__}: {exc}")
            self.dul.event_queue.put(_INVALID_PDU)

    def _limit(self, primitive: P_DATA) -> None:
        """Count the bytes of the message; of a data set beyond the limit keep headers only, so that it gets an answer.

        Raises `ValueError` for an endless command, and for a data set of more than twice the limit.
        """
        fragments = primitive.presentation_data_value_list
        for index, (context_id, data) in enumerate(fragments):
            if data[0] & 1:
                self._command_bytes += len(data) - 1
            else:
                self._dataset_bytes += len(data) - 1
                if self._dataset_bytes > self._max_dataset_bytes + len(data):
                    fragments[index] = (context_id, data[:1])
        if self._command_bytes > MAX_COMMAND_BYTES or self._dataset_bytes > 2 * self._max_dataset_bytes:
            raise ValueError(f"{self._command_bytes} bytes of command, {self._dataset_bytes} bytes of data set")

    def judge(self, message: DIMSEMessage) -> None:
        """Give a C-STORE request that pynetdicom would ignore or choke on a form that reaches `judgement`."""
        command = message.command_set
        if command.get("CommandField") in (_C_STORE_RQ, _C_ECHO_RQ) and "MessageID" not in command:
            self.dul.event_queue.put(_INVALID_PDU)
            return
        context = next((cx for cx in self.assoc.accepted_contexts if cx.context_id == message.context_id), None)
        if command.get("CommandField") != _C_STORE_RQ or context is None:
            return
        sop_class, sop_instance = _uid(command, _SOP_CLASS), _uid(command, _SOP_INSTANCE)
        answer = None
        if context.abstract_syntax == VERIFICATION or sop_class != context.abstract_syntax:
            answer = StoreAnswer(Status.SOP_CLASS_NOT_SUPPORTED, "SOP Class is not that of the presentation context")
        elif not is_uid(sop_instance):
            answer = StoreAnswer(Status.INVALID_SOP_INSTANCE, "Affected SOP Instance UID is missing or is no UID")
        elif UID(sop_instance, validation_mode=IGNORE).is_valid:
            return
        self._judgements[command.MessageID] = Judgement(answer, sop_instance, is_altered=True)
        command.add_new(_SOP_CLASS, "UI", context.abstract_syntax if answer is None else _CT_IMAGE_STORAGE)
        command.add_new(_SOP_INSTANCE, "UI", _PLACEHOLDER_UID)

    def judgement(self, request: C_STORE) -> Judgement:
        """Return what was found out about a request before pynetdicom read it, and about its data set's size."""
        size_bytes = request.DataSet.getbuffer().nbytes if request.DataSet is not None else 0
        judged = self._judgements.pop(request.MessageID or 0, None)
        if judged is None:
            judged = Judgement(None, str(request.AffectedSOPInstanceUID), is_altered=False)
        if judged.answer is None and not size_bytes:
            return replace(judged, answer=StoreAnswer(Status.CANNOT_UNDERSTAND, "the request has no data set"))
        if judged.answer is None and size_bytes > self._max_dataset_bytes:
            comment = f"larger than {self._max_dataset_bytes} bytes (receiver.max_dataset_bytes)"
            return replace(judged, answer=StoreAnswer(Status.CANNOT_UNDERSTAND, comment))
        return judged


def _uid(command: Dataset, tag: int) -> str:
    """Return a UID of a command set, undecoded by pydicom, which would warn of odd ones."""
    element = command.get_item(tag)
    value = element.value if element is not None else b""
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value or "")
    return text.rstrip(" \0")


class Server(ThreadedAssociationServer):
    """pynetdicom's server with a longer queue, without Nagle's algorithm, and with a timeout inside a PDU."""

    request_queue_size = 128

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Accept a connection."""
        client, address = super().get_request()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.settimeout(self.ae.network_timeout)
        return client, address

    def shutdown(self) -> None:
        """Stop accepting and close the port; associations go on."""
        socketserver.BaseServer.shutdown(self)
        self.server_close()
