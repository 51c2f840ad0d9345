"""A missing peer skips with its name, and fails where peers are required."""

import pytest

from tests.needs import MissingData, MissingPeer, must_fail, require


@pytest.mark.parametrize(
    ("skip", "marks", "required", "ci", "fails"),
    [
        (MissingPeer("x"), set(), "1", "", True),
        (MissingPeer("x"), set(), "", "true", False),
        (pytest.skip.Exception("x"), {"dcmtk"}, "1", "", True),
        (pytest.skip.Exception("x"), {"judge"}, "1", "", True),
        (pytest.skip.Exception("x"), {"slow"}, "1", "true", False),
        (MissingData("x"), set(), "1", "", False),
        (MissingData("x"), set(), "1", "true", True),
        (MissingData("x"), {"judge"}, "1", "", False),
        (pytest.skip.Exception("x"), {"data"}, "1", "", False),
        (pytest.skip.Exception("x"), {"data"}, "1", "true", True),
        (MissingPeer("x"), {"data"}, "1", "", True),
    ],
)
def test_when_a_skip_must_fail(
    skip: BaseException, marks: set[str], required: str, ci: str, fails: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DICOMNODE_TEST_REQUIRE_PEERS", required)
    monkeypatch.setenv("CI", ci)
    assert must_fail(skip, marks) is fails


def test_require_names_the_program_and_the_remedy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingPeer, match=r"storescu \(DCMTK\) is not installed: make peers"):
        require("storescu")
