"""What the demo needs of a PACS: `DemoPACS` is one, `Orthanc` another."""

import socket
from collections.abc import Sequence
from typing import Protocol

from dicomnode.demo.pacs import Accepted

LOOPBACK = "127.0.0.1"


class Archive(Protocol):
    """A PACS that is started, taken away, brought back, and asked what it holds."""

    ae_title: str
    host: str
    port: int

    def start(self) -> None:
        """Answer; what was stored before is still there."""

    def stop(self) -> None:
        """Answer no more."""

    def close(self) -> None:
        """Stop for good."""

    @property
    def accepted(self) -> Sequence[Accepted]:
        """What it holds; while it is away, what it held when it was last asked."""


class ReservedPort:
    """A free port of loopback that stays ours until `close`; a server that sets SO_REUSEADDR can take it over."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((LOOPBACK, 0))
        self.number: int = self._socket.getsockname()[1]

    def close(self) -> None:
        """Give the port away."""
        self._socket.close()
