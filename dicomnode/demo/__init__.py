"""The hospital simulator behind `dicomnode demo`."""

import socket

from pynetdicom import _config, evt

_config.LOG_HANDLER_LEVEL = "none"  # its log lines hold patient data

ACSE_TIMEOUT_S = 5.0  # a connection that never asks for an association holds a thread for so long
JOIN_TIMEOUT_S = 2 * ACSE_TIMEOUT_S


def line_of(event: evt.Event) -> socket.socket:
    """Return the TCP connection of an association; raise `ConnectionError` if it is closed already."""
    wrapper = event.assoc.dul.socket
    if wrapper is None or wrapper.socket is None:
        raise ConnectionError("the connection is closed")
    return wrapper.socket


def no_delay(event: evt.Event) -> None:
    """Send small PDUs at once: Nagle's algorithm costs 40 ms an object (a handler of EVT_CONN_OPEN)."""
    line_of(event).setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
