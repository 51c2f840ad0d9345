"""A small real PACS that fails on demand: storage, C-ECHO and C-FIND over what it holds.

Standard: PS3.4 B (Storage), C.4.1 (C-FIND, Study Root), A (Verification).
"""

import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, Verification  # type: ignore[attr-defined]

from dicomnode.demo import ACSE_TIMEOUT_S, JOIN_TIMEOUT_S, line_of, no_delay
from dicomnode.demo.find import HEADER_KEYWORDS, answers

SUCCESS, PENDING, CANCELLED = 0x0000, 0xFF00, 0xFE00
OUT_OF_RESOURCES, DOES_NOT_MATCH, CANNOT_UNDERSTAND = 0xA700, 0xA900, 0xC000


@dataclass(frozen=True, slots=True)
class Accepted:
    """One SOP Instance that the PACS answered 0x0000 for, or stored before it cut the line.

    `at` is the moment of the first C-STORE, `count` how many there were, `differing` how many of them carried other
    bytes or another transfer syntax than the first; `path` is the file of the first.
    """

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    at: datetime
    count: int
    differing: int
    path: Path


@dataclass(slots=True)
class _Faults:
    refuse_status: int = SUCCESS
    refuse_times: int = 0
    cut_times: int = 0
    delay_s: float = 0.0


class DemoPACS:
    """A Storage SCP below `folder`; the ledger is in memory, lives through `stop` and `start`, and is thread-safe.

    Port 0 chooses a free one; it stays ours while the PACS is stopped, so that nobody else answers there.
    Use it as a context manager, or end it with `close`.
    """

    def __init__(self, folder: Path, ae_title: str = "DEMO_PACS", host: str = "127.0.0.1", port: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.ae_title, self.host = folder, ae_title, host
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._ledger: dict[str, Accepted] = {}
        self._digests: dict[str, str] = {}
        self._headers: dict[str, Dataset] = {}
        self._faults = _Faults()
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind((host, port))
        self.port: int = self._reserved.getsockname()[1]
        self._ae: AE | None = None

    def __enter__(self) -> "DemoPACS":
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @property
    def is_running(self) -> bool:
        """Whether the PACS answers."""
        return self._ae is not None

    def start(self) -> None:
        """Listen on the port; what was stored before is still there."""
        if self._ae is not None:
            return
        self._stopping.clear()
        ae = AE(ae_title=self.ae_title)
        ae.maximum_associations, ae.acse_timeout = 50, ACSE_TIMEOUT_S
        ae.add_supported_context(Verification)
        ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        for context in AllStoragePresentationContexts:
            ae.add_supported_context(str(context.abstract_syntax), ALL_TRANSFER_SYNTAXES)
        handlers: list[evt.EventHandlerType] = [
            (evt.EVT_CONN_OPEN, no_delay),
            (evt.EVT_C_ECHO, lambda _event: SUCCESS),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_C_FIND, self._find),
        ]
        ae.start_server((self.host, self.port), block=False, evt_handlers=handlers)
        self._ae = ae

    def stop(self) -> None:
        """Abort every association, close the port and wait for the threads, as a PACS that goes down."""
        ae, self._ae = self._ae, None
        if ae is None:
            return
        self._stopping.set()
        for server in list(ae._servers):
            server.shutdown()
            for assoc in server.active_associations:
                assoc.abort()
                assoc.join(JOIN_TIMEOUT_S)

    def close(self) -> None:
        """Stop, and give the port away."""
        self.stop()
        self._reserved.close()

    def refuse(self, status: int, times: int = 1) -> None:
        """Answer the next `times` C-STOREs with `status` and store nothing."""
        with self._changed:
            self._faults.refuse_status, self._faults.refuse_times = status, times

    def slow(self, seconds: float) -> None:
        """Wait so long before each answer to a C-STORE; 0 ends it."""
        with self._changed:
            self._faults.delay_s = seconds

    def cut_after_store(self, times: int = 1) -> None:
        """Store the next `times` objects, but close the connection instead of answering."""
        with self._changed:
            self._faults.cut_times = times

    @property
    def accepted(self) -> list[Accepted]:
        """What was stored, in the order of the first C-STORE."""
        with self._changed:
            return list(self._ledger.values())

    def wait_for(self, claim: Callable[[list[Accepted]], bool], timeout_s: float) -> bool:
        """Return whether `claim` over the ledger came true within `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: claim(list(self._ledger.values())), timeout_s)

    def _store(self, event: evt.Event) -> int:
        with self._changed:
            delay_s = self._faults.delay_s
            refused = self._faults.refuse_status if self._faults.refuse_times else SUCCESS
            self._faults.refuse_times = max(0, self._faults.refuse_times - 1)
        if delay_s and self._stopping.wait(delay_s):
            _cut(event)
            return OUT_OF_RESOURCES
        if refused != SUCCESS:
            return refused
        status = self._keep(event)
        with self._changed:
            cut = status == SUCCESS and self._faults.cut_times > 0
            self._faults.cut_times -= cut
        if cut:
            _cut(event)
        return status

    def _keep(self, event: evt.Event) -> int:
        """Return the status after the object is a file and stands in the ledger."""
        encoded: bytes = event.encoded_dataset()
        try:
            header = dcmread(BytesIO(encoded), stop_before_pixels=True, specific_tags=list(HEADER_KEYWORDS))
            uid, study_uid = str(header.SOPInstanceUID), str(header.StudyInstanceUID)
        except (InvalidDicomError, AttributeError, ValueError, NotImplementedError, EOFError):
            return CANNOT_UNDERSTAND
        rq = event.request
        if not isinstance(rq, C_STORE) or (uid, header.SOPClassUID) != (
            rq.AffectedSOPInstanceUID,
            rq.AffectedSOPClassUID,
        ):
            return DOES_NOT_MATCH
        syntax = str(event.context.transfer_syntax)
        digest = hashlib.sha256(syntax.encode() + b"\0" + event.encoded_dataset(include_meta=False)).hexdigest()
        path = self.folder / f"{digest}.dcm"
        path.write_bytes(encoded)
        with self._changed:
            known = self._ledger.get(uid)
            if known is None:
                at = datetime.now(UTC)
                self._ledger[uid] = Accepted(str(header.SOPClassUID), uid, study_uid, at, 1, 0, path)
                self._digests[uid] = digest
                self._headers[uid] = header
            else:
                differing = known.differing + (digest != self._digests[uid])
                self._ledger[uid] = replace(known, count=known.count + 1, differing=differing)
            self._changed.notify_all()
        return SUCCESS

    def _find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        with self._changed:
            headers = list(self._headers.values())
        try:
            found = answers(event.identifier, headers)
        except ValueError:
            yield DOES_NOT_MATCH, None
            return
        for answer in found:
            if event.is_cancelled:
                yield CANCELLED, None
                return
            yield PENDING, answer


def _cut(event: evt.Event) -> None:
    """Close the connection of an association, as a cable that is pulled."""
    with suppress(OSError):  # the peer was first
        line_of(event).shutdown(socket.SHUT_RDWR)
