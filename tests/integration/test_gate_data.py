"""The committed anomaly bundle against real wrong inputs, from the DICOM file to the flag. Bounds are below what was
measured with more images (docs/gate.md), because of the few that a test can afford.
"""

from pathlib import Path

import pytest

from dicomnode.inference import bundle as bundles
from dicomnode.inference.bundle import Bundle
from tests.benchmarks.gate import blanks, changed, flags, forced_flags, genuine, mednist

pytestmark = pytest.mark.data
IMAGES = 20


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return bundles.load(bundles.builtin_directory() / "chest_xray_anomaly", threads=1)


def share(found: list[bool]) -> float:
    return sum(found) / len(found)


def test_genuine_chests_are_seldom_flagged(bundle: Bundle, shared_data: Path, tmp_path: Path) -> None:
    assert share(flags(bundle, genuine(3 * IMAGES, shared_data), tmp_path)) <= 0.1


@pytest.mark.parametrize(
    ("change", "bound"), [("rotated 90", 0.95), ("rotated 180", 0.9), ("inverted", 0.95), ("heavy crop", 0.7)]
)
def test_changed_chests_are_flagged(
    bundle: Bundle, shared_data: Path, tmp_path: Path, change: str, bound: float
) -> None:
    assert share(flags(bundle, changed(change, IMAGES, shared_data), tmp_path)) >= bound


@pytest.mark.parametrize("kind", ["AbdomenCT", "BreastMRI", "ChestCT", "Hand", "HeadCT"])
def test_other_parts_and_machines_are_flagged(bundle: Bundle, shared_data: Path, tmp_path: Path, kind: str) -> None:
    assert share(flags(bundle, mednist(kind, IMAGES, shared_data), tmp_path)) >= 0.9


def test_blank_images_are_flagged(bundle: Bundle, tmp_path: Path) -> None:
    assert all(flags(bundle, blanks(), tmp_path))


def test_public_tomographs_forced_past_the_selection_are_flagged(bundle: Bundle, shared_data: Path) -> None:
    found = forced_flags(bundle, "NM", shared_data) + forced_flags(bundle, "PT", shared_data)
    assert found
    assert share(found) >= 0.7
