"""Who may open an association and what it may do there: the allow-list, without a socket.

Standard: PS3.8 section 7.1.1.9 and table 9-21 (reasons of A-ASSOCIATE-RJ).
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from dicomnode.config import PeerSettings


@dataclass(frozen=True, slots=True)
class Admission:
    """A peer that may open an association; `name` is its key in the settings, empty for one that is not listed."""

    name: str
    may_store: bool


@dataclass(frozen=True, slots=True)
class Rejection:
    """A peer that was turned away, in whole or with its C-STOREs, and the setting that would let it in.

    All texts are short and printable ASCII, whatever the peer sent.
    """

    calling_ae_title: str
    called_ae_title: str
    calling_address: str
    reason: str
    setting: str


def admission(
    peers: Mapping[str, PeerSettings], calling_ae_title: str, calling_address: str, *, accept_unknown: bool
) -> Admission | None:
    """Return what a caller may do, None if it is not on the list.

    AE titles are compared without leading and trailing spaces. A listed AE title that calls from an address outside its
    networks is not let in by `accept_unknown` either. Of peers with the same AE title, those that may store go first.
    """
    title = calling_ae_title.strip()
    listed = {name: peer for name, peer in peers.items() if peer.ae_title.strip() == title}
    if not listed:
        return Admission("", may_store=True) if accept_unknown else None
    fitting = [(name, peer) for name, peer in listed.items() if _is_within(calling_address, peer.addresses)]
    for name, peer in sorted(fitting, key=lambda pair: not pair[1].sends):
        return Admission(name, may_store=peer.sends)
    return None


def rejection(
    peers: Mapping[str, PeerSettings], calling_ae_title: str, called_ae_title: str, calling_address: str
) -> Rejection:
    """Return why `admission` was None, and the setting to change."""
    title, address = printable(calling_ae_title.strip()), printable(calling_address)
    names = [name for name, peer in peers.items() if peer.ae_title.strip() == calling_ae_title.strip()]
    if names:
        reason = f"AE title {title} is known, but not from {address}"
        setting = f'[peers.{names[0]}] addresses = [..., "{address}"]'
    else:
        reason = f"AE title {title} is unknown"
        setting = f'[peers.NAME] ae_title = "{title}", sends = true'
    return Rejection(title, printable(called_ae_title.strip()), address, reason, setting)


def printable(text: str, max_length: int = 64) -> str:
    """Return `text` as short printable ASCII: everything else becomes `?`."""
    return "".join(char if " " <= char <= "~" else "?" for char in text[:max_length])


def _is_within(address: str, networks: tuple[str, ...]) -> bool:
    if not networks:
        return True
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    return any(parsed in ipaddress.ip_network(network, strict=False) for network in networks)
