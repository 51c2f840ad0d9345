import json

import pytest

from dicomnode import log as logs


@pytest.fixture
def lines(capsys):
    logs.configure(level="INFO", as_json=True)
    return lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_patient_keys_never_reach_a_line(lines):
    logs.get_logger("dicomnode.x").info("received", patient_name="MARKED^NAME", PatientID="MARKED-ID", version=3)
    (line,) = lines()
    assert "MARKED" not in json.dumps(line)
    assert line["version"] == 3


def test_peer_text_cannot_forge_a_line(lines):
    logs.get_logger("dicomnode.x").info("rejected", calling_ae_title="A\n2026 ERROR all lost\x1b[31m" + "x" * 5000)
    (line,) = lines()
    assert "\n" not in line["calling_ae_title"]
    assert "\x1b" not in line["calling_ae_title"]
    assert len(line["calling_ae_title"]) < 600
