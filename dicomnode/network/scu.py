"""Sending: C-ECHO and C-STORE to peers.

Data sets go out as they are stored, byte for byte, where the peer accepts their transfer syntax. Only Implicit and
Explicit VR Little Endian are turned into each other; nothing is ever compressed or decompressed on the way.

Standard: PS3.4 annexes A and B (Verification, Storage), PS3.7 9.1.1 and 9.1.5, PS3.10 section 7.1 (file meta).
"""

import contextlib
import logging
import socket
import ssl
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID
from pynetdicom import _config, evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.transport import AddressInformation, AssociationSocket

from dicomnode.config import DeliverySettings, PeerSettings
from dicomnode.domain.study import is_uid
from dicomnode.errors import NothingAccepted, PeerRefused, PeerUnavailable, UnreadableObject
from dicomnode.failpoint import failpoint
from dicomnode.log import get_logger
from dicomnode.network.access import printable
from dicomnode.network.status import Outcome, Status, classify, describe

MAX_CONTEXTS = 128
MAX_PDU_BYTES = 131072
_REJECTED_TRANSIENT = 2
VERIFICATION = "1.2.840.10008.1.1"
IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
CONVERTIBLE = frozenset({IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN})
RESULT_SOP_CLASSES: Mapping[str, str] = {
    "1.2.840.10008.5.1.4.1.1.88.34": "Comprehensive 3D SR",
    "1.2.840.10008.5.1.4.1.1.88.33": "Comprehensive SR",
    "1.2.840.10008.5.1.4.1.1.88.22": "Enhanced SR",
    "1.2.840.10008.5.1.4.1.1.88.11": "Basic Text SR",
    "1.2.840.10008.5.1.4.1.1.7": "Secondary Capture Image",
}

_config.LOG_HANDLER_LEVEL = "none"
_config.STORE_SEND_CHUNKED_DATASET = True  # send_c_store(path) sends the bytes of the file, undecoded
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EchoResult:
    """What a peer answered to C-ECHO, and which of our result SOP Classes (by UID) it would take."""

    status: int
    ms: float
    accepts: Mapping[str, bool]

    @property
    def is_alive(self) -> bool:
        """Whether the peer answered with success."""
        return self.status == Status.SUCCESS


@dataclass(frozen=True, slots=True)
class SendResult:
    """What became of one file: `status` is None if the peer gave none, `comment` says why in words.

    `http_status` is that of STOW-RS; `wait_s` is how long the peer asked to wait (Retry-After).
    """

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    status: int | None
    outcome: Outcome
    comment: str
    ms: float
    http_status: int | None = None
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Item:
    """A file to be sent, and what its meta information says of it."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    has_meta: bool

    @property
    def context(self) -> tuple[str, str]:
        """SOP Class and transfer syntax."""
        return self.sop_class_uid, self.transfer_syntax_uid

    def result(self, outcome: Outcome, comment: str, status: int | None = None, ms: float = 0.0) -> SendResult:
        """Return what became of it."""
        return SendResult(self.path, self.sop_class_uid, self.sop_instance_uid, status, outcome, comment, ms)


def echo(peer: PeerSettings, calling_ae_title: str, settings: DeliverySettings) -> EchoResult:
    """Return the peer's answer to C-ECHO.

    Raises `PeerUnavailable` if it cannot be reached or does not answer, `PeerRefused` if it rejects the association or
    Verification.
    """
    with connect(peer, calling_ae_title, settings, []) as line:
        return line.echo()


class Line:
    """An open association to a peer, for one thread."""

    def __init__(self, assoc: Association, peer: PeerSettings) -> None:
        self._assoc = assoc
        self._peer = peer
        self._messages = 0
        self.accepted = frozenset(
            (str(cx.abstract_syntax), str(cx.transfer_syntax[0])) for cx in assoc.accepted_contexts
        )

    @property
    def takes(self) -> tuple[str, ...]:
        """UIDs of our result SOP Classes that the peer accepted."""
        return tuple(uid for uid in RESULT_SOP_CLASSES if self.accepts(uid))

    def accepts(self, sop_class_uid: str) -> bool:
        """Return whether the peer takes uncompressed objects of a SOP Class."""
        return any((sop_class_uid, syntax) in self.accepted for syntax in CONVERTIBLE)

    def echo(self) -> EchoResult:
        """Return the peer's answer to C-ECHO. Raises `PeerUnavailable`, `PeerRefused`."""
        if not self.accepts(VERIFICATION):
            raise PeerRefused(f"{_name(self._peer)} does not accept Verification")
        began = time.perf_counter()
        response = self._assoc.send_c_echo()
        ms = 1000 * (time.perf_counter() - began)
        if "Status" not in response:
            raise PeerUnavailable(f"{_name(self._peer)} did not answer C-ECHO")
        return EchoResult(int(response.Status), ms, {uid: self.accepts(uid) for uid in RESULT_SOP_CLASSES})

    def store(self, item: Item) -> SendResult:
        """Send a file by C-STORE and return what became of it; never raises."""
        if not self._assoc.is_established:
            return item.result(Outcome.UNAVAILABLE, f"{_name(self._peer)} cut the association")
        return _store(self._assoc, item, self._peer, self.next_message_id())

    def next_message_id(self) -> int:
        """Return the Message ID for the next request: 1 to 65535."""
        self._messages = self._messages % 65535 + 1
        return self._messages

    @property
    def association(self) -> Association:
        """The association itself, for other services of this package."""
        return self._assoc


