"""A pynetdicom acceptor that takes what a test wants, answers what a test wants, and keeps the bytes it gets."""

from collections.abc import Callable

from pydicom.dataset import Dataset
from pynetdicom import AE, evt

from dicomnode.config import PeerSettings


class Acceptor:
    """`contexts` maps SOP Classes to transfer syntaxes; `received` are (SOP Instance, transfer syntax, bytes)."""

    def __init__(
        self, contexts: dict[str, list[str]], answer: Callable[[evt.Event], int | Dataset] = lambda _event: 0
    ) -> None:
        self.received: list[tuple[str, str, bytes]] = []
        self.calling: list[str] = []
        self._answer = answer
        self.ae = AE("PACS")
        for sop_class, syntaxes in contexts.items():
            self.ae.add_supported_context(sop_class, syntaxes)
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_ACCEPTED, self._accepted)]
        self.server = self.ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.peer = PeerSettings(ae_title="PACS", host="127.0.0.1", port=self.server.server_address[1])

    def _accepted(self, event: evt.Event) -> None:
        self.calling.append(event.assoc.requestor.primitive.calling_ae_title)

    def _store(self, event: evt.Event) -> int | Dataset:
        request = event.request
        self.received.append(
            (request.AffectedSOPInstanceUID, event.context.transfer_syntax, request.DataSet.getvalue())
        )
        return self._answer(event)

    def close(self) -> None:
        """End every association and close the port."""
        self.server.shutdown()
        for assoc in self.ae.active_associations:
            assoc.abort()
            assoc.join(30)
