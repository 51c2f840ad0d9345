import pytest

from dicomnode.config import PeerSettings
from dicomnode.network.access import Admission, admission, printable, rejection

PEERS = {
    "ct": PeerSettings(ae_title="CT1", sends=True, addresses=("10.1.0.0/16", "fd00::/8")),
    "pacs": PeerSettings(ae_title="PACS"),
    "anywhere": PeerSettings(ae_title="MOBILE", sends=True),
    "old": PeerSettings(ae_title="TWICE"),
    "new": PeerSettings(ae_title="TWICE", sends=True, addresses=("10.2.0.1",)),
}
CALLS = {
    "its network": ("CT1", "10.1.2.3", False, Admission("ct", may_store=True)),
    "IPv4 in IPv6": ("CT1", "::ffff:10.1.2.3", False, Admission("ct", may_store=True)),
    "IPv6": ("CT1", "fd00::1%eth0", False, Admission("ct", may_store=True)),
    "another network": ("CT1", "10.2.0.1", False, None),
    "another network, unknown ones accepted": ("CT1", "10.2.0.1", True, None),
    "no address": ("CT1", "", False, None),
    "padded": (" CT1 ", "10.1.0.1", False, Admission("ct", may_store=True)),
    "another case": ("ct1", "10.1.0.1", False, None),
    "a destination": ("PACS", "192.0.2.1", False, Admission("pacs", may_store=False)),
    "any address": ("MOBILE", "192.0.2.1", False, Admission("anywhere", may_store=True)),
    "listed twice": ("TWICE", "10.2.0.1", False, Admission("new", may_store=True)),
    "listed twice, from elsewhere": ("TWICE", "10.2.0.2", False, Admission("old", may_store=False)),
    "unknown": ("NOBODY", "10.1.2.3", False, None),
    "unknown ones accepted": ("NOBODY", "10.1.2.3", True, Admission("", may_store=True)),
}


@pytest.mark.parametrize(("title", "address", "accept_unknown", "expected"), CALLS.values(), ids=CALLS.keys())
def test_the_list_decides(title, address, accept_unknown, expected):
    assert admission(PEERS, title, address, accept_unknown=accept_unknown) == expected


def test_a_rejection_names_the_setting():
    assert rejection(PEERS, "NOBODY", "ME", "10.0.0.1").setting == '[peers.NAME] ae_title = "NOBODY", sends = true'
    assert rejection(PEERS, "CT1", "ME", "10.9.0.1").setting == '[peers.ct] addresses = [..., "10.9.0.1"]'


def test_what_a_peer_sends_is_shortened_and_made_printable():
    assert printable("A\n\x1b[31mB\u202e" + "x" * 1000) == "A??[31mB?" + "x" * 55