@contextlib.contextmanager
def connect(
    peer: PeerSettings,
    calling_ae_title: str,
    settings: DeliverySettings,
    contexts: Iterable[tuple[str, str]],
    handlers: Sequence[evt.EventHandlerType] = (),
) -> Iterator[Line]:
    """Give an association for `contexts` (SOP Class, transfer syntax), Verification and all our results.

    Raises `PeerUnavailable` or `PeerRefused` if it cannot be opened, `NothingAccepted` if the peer takes nothing of it.
    """
    ours = [(uid, syntax) for uid in (VERIFICATION, *RESULT_SOP_CLASSES) for syntax in sorted(CONVERTIBLE)]
    assoc = associate(peer, calling_ae_title, settings, _proposed([*contexts, *ours]), handlers)
    try:
        yield Line(assoc, peer)
    finally:
        assoc.release()


def send(
    peer: PeerSettings, calling_ae_title: str, files: Sequence[Path], settings: DeliverySettings
) -> Iterator[SendResult]:
    """Yield what became of each of `files` (DICOM files), unreadable ones first, then in the order given.

    One association carries them all, unless they need more than 128 presentation contexts. Raises `PeerUnavailable` or
    `PeerRefused` if the first association cannot be opened; if one is lost later, what is unsent is yielded as
    `UNAVAILABLE` with status None. Whoever stops reading early closes the iterator, and with it the association.
    """
    items: list[Item] = []
    for path in files:
        try:
            items.append(read_item(path))
        except (UnreadableObject, OSError) as exc:
            yield SendResult(path, "", "", None, Outcome.REFUSED, f"unreadable: {exc}", 0.0)
    lost = ""
    for number, batch in enumerate(_batches(items)):
        if not lost:
            try:
                assoc = associate(peer, calling_ae_title, settings, _proposed(item.context for item in batch))
            except (PeerUnavailable, PeerRefused) as exc:
                if number == 0:
                    raise
                lost = str(exc)
        if lost:
            yield from (item.result(Outcome.UNAVAILABLE, lost) for item in batch)
        else:
            lost = yield from _send_batch(assoc, batch, peer)


