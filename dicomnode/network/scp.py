"""Receiving: C-ECHO and C-STORE from the peers on the allow-list, and their answers to storage commitment requests.

The data set of a C-STORE request goes as it came, undecoded, to the callback `on_store`, which gives the answer.
Which called AE title a peer uses is not checked: a node that is reached is meant, and a wrong one is only logged.

Standard: PS3.4 annexes A, B and J (Verification, Storage, Storage Commitment), PS3.7 9.1.1 and 9.1.5, PS3.8 section 7.
"""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pydicom._uid_dict import UID_dictionary
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import _config, evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import A_ASSOCIATE, SOPClassCommonExtendedNegotiation
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import _NON_PATIENT_OBJECT_CLASSES, _STORAGE_CLASSES

from dicomnode.config import PeerSettings, ReceiverSettings
from dicomnode.errors import ConfigError, Permanent, Transient, UnreadableObject
from dicomnode.failpoint import failpoint
from dicomnode.log import get_logger
from dicomnode.network.access import Rejection, admission, printable, rejection
from dicomnode.network.commitment import STORAGE_COMMITMENT, Commitment, answer
from dicomnode.network.session import VERIFICATION, Server, Session, StoreAnswer
from dicomnode.network.status import Status

__all__ = ["Rejection", "StorageSCP", "StoreAnswer", "StoreRequest", "is_storage"]

MAX_COMMENT_LENGTH = 64
_STORAGE_SERVICE_CLASS = "1.2.840.10008.4.2"
_REJECTED_CALLING_AE_TITLE = (1, 1, 3)  # permanent, service user, calling AE title not recognized
_REJECTED_LOCAL_LIMIT = (2, 3, 2)  # transient, presentation related, local limit exceeded

_config.LOG_HANDLER_LEVEL = "none"  # nothing that a peer sends is printed by pynetdicom
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
log = get_logger(__name__)


def _is_named_storage(uid: str, name: str) -> bool:
    is_other = "Commitment" in name or name.startswith("Media Storage") or uid in _NON_PATIENT_OBJECT_CLASSES.values()
    return "Storage" in name and not is_other


STORAGE_SOP_CLASSES = frozenset(_STORAGE_CLASSES.values()) | {
    uid for uid, entry in UID_dictionary.items() if entry[1] == "SOP Class" and _is_named_storage(uid, entry[0])
}


