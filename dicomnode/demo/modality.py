"""The demo modality: it sends what `objects` makes, or files as they are, and notes every answer.

Standard: PS3.4 B.2 (Storage SCU).
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from ssl import SSLContext

from pydicom import Dataset, dcmread
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.transport import AddressInformation, AssociationSocket

from dicomnode.demo import JOIN_TIMEOUT_S, no_delay
from dicomnode.errors import PeerRefused, PeerUnavailable

TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Sent:
    """One C-STORE: `status` is None where no answer came; `at` is when it was sent, `seconds` how long it took."""

    sop_instance_uid: str
    status: int | None
    at: datetime
    seconds: float


def send(
    sources: Sequence[Path | Dataset],
    host: str,
    port: int,
    calling_ae_title: str,
    called_ae_title: str,
    *,
    pause_s: float = 0.0,
) -> list[Sent]:
    """Send each of `sources` over one association, `pause_s` apart, and return the answers in their order.

    Where the line is cut, the rest has no status. Raises `PeerUnavailable` if no one answers, `PeerRefused` if the
    association or the SOP Class of an object is not accepted, pydicom's `InvalidDicomError` for a file that is none.
    """
    datasets = [source if isinstance(source, Dataset) else dcmread(source) for source in sources]
    sent: list[Sent] = []
    with _association(datasets, host, port, calling_ae_title, called_ae_title) as assoc:
        for position, ds in enumerate(datasets):
            if position and pause_s:
                time.sleep(pause_s)
            at, start = datetime.now(UTC), time.monotonic()
            status = _store(assoc, ds)
            sent.append(Sent(str(ds.SOPInstanceUID), status, at, time.monotonic() - start))
    return sent


def _store(assoc: Association, ds: Dataset) -> int | None:
    """Return the status of the answer; None, and no association any more, if there was none."""
    if not assoc.is_established:
        return None
    try:
        answer = assoc.send_c_store(ds)
    except ValueError as exc:  # pynetdicom: no accepted presentation context
        raise PeerRefused(f"{assoc.acceptor.ae_title} does not take {ds.SOPClassUID.name}") from exc
    except RuntimeError:  # pynetdicom: the association went between the two lines
        return None
    if "Status" in answer:
        return int(answer.Status)
    assoc.abort()  # pynetdicom may take a moment to notice, and would wait for the next answer until its timeout
    return None


class _ClosingAE(AE):
    """An AE that closes its sockets: pynetdicom 3.0 leaves that of a refused connection to the garbage collector."""

    def _create_socket(
        self, assoc: Association, address: AddressInformation, tls_args: tuple[SSLContext, str] | None
    ) -> AssociationSocket:
        wrapper = super()._create_socket(assoc, address, tls_args)
        self.line = wrapper.socket
        return wrapper


@contextmanager
def _association(
    datasets: Sequence[Dataset], host: str, port: int, calling_ae_title: str, called_ae_title: str
) -> Iterator[Association]:
    peer = f"{called_ae_title} at {host}:{port}"
    ae = _ClosingAE(ae_title=calling_ae_title)
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = TIMEOUT_S
    for sop_class, syntax in {(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID) for ds in datasets}:
        ae.add_requested_context(sop_class, syntax)
    handlers: list[evt.EventHandlerType] = [(evt.EVT_CONN_OPEN, no_delay)]
    assoc = ae.associate(host, port, ae_title=called_ae_title, evt_handlers=handlers)
    try:
        if assoc.is_rejected:
            raise PeerRefused(f"{peer} rejected the association of {calling_ae_title}")
        if assoc.rejected_contexts and not assoc.accepted_contexts:
            raise PeerRefused(f"{peer} takes no SOP Class that was offered")
        if not assoc.is_established:
            raise PeerUnavailable(f"{peer} did not answer")
        yield assoc
    finally:
        if assoc.is_established:
            assoc.release()
        if assoc.is_alive():
            assoc.join(JOIN_TIMEOUT_S)
        if ae.line is not None:
            ae.line.close()
