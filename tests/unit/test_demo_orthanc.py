"""Orthanc where there is none."""

import pytest

from dicomnode.demo import orthanc
from dicomnode.errors import ConfigError


def test_a_missing_orthanc_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(orthanc, "ADMIN_FOLDERS", str(tmp_path))
    with pytest.raises(ConfigError, match="Orthanc is not installed: apt-get install orthanc, or make peers"):
        orthanc.Orthanc(tmp_path / "pacs")
    assert not (tmp_path / "pacs").exists()
