"""A TCP line to a peer that fails on demand: closed, slow, or cut in the middle of what is sent."""

import random
import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

CHUNK_BYTES = 4096


class FaultyLine:
    """Listens on `port` of 127.0.0.1 and passes everything on to the peer, with the faults that are set.

    Faults hold for bytes and connections from the moment they are set. Thread-safe; use it as a context manager.
    """

    def __init__(self, host: str, port: int) -> None:
        self._peer = (host, port)
        self._is_down = False
        self._delay_s = 0.0
        self._cut_after: int | None = None
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._cut_all()

    def down(self) -> None:
        """Cut every connection, and each new one at once."""
        self._is_down = True
        self._cut_all()

    def slow(self, seconds: float) -> None:
        """Hold each piece of at most 4096 bytes back for so long."""
        self._delay_s = seconds

    def cut_after(self, size_bytes: int) -> None:
        """Cut one connection, once, when so many bytes more have gone to the peer."""
        with self._lock:
            self._cut_after = size_bytes

    def clear(self) -> None:
        """End all faults."""
        with self._lock:
            self._is_down, self._delay_s, self._cut_after = False, 0.0, None

    def _serve(self) -> None:
        while True:
            try:
                caller, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(caller,), daemon=True).start()

    def _connect(self, caller: socket.socket) -> None:
        if self._is_down:
            caller.close()
            return
        try:
            peer = socket.create_connection(self._peer, 5)
        except OSError:
            caller.close()
            return
        peer.settimeout(None)
        for line in (caller, peer):
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._open |= {caller, peer}
        back = threading.Thread(target=self._pass, args=(peer, caller, False), daemon=True)
        back.start()
        self._pass(caller, peer, True)
        back.join()
        with self._lock:
            self._open -= {caller, peer}
        caller.close()
        peer.close()

    def _pass(self, source: socket.socket, target: socket.socket, is_request: bool) -> None:
        try:
            while data := source.recv(CHUNK_BYTES):
                if self._delay_s:
                    threading.Event().wait(self._delay_s)
                if is_request and self._is_cut_here(len(data)):
                    target.sendall(data[: random.randrange(len(data))])
                    break
                target.sendall(data)
        except OSError:
            pass
        for line in (source, target):
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def _is_cut_here(self, size_bytes: int) -> bool:
        with self._lock:
            if self._cut_after is None:
                return False
            self._cut_after -= size_bytes
            if self._cut_after > 0:
                return False
            self._cut_after = None
            return True

    def _cut_all(self) -> None:
        with self._lock:
            lines = list(self._open)
        for line in lines:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