def _send_batch(assoc: Association, batch: Sequence[Item], peer: PeerSettings) -> Generator[SendResult, None, str]:
    """Yield what became of each item; return why the association was lost, or nothing. Releases the association."""
    try:
        for index, item in enumerate(batch):
            result = _store(assoc, item, peer, 1 + index % 65535)
            yield result
            if result.outcome is Outcome.UNAVAILABLE:
                lost = f"{_name(peer)} cut the association"
                yield from (rest.result(Outcome.UNAVAILABLE, lost) for rest in batch[index + 1 :])
                return lost
        return ""
    finally:
        assoc.release()


class _Requestor(ApplicationEntity):
    """pynetdicom's requestor; its sockets have no Nagle's algorithm, and one that did not connect can be closed."""

    line: socket.socket | None = None

    def _create_socket(
        self, assoc: Association, address: AddressInformation, tls_args: tuple[ssl.SSLContext, str] | None
    ) -> AssociationSocket:
        wrapper = super()._create_socket(assoc, address, tls_args)
        if wrapper.socket is not None:
            self.line = wrapper.socket
            self.line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return wrapper


def associate(
    peer: PeerSettings,
    calling_ae_title: str,
    settings: DeliverySettings,
    contexts: Sequence[PresentationContext],
    handlers: Sequence[evt.EventHandlerType] = (),
) -> Association:
    """Return an established association."""
    if not peer.host or not peer.port:
        raise PeerRefused(f"{peer.ae_title} has no host or port in the settings")
    ae = _Requestor(calling_ae_title)
    ae.connection_timeout = settings.connect_timeout_s
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = settings.network_timeout_s
    began = time.perf_counter()
    try:
        assoc = ae.associate(
            peer.host,
            peer.port,
            contexts=list(contexts),
            ae_title=peer.ae_title,
            max_pdu=MAX_PDU_BYTES,
            evt_handlers=list(handlers),
        )
    except OSError as exc:
        raise PeerUnavailable(f"{_name(peer)}: {exc.strerror or exc}") from exc
    if assoc.is_established:
        failpoint("send.connected")
        return assoc
    if ae.line is not None:
        ae.line.close()
    answer = assoc.acceptor.primitive
    if assoc.is_rejected and isinstance(answer, A_ASSOCIATE):
        error = PeerUnavailable if answer.result == _REJECTED_TRANSIENT else PeerRefused
        raise error(f"{_name(peer)} rejects the association of {calling_ae_title}: {answer.reason_str}")
    if isinstance(answer, A_ASSOCIATE):
        raise NothingAccepted(f"{_name(peer)} accepts none of the proposed SOP Classes and transfer syntaxes")
    waited = time.perf_counter() - began
    if waited < min(settings.connect_timeout_s, settings.network_timeout_s):
        raise PeerUnavailable(
            f"{_name(peer)} cannot be reached, or closed the connection: is it running, is the port right?"
        )
    raise PeerUnavailable(f"{_name(peer)} did not answer within {waited:.0f} s")


def _name(peer: PeerSettings) -> str:
    return f"{peer.ae_title} at {peer.host}:{peer.port}"


def read_item(path: Path) -> Item:
    """Return what the file meta information says, or the data set itself where there is none.

    Raises `UnreadableObject` if neither says it, `OSError` if there is no such file.
    """
    try:
        meta = read_file_meta_info(path)
    except InvalidDicomError:
        return _item_without_meta(path)
    if "TransferSyntaxUID" not in meta:
        return _item_without_meta(path)
    sop_class, sop_instance = meta.get("MediaStorageSOPClassUID", ""), meta.get("MediaStorageSOPInstanceUID", "")
    if not is_uid(sop_class) or not is_uid(sop_instance):
        raise UnreadableObject("the file meta information has no SOP Class UID or no SOP Instance UID")
    return Item(path, str(sop_class), str(sop_instance), str(meta.TransferSyntaxUID), has_meta=True)


