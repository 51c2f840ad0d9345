"""What `dicomnode rules test` says is what the node does; the bundles are our own."""

import json

import pytest
from typer.testing import CliRunner

from dicomnode.cli.app import app
from dicomnode.config import PeerSettings, ReceiverSettings, RouteSettings, Settings
from dicomnode.errors import UnreadableObject
from dicomnode.flow.rules import examine
from tests.hospital import chest, ct

PEERS = {
    "xray": PeerSettings(ae_title="XRAY", sends=True, quiet_period_s=60, addresses=("10.0.0.0/8",)),
    "viewer": PeerSettings(ae_title="VIEWER"),
    "pacs": PeerSettings(ae_title="PACS", host="10.1.0.5", port=104, destination=True),
    "ris": PeerSettings(ae_title="RIS", host="10.1.0.6", port=104, destination=True, summary=False),
}
SETTINGS = Settings(peers=PEERS)


def saved(ds, folder):
    ds.save_as(folder / "file.dcm", enforce_file_format=True)
    return folder / "file.dcm"


def asked(file, settings=SETTINGS, sender="XRAY", address="10.0.0.1"):
    return {r.question: (r.goes_on, r.why) for r in examine(file, settings, sender, address)}


def test_chest_image_runs_on_both_bundles_and_goes_where_the_peers_say(tmp_path):
    rulings = asked(saved(chest(), tmp_path))
    assert all(goes_on for goes_on, _ in rulings.values())
    assert rulings["may XRAY store here"] == (True, "[peers.xray]")
    assert rulings["when is it analyzed"][1] == "60 s after the last image of the study"
    assert "does chest_xray_pneumonia look at it" in rulings
    pacs, ris = rulings["where do results go"][1].split("; ")
    assert pacs.endswith("pacs (PACS) gets measurement_report, summary_image")
    assert ris == "ris (RIS) gets measurement_report"


def test_each_route_says_when_results_go_by_it(tmp_path):
    routes = (
        RouteSettings(modality=("CT",), destinations=("pacs",)),
        RouteSettings(finding=("Pneumonia",), destinations=("ris",)),
        RouteSettings(destinations=("pacs",)),
    )
    rulings = asked(saved(chest(), tmp_path), Settings(peers=PEERS, routes=routes))
    assert rulings["do results go by route 1"] == (False, "the modality is DX, not CT")
    assert rulings["do results go by route 2"][1].startswith("only if Pneumonia is suspected: ris (RIS) gets ")
    assert rulings["do results go by route 3"][1].startswith("it matches every study: pacs (PACS) gets ")


def test_ct_is_refused_by_each_bundle_with_its_reason(tmp_path):
    (image,) = ct()
    rulings = asked(saved(image, tmp_path))
    assert rulings["does chest_xray_anomaly look at it"] == (False, "modality CT, not CR or DX")
    assert rulings["where do results go"][0] is False


@pytest.mark.parametrize(
    ("sender", "address", "why"),
    [
        ("STRANGER", "10.0.0.1", "AE title STRANGER is unknown; [peers.NAME]"),
        ("XRAY", "192.168.0.1", "AE title XRAY is known, but not from 192.168.0.1; [peers.xray] addresses"),
        ("VIEWER", "10.0.0.1", "[peers.viewer] has no sends = true"),
    ],
)
def test_sender_that_may_not_store_is_told_the_setting(tmp_path, sender, address, why):
    rulings = asked(saved(chest(), tmp_path), sender=sender, address=address)
    goes_on, said = rulings[f"may {sender} store here"]
    assert not goes_on
    assert said.startswith(why)
    assert len(rulings) == 3


def test_command_takes_the_first_sender_and_an_address_that_may(tmp_path):
    file = saved(chest(), tmp_path)
    (tmp_path / "dicomnode.toml").write_text('[peers.x]\nae_title = "XRAY"\nsends = true\naddresses = ["10.0.0.0/8"]\n')
    command = ["rules", "test", str(file), "--json", "-c", str(tmp_path / "dicomnode.toml")]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    answers = {row["question"]: row["answer"] for row in json.loads(result.stdout)}
    assert answers["may XRAY store here"] == "yes"
    assert answers["where do results go"] == "no"


def test_unknown_peer_may_store_where_the_settings_say_so(tmp_path):
    settings = Settings(peers=PEERS, receiver=ReceiverSettings(accept_unknown_peers=True))
    assert asked(saved(chest(), tmp_path), settings, "STRANGER")["may STRANGER store here"][0]


def test_file_that_is_cut_or_no_dicom_is_refused_as_the_receiver_would(tmp_path):
    file = saved(chest(), tmp_path)
    whole = file.read_bytes()
    for content in (whole[:-7], b"no DICOM at all"):
        file.write_bytes(content)
        with pytest.raises(UnreadableObject):
            asked(file)
