"""Readers of training data: IDX files, a site's own folder."""

import csv
import gzip
import hashlib
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dicomnode.errors import ConfigError
from dicomnode.inference.manifest import Preprocessing
from dicomnode.inference.preprocess import Resize
from dicomnode.training import folder, mnist
from dicomnode.training.sets import folder_digest

STEPS = (Resize(step="resize", rows=28, columns=28),)
HOW = Preprocessing(steps=STEPS)


def nothing(_done: int, _total: int) -> None:
    pass


def idx(values: NDArray[np.uint8]) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


@pytest.fixture
def digits(tmp_path: Path) -> dict[str, str]:
    """Four small IDX files in `tmp_path`; their names and MD5."""
    rng = np.random.default_rng(1)
    (tmp_path / "mnist").mkdir()
    published = {}
    for name, count in zip(mnist.FILES, (24, 24, 6, 6), strict=True):
        values = rng.integers(0, 256, (count, 28, 28)) if "images" in name else np.arange(count) % 10
        data = gzip.compress(idx(values.astype(np.uint8)))
        (tmp_path / name).write_bytes(data)
        published[name] = hashlib.md5(data, usedforsecurity=False).hexdigest()
    return published


def test_digits_are_split_by_a_fixed_seed(tmp_path: Path, digits: dict[str, str]) -> None:
    first, second = (mnist.mnist(tmp_path, STEPS, nothing, digits) for _ in range(2))
    assert {split: len(images) for split, images in first.items()} == {"train": 22, "val": 2, "test": 6}
    assert first["val"].patients.tolist() == second["val"].patients.tolist()
    patients = [name for images in first.values() for name in images.patients]
    assert len(set(patients)) == 30


def test_digits_of_other_bytes_are_refused(tmp_path: Path, digits: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="the published file has f68b3c2dcbeaaa9fbdd348bbdeb94873"):
        mnist.mnist(tmp_path, STEPS, nothing)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is no IDX file"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x01\x00\x00\x00\x00", "is no IDX file"),
        (b"\x00\x00\x08\x03\x00\x00\x00\x01", "is no IDX file"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x05abc", "holds 3 values"),
    ],
)
def test_what_is_no_idx_file_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"labels: {reason}"):
        mnist.idx(data, "labels")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Forty pictures of each of two classes, some in a folder below."""
    root = tmp_path / "own"
    for name, value in (("dark", 20), ("light", 200)):
        (root / name / "below").mkdir(parents=True)
        for n in range(40):
            file = root / name / ("below" if n % 2 else ".") / f"{n}.png"
            Image.fromarray(np.full((30, 40), value + n % 5, np.uint8)).save(file)
    return root


def write_list(root: Path, rows: list[dict[str, str]]) -> None:
    with (root / "patients.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ("file", "patient", "split"))
        writer.writeheader()
        writer.writerows(rows)


def test_a_folder_a_class_is_read_and_split_by_hash(own: Path) -> None:
    sets = folder.folder(own, HOW, nothing)
    assert folder.class_names(own) == ("dark", "light")
    assert sum(map(len, sets.values())) == 80
    assert len(sets["train"]) > len(sets["val"]) > 0
    for images in sets.values():
        bright = images.images.mean((1, 2, 3)).numpy() > 0.4
        assert bright.tolist() == (images.labels == 1).tolist()


def test_patients_stay_together_and_a_named_split_is_kept(own: Path) -> None:
    names = [f.relative_to(own).as_posix() for f in sorted(own.rglob("*.png"))]
    splits = {0: "train", 1: "val", 2: "test"}
    write_list(own, [{"file": f, "patient": f"p{n % 3}", "split": splits[n % 3]} for n, f in enumerate(names)])
    sets = folder.folder(own, HOW, nothing)
    assert {split: set(images.patients) for split, images in sets.items()} == {
        "train": {"p0"},
        "val": {"p1"},
        "test": {"p2"},
    }


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"file": "dark/nowhere.png", "patient": "p", "split": ""}, "there is no image 'dark/nowhere.png'"),
        ({"file": "dark/0.png", "patient": "p", "split": "dev"}, "split is 'dev', not one of train, val, test"),
    ],
)
def test_a_wrong_list_is_refused_with_the_row(own: Path, row: dict[str, str], reason: str) -> None:
    write_list(own, [row])
    with pytest.raises(ConfigError, match=reason):
        folder.folder(own, HOW, nothing)


def test_a_patient_in_two_splits_is_refused_without_its_name(own: Path) -> None:
    rows = [{"file": f"dark/{n}.png", "patient": "Doe", "split": s} for n, s in ((0, "train"), (2, "test"))]
    write_list(own, rows)
    with pytest.raises(ConfigError, match="a patient is in both 'train' and 'test'") as refused:
        folder.folder(own, HOW, nothing)
    assert "Doe" not in str(refused.value)


def test_images_of_a_dicom_patient_stay_together(own: Path, radiograph: Callable[..., Path]) -> None:
    for n in range(6):
        written = radiograph(f"shot{n}", PatientID="one patient")
        written.rename(own / "dark" / written.name)
    sets = folder.folder(own, HOW, nothing)
    assert [split for split, images in sets.items() if "one patient" in images.patients].__len__() == 1
    assert sum((images.patients == "one patient").sum() for images in sets.values()) == 6


def test_a_file_that_is_no_image_is_named(own: Path) -> None:
    (own / "dark/broken.png").write_text("no image")
    with pytest.raises(ConfigError, match=r"broken\.png: cannot be read as an image"):
        folder.folder(own, HOW, nothing)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected is a folder a class"):
        folder.class_names(tmp_path)


def test_a_split_that_gets_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "dark").mkdir()
    Image.fromarray(np.zeros((30, 30), np.uint8)).save(tmp_path / "dark/one.png")
    with pytest.raises(ConfigError, match="no image falls into"):
        folder.folder(tmp_path, HOW, nothing)


def test_a_file_moved_to_another_class_is_other_data(own: Path) -> None:
    before = folder_digest(own)
    (own / "dark/0.png").rename(own / "light/zero.png")
    assert folder_digest(own) != before


def test_sixteen_bits_keep_their_range(own: Path) -> None:
    ramp = np.linspace(0, 65535, 900).astype(np.uint16).reshape(30, 30)
    Image.fromarray(ramp).save(own / "dark/deep.png")
    pixels = folder.read_grey((own / "dark/deep.png").read_bytes())
    assert pixels.max() == 1
    assert np.unique(pixels).size == 900