def is_storage(sop_class_uid: str, *, accept_unknown: bool) -> bool:
    """Return whether a SOP Class is one of Storage: a current or retired one, or one that no dictionary here knows."""
    if sop_class_uid in STORAGE_SOP_CLASSES:
        return True
    return accept_unknown and sop_class_uid not in UID_dictionary


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """A C-STORE request whose UIDs are UIDs; `dataset` is valid only until the callback returns."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    calling_ae_title: str
    calling_address: str
    dataset: memoryview
    implementation_class_uid: str = ""
    implementation_version_name: str = ""


class StorageSCP:
    """A server for C-ECHO and C-STORE; each association is served by threads of its own.

    `on_store` returns the answer, or raises: `Transient` becomes 0xA700, `Permanent` 0xC000, all else 0xA700 (ours).
    `on_commitment` takes what a peer commits to; without it no peer may report that.
    """

    def __init__(
        self,
        settings: ReceiverSettings,
        ae_title: str,
        peers: Mapping[str, PeerSettings],
        on_store: Callable[[StoreRequest], StoreAnswer],
        on_rejected: Callable[[Rejection], None],
        on_commitment: Callable[[Commitment], bool] | None = None,
        on_n_action: Callable[[evt.Event], tuple[int, Dataset | None]] | None = None,
    ) -> None:
        self._settings = settings
        self._peers = peers
        self._on_store = on_store
        self._on_rejected = on_rejected
        self._on_commitment = on_commitment
        self._on_n_action = on_n_action
        self._ae = ApplicationEntity(ae_title)
        self._ae.maximum_pdu_size = settings.max_pdu_bytes
        self._ae.maximum_associations = 1 << 30  # counted here, where an idle connection does not count
        self._ae.network_timeout = settings.network_timeout_s
        self._ae.acse_timeout = settings.acse_timeout_s
        self._ae.dimse_timeout = settings.network_timeout_s
        self._ae.add_supported_context(VERIFICATION)
        self._lock = threading.Lock()
        self._admitted: set[Association] = set()
        self._server: Server | None = None

    @property
    def port(self) -> int:
        """The port that is listened on; the real one if the setting is 0."""
        return int(self._server.server_address[1]) if self._server else self._settings.port

    def start(self) -> None:
        """Listen; raises `ConfigError` if the address or the port cannot be had."""
        handlers: list[evt.EventHandlerType] = [
            (evt.EVT_CONN_OPEN, self._on_connected),
            (evt.EVT_CONN_CLOSE, self._on_closed),
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_SOP_COMMON, self._on_sop_classes),
            (evt.EVT_DIMSE_RECV, self._on_message),
            (evt.EVT_C_STORE, self._on_c_store),
            (evt.EVT_C_ECHO, self._on_c_echo),
            (evt.EVT_N_EVENT_REPORT, self._on_event_report),
        ]
        if self._on_n_action is not None:
            handlers.append((evt.EVT_N_ACTION, self._on_n_action))
        address = (self._settings.host, self._settings.port)
        try:
            server = self._ae.make_server(address, evt_handlers=handlers, server_class=Server)
        except OSError as exc:
            raise ConfigError(f"receiver.host {address[0]}, receiver.port {address[1]}: {exc.strerror or exc}") from exc
        assert isinstance(server, Server)  # noqa: S101  for the type checker
        self._server = server
        threading.Thread(target=server.serve_forever, args=(0.5,), name="receiver", daemon=True).start()

    def stop(self, deadline_s: float = 10.0) -> None:
        """Stop accepting, let each running C-STORE be answered within `deadline_s`, then abort the associations."""
        if self._server is None:
            return
        self._server.shutdown()
        associations = self._server.active_associations
        waiting = {assoc: _session(assoc).answered for assoc in associations if _session(assoc).is_busy}
        for assoc in associations:
            if assoc not in waiting:
                _abort(assoc)
        ends_at = time.monotonic() + deadline_s
        while waiting:
            is_late = time.monotonic() >= ends_at
            for assoc, answered in list(waiting.items()):
                if is_late or _session(assoc).answered > answered or not assoc.is_alive():
                    _abort(assoc)
                    del waiting[assoc]
            time.sleep(0.02)
        for assoc in associations:
            _end(assoc)
        self._server = None

    def _on_connected(self, event: evt.Event) -> None:
        event.assoc.dimse = Session(event.assoc, self._settings.max_dataset_bytes)

    def _on_closed(self, event: evt.Event) -> None:
        """Wake the thread of a connection that closed before its request; it would wait for `acse_timeout_s`."""
        if event.assoc.requestor.primitive is None:
            event.assoc.dul.to_user_queue.put(None)

    def _on_requested(self, event: evt.Event) -> None:
        """Reject the association, or tell pynetdicom what it may negotiate. An error here rejects."""
        assoc = event.assoc
        try:
            refused = self._refusal(assoc)
        except Exception:  # pynetdicom would go on and let the peer in
            log.exception("association rejected: error in the check of the peer")
            refused = _REJECTED_LOCAL_LIMIT
        if refused is not None:
            assoc.acse.send_reject(*refused)
            assoc.kill()

    def _refusal(self, assoc: Association) -> tuple[int, int, int] | None:
        request = assoc.requestor.primitive
        assert isinstance(request, A_ASSOCIATE)  # noqa: S101  for the type checker
        calling, called = str(request.calling_ae_title), str(request.called_ae_title)
        address = str(assoc.requestor.address)
        admitted = admission(self._peers, calling, address, accept_unknown=self._settings.accept_unknown_peers)
        if admitted is None:
            self._report(rejection(self._peers, calling, called, address))
            return _REJECTED_CALLING_AE_TITLE
        with self._lock:
            self._admitted = {other for other in self._admitted if other.is_alive() and not _is_over(other)}
            is_full = len(self._admitted) >= self._settings.max_associations
            if not is_full:
                self._admitted.add(assoc)
        if is_full:
            limit = self._settings.max_associations
            reason, setting = f"{limit} associations are open", f"[receiver] max_associations = {2 * limit}"
            self._report(Rejection(printable(calling), printable(called), printable(address), reason, setting))
            return _REJECTED_LOCAL_LIMIT
        _session(assoc).admission = admitted
        assoc.acceptor.supported_contexts = self._contexts(assoc)
        if called.strip() != self._ae.ae_title.strip():
            log.debug("called by another AE title", called_ae_title=printable(called))
        return None

    def _contexts(self, assoc: Association) -> list[PresentationContext]:
        """Return what the requestor proposed of Verification and Storage, in every transfer syntax, its order kept."""
        syntaxes: dict[str, dict[UID, None]] = {}
        for proposed in assoc.requestor.requested_contexts:
            uid = str(proposed.abstract_syntax)
            is_commitment = uid == STORAGE_COMMITMENT and self._on_n_action is not None and not _reports(assoc)
            if (
                uid == VERIFICATION
                or is_commitment
                or is_storage(uid, accept_unknown=self._settings.accept_unknown_sop_classes)
            ):
                syntaxes.setdefault(uid, {}).update(dict.fromkeys(proposed.transfer_syntax))
        contexts = []
        for uid, transfer_syntaxes in syntaxes.items():
            context = PresentationContext()
            context.abstract_syntax = UID(uid)
            context.transfer_syntax = list(transfer_syntaxes)
            contexts.append(context)
        return contexts + self._commitment_contexts(assoc)

    def _commitment_contexts(self, assoc: Association) -> list[PresentationContext]:
        """Return Storage Commitment for a requestor that is its SCP: it reports what we asked for. PS3.4 J.3.3."""
        if self._on_commitment is None or not _reports(assoc):
            return []
        context = PresentationContext()
        context.abstract_syntax = UID(STORAGE_COMMITMENT)
        context.transfer_syntax = [ImplicitVRLittleEndian, ExplicitVRLittleEndian]
        context.scu_role = context.scp_role = True
        return [context]

    def _on_sop_classes(self, event: evt.Event) -> dict[UID, SOPClassCommonExtendedNegotiation]:
        """Return the Storage Service Class for the SOP Classes that pynetdicom does not know; nothing is sent."""
        items: dict[UID, SOPClassCommonExtendedNegotiation] = {}
        for context in event.assoc.acceptor.supported_contexts:
            uid = UID(context.abstract_syntax or "")
            if uid not in (*_STORAGE_CLASSES.values(), VERIFICATION, STORAGE_COMMITMENT):
                item = SOPClassCommonExtendedNegotiation()
                item.sop_class_uid = uid
                item.service_class_uid = UID(_STORAGE_SERVICE_CLASS)
                items[uid] = item
        return items

    def _on_message(self, event: evt.Event) -> None:
        _session(event.assoc).judge(event.message)

    def _on_c_echo(self, _event: evt.Event) -> int:
        return Status.SUCCESS

    def _on_event_report(self, event: evt.Event) -> tuple[int, None]:
        if self._on_commitment is None:
            return Status.NOT_AUTHORIZED, None
        return answer(event, self._on_commitment), None

    def _on_c_store(self, event: evt.Event) -> Dataset:
        """Answer a C-STORE request; never raises."""
        session = _session(event.assoc)
        session.handling = True
        request = event.request
        assert isinstance(request, C_STORE)  # noqa: S101  for the type checker
        judged = session.judgement(request)
        try:
            answer = judged.answer or self._answer(event, request, session, judged.sop_instance_uid)
        except Transient as exc:
            log.warning("C-STORE not possible now", error=str(exc))
            answer = StoreAnswer(Status.OUT_OF_RESOURCES, str(exc))
        except Permanent as exc:
            log.warning("C-STORE refused", error=str(exc))
            answer = StoreAnswer(Status.CANNOT_UNDERSTAND, str(exc))
        except Exception:
            log.exception("C-STORE failed")
            answer = StoreAnswer(Status.OUT_OF_RESOURCES, "internal error")
        response = Dataset()
        response.Status = answer.status
        if answer.comment and answer.status != Status.SUCCESS:
            response.ErrorComment = printable(answer.comment, MAX_COMMENT_LENGTH).replace("\\", "/").strip()
        if judged.is_altered:
            response.AffectedSOPClassUID = response.AffectedSOPInstanceUID = ""
        failpoint("receive.answering")
        return response

    def _answer(self, event: evt.Event, request: C_STORE, session: Session, sop_instance_uid: str) -> StoreAnswer:
        requestor = event.assoc.requestor
        calling, address = str(requestor.ae_title).strip(), str(requestor.address)
        if session.admission is None or not session.admission.may_store:
            self._report_once(session, calling, address)
            return StoreAnswer(Status.NOT_AUTHORIZED, f"{calling} may not store here")
        if request.DataSet is None:
            raise UnreadableObject("the request has no data set")
        return self._on_store(
            StoreRequest(
                sop_class_uid=str(request.AffectedSOPClassUID),
                sop_instance_uid=sop_instance_uid,
                transfer_syntax_uid=str(event.context.transfer_syntax),
                calling_ae_title=calling,
                calling_address=address,
                dataset=request.DataSet.getbuffer().toreadonly(),
                implementation_class_uid=printable(str(requestor.implementation_class_uid or "")),
                implementation_version_name=printable(requestor.implementation_version_name or ""),
            )
        )

    def _report_once(self, session: Session, calling: str, address: str) -> None:
        """Report a peer that is listed but may not store, once an association."""
        if session.admission is not None and not session.is_reported:
            session.is_reported = True
            title = printable(calling)
            reason, setting = f"{title} may not store here", f"[peers.{session.admission.name}] sends = true"
            called = printable(str(session.assoc.requestor.primitive.called_ae_title))  # type: ignore[union-attr]
            self._report(Rejection(title, called, printable(address), reason, setting))

    def _report(self, rejected: Rejection) -> None:
        log.warning("peer rejected", reason=rejected.reason, setting=rejected.setting)
        try:
            self._on_rejected(rejected)
        except Exception:
            log.exception("a rejection was not recorded")


def _reports(assoc: Association) -> bool:
    """Return whether the requestor is the SCP of storage commitment: it calls to report what it was asked."""
    role = assoc.requestor.role_selection.get(UID(STORAGE_COMMITMENT))
    return role is not None and bool(role.scp_role)


def _session(assoc: Association) -> Session:
    session = assoc.dimse
    assert isinstance(session, Session), "the association was opened without a session"  # noqa: S101  stops the start of a service
    return session


def _is_over(assoc: Association) -> bool:
    return assoc.is_released or assoc.is_aborted or assoc.is_rejected


def _abort(assoc: Association) -> None:
    """Send A-ABORT; a connection without a request is just closed."""
    if assoc.requestor.primitive is None:
        _cut(assoc)
    else:
        assoc.abort(block=False)


def _end(assoc: Association) -> None:
    """Wait for an aborted association; cut the line of one that still reads."""
    assoc.join(timeout=1.0)
    if assoc.dul.is_alive():
        _cut(assoc)
        assoc.join(timeout=1.0)


def _cut(assoc: Association) -> None:
    wrapper = assoc.dul.socket
    if wrapper is not None and wrapper.socket is not None:
        with contextlib.suppress(OSError):
            wrapper.socket.shutdown(socket.SHUT_RDWR)
