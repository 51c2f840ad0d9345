import os

import pytest

from dicomnode import config
from dicomnode.cli.template import TEMPLATE
from dicomnode.errors import ConfigError


@pytest.fixture
def load(tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.startswith("DICOMNODE_") and not name.startswith("DICOMNODE_TEST_"):
            monkeypatch.delenv(name)

    def load_text(text):
        file = tmp_path / "dicomnode.toml"
        file.write_text(text)
        return config.load(file)

    return load_text


CASES = {
    "key": ("[receiver]\nprot = 5", r"dicomnode.toml: \[receiver\] prot: there is no such key; did you mean 'port'\?"),
    "table": ("[reciever]\nport = 5", r"dicomnode.toml: reciever: there is no such table; did you mean 'receiver'\?"),
    "nested": ('[peers.ct]\nae_title = "CT"\nsnds = true', r"\[peers.ct\] snds: .*did you mean 'sends'\?"),
    "range": ("[receiver]\nport = 70000", r"\[receiver\] port = 70000: .*less than or equal to 65535"),
    "missing": ("[peers.ct]\nsends = true", r"\[peers.ct\] ae_title: is missing"),
    "long AE title": ('[node]\nae_title = "SEVENTEEN_LETTERS"', r"\[node\] ae_title = 'SEVENTEEN_LETTERS': .*16"),
    "network": ('[peers.ct]\nae_title = "CT"\naddresses = ["10.1.2"]', r"\[peers.ct\] addresses = .*10.1.2"),
    "route key": (
        '[peers.pacs]\nae_title = "P"\n[[routes]]\ndestinations = ["pacs"]\nprioity = "urgent"',
        r"\[routes.0\] prioity: .*did you mean 'priority'",
    ),
    "route to nobody": (
        '[peers.pacs]\nae_title = "P"\n[[routes]]\ndestinations = ["pasc"]',
        r"\[\[routes\]\] number 1, destinations: there is no \[peers.pasc\]; did you mean 'pacs'",
    ),
    "route nowhere": ("[[routes]]\ndestinations = []", r"\[routes.0\] destinations = .*at least 1"),
    "password in a web address": (
        '[peers.web]\nae_title = "W"\nstow_url = "https://me:secret@host/dicom-web"',
        r"\[peers.web\] stow_url",
    ),
    "commitment over the web": (
        '[peers.web]\nae_title = "W"\nstow_url = "https://host/dicom-web"\ncommitment = true',
        r"commitment.*C-STORE",
    ),
    "syntax": ("[receiver\nport = 5", r"dicomnode.toml: not valid TOML"),
}


@pytest.mark.parametrize(("text", "message"), CASES.values(), ids=CASES)
def test_a_wrong_setting_is_named_with_file_table_and_key(load, text, message):
    with pytest.raises(ConfigError, match=message):
        load(text)


@pytest.mark.parametrize("rest", ["", "\ncommitment = true"], ids=["alone", "beside another mistake"])
def test_password_of_a_wrong_web_address_is_not_printed(load, rest):
    with pytest.raises(ConfigError, match=r"stow_url: .*must look like") as caught:
        load(f'[peers.web]\nae_title = "W"\nstow_url = "https://me:secret@host/dicom-web"{rest}')
    assert "secret" not in str(caught.value)


def test_environment_goes_before_the_file(load, monkeypatch):
    monkeypatch.setenv("DICOMNODE_RECEIVER__PORT", "104")
    assert load("[receiver]\nport = 11112\nmax_associations = 7").receiver.port == 104
    assert load("[receiver]\nmax_associations = 7").receiver.max_associations == 7


def test_a_misspelt_variable_is_refused(load, monkeypatch):
    monkeypatch.setenv("DICOMNODE_RECIEVER__PORT", "104")
    with pytest.raises(ConfigError, match=r"DICOMNODE_RECIEVER__PORT: .*did you mean 'receiver'"):
        load("")


def test_a_misspelt_key_in_a_variable_is_refused(load, monkeypatch):
    monkeypatch.setenv("DICOMNODE_RECEIVER__PROT", "104")
    with pytest.raises(ConfigError, match=r"DICOMNODE_RECEIVER__PROT.*did you mean 'port'"):
        load("")


def test_data_folder_counts_from_the_file(load, tmp_path):
    settings = load('[node]\ndata_dir = "here"')
    assert settings.node.data_dir == tmp_path / "here"
    assert settings.database_url == f"sqlite:///{tmp_path}/here/dicomnode.sqlite"


def test_quiet_period_of_a_source_goes_before_the_general_one(load):
    settings = load('[peers.ct]\nae_title = "CT"\nquiet_period_s = 5\n[study]\nquiet_period_s = 20')
    assert settings.quiet_period_s("CT") == 5
    assert settings.quiet_period_s("MR") == 20


def test_a_file_that_is_named_must_be_there(tmp_path):
    with pytest.raises(ConfigError, match="there is no such file"):
        config.load(tmp_path / "none.toml")


def test_settings_are_frozen(load):
    with pytest.raises(Exception, match="frozen"):
        load("").receiver.port = 1


def test_template_is_valid_as_it_is_and_with_every_line_switched_on(load):
    load(TEMPLATE)
    lines = (line.removeprefix("# ") for line in TEMPLATE.splitlines())
    switched = "\n".join(line for line in lines if line.startswith("[") or " = " in line)
    settings = load(switched)
    assert settings.peers["pacs"].destination
    assert settings.receiver == config.ReceiverSettings()
    assert settings.study == config.StudySettings()
    assert settings.delivery == config.DeliverySettings()
    assert settings.models == config.ModelSettings()
    assert settings.log == config.LogSettings()