def _item_without_meta(path: Path) -> Item:
    try:
        ds = dcmread(path, force=True, specific_tags=["SOPClassUID", "SOPInstanceUID"], stop_before_pixels=True)
        sop_class, sop_instance = str(ds.get("SOPClassUID", "")), str(ds.get("SOPInstanceUID", ""))
        is_implicit, is_little_endian = ds.original_encoding
    except Exception as exc:
        raise UnreadableObject(f"no DICOM file: {type(exc).__name__}") from exc
    if not is_uid(sop_class) or not is_uid(sop_instance):
        raise UnreadableObject("no file meta information and no SOP Class UID or SOP Instance UID")
    if not is_little_endian:
        raise UnreadableObject("no file meta information before a big endian data set")
    syntax = IMPLICIT_VR_LITTLE_ENDIAN if is_implicit else EXPLICIT_VR_LITTLE_ENDIAN
    return Item(path, sop_class, sop_instance, syntax, has_meta=False)


def _batches(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Yield the items in parts that need no more presentation contexts than an association has."""
    batch: list[Item] = []
    for item in items:
        if len(_proposed([*{other.context for other in batch}, item.context])) > MAX_CONTEXTS:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _proposed(contexts: Iterable[tuple[str, str]]) -> list[PresentationContext]:
    """Return a context for each stored syntax, and one with the other uncompressed syntax where we could convert."""
    wanted = dict.fromkeys(contexts)
    for sop_class, syntax in list(wanted):
        if syntax in CONVERTIBLE:
            wanted |= dict.fromkeys((sop_class, other) for other in sorted(CONVERTIBLE - {syntax}))
    return [build_context(sop_class, syntax) for sop_class, syntax in wanted]


def _store(assoc: Association, item: Item, peer: PeerSettings, message_id: int) -> SendResult:
    accepted = {(str(cx.abstract_syntax), str(cx.transfer_syntax[0])) for cx in assoc.accepted_contexts}
    is_raw = item.has_meta and item.context in accepted
    can_convert = item.transfer_syntax_uid in CONVERTIBLE
    if not is_raw and not (can_convert and any((item.sop_class_uid, syntax) in accepted for syntax in CONVERTIBLE)):
        sop_class, syntax = UID(item.sop_class_uid).name, UID(item.transfer_syntax_uid).name
        said = f"{_name(peer)} does not accept {sop_class} as {syntax}; it accepts {_in_words(accepted)}"
        return item.result(Outcome.REFUSED, said)
    began = time.perf_counter()
    try:
        response = assoc.send_c_store(item.path if is_raw else _dataset(item), msg_id=message_id)
    except Exception as exc:  # noqa: BLE001  a file that pydicom cannot read or write again must not end the others
        return item.result(Outcome.REFUSED, f"unreadable: {type(exc).__name__}: {printable(str(exc), 200)}")
    failpoint("send.answered")
    ms = 1000 * (time.perf_counter() - began)
    if "Status" not in response:
        return item.result(Outcome.UNAVAILABLE, f"{_name(peer)} did not answer C-STORE", ms=ms)
    status = int(response.Status)
    comment = printable(str(response.get("ErrorComment", "")))
    text = "" if status == Status.SUCCESS else f"{describe(status)}: {comment}" if comment else describe(status)
    return item.result(classify(status), text, status, ms)


def _in_words(accepted: Iterable[tuple[str, str]]) -> str:
    """Return accepted contexts as an operator reads them, Verification left out."""
    syntaxes: dict[str, list[str]] = {}
    for sop_class, syntax in sorted(accepted):
        if sop_class != VERIFICATION:
            syntaxes.setdefault(UID(sop_class).name, []).append(UID(syntax).name)
    return "; ".join(f"{name} ({', '.join(found)})" for name, found in syntaxes.items()) or "no object at all"


def _dataset(item: Item) -> Dataset:
    """Return the decoded data set of a file, for the peer's other uncompressed syntax."""
    ds = dcmread(item.path, force=True)
    ds.file_meta.TransferSyntaxUID = UID(item.transfer_syntax_uid)
    return ds
