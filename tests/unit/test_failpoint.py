"""Fail points: inert unless armed; the list, the call sites and the documentation are the same."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dicomnode import failpoint
from dicomnode.errors import ConfigError

ROOT = Path(failpoint.__file__).parent


@pytest.fixture(autouse=True)
def disarmed():
    yield
    failpoint.arm("")


def run(armed, passages):
    code = f"from dicomnode import failpoint as f; f.arm({armed!r})"
    code += f"; [f.failpoint('spool.named') for _ in range({passages})]"
    return subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode


@pytest.mark.parametrize(("passages", "code"), [(1, 0), (2, -signal.SIGKILL)])
def test_process_dies_at_the_passage_that_is_named(passages, code):
    assert run("spool.named:2", passages) == code


def test_nothing_happens_at_other_points():
    failpoint.arm("spool.named:1")
    failpoint.failpoint("spool.written")


@pytest.mark.parametrize("text", ["spool.nmaed:1", "spool.named", "spool.named:0", "spool.named:x", "spool.named:1:go"])
def test_wrong_setting_is_refused_with_the_names(text):
    with pytest.raises(ConfigError, match=r"spool\.named"):
        failpoint.arm(text)


def test_every_name_has_one_place_and_every_place_a_name():
    calls = [name for file in ROOT.rglob("*.py") for name in re.findall(r'failpoint\(\s*"([^"]+)"', file.read_text())]
    assert set(calls) == set(failpoint.NAMES)
    assert len(calls) >= 30


def test_documentation_lists_the_points():
    text = (ROOT.parent / "docs/reliability.md").read_text()
    assert re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \|", text, re.MULTILINE) == list(failpoint.NAMES)
