"""The training sets, read from `shared/data` with its splits by patient; what a network sees comes from `inference`.

The radiographs of Kermany are stored squashed to 224x224. The squash is undone with the recovered aspect ratio, so that
the centre square is a square of the patient (shared/data/README.md says why that matters).
"""

import csv
import hashlib
import io
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dicomnode.errors import ConfigError
from dicomnode.inference.preprocess import FloatArray, Step, prepare, resize

SPLITS = ("train", "val", "test")
OnLoad = Callable[[int, int], None]
"""How many images of how many are read."""


@dataclass(frozen=True)
class ImageSet:
    """Prepared images of one split: `images` (N, 1, rows, columns) float32; `floors` is what else gives the label away.

    `labels` (N,) are class numbers, `patients` the groups that belong together, `names` the files (no patient's name),
    `groups` the subgroups by name, each as (N,) booleans; `squashed` are the same images as they are stored, where
    training shows both.
    """

    images: torch.Tensor
    labels: NDArray[np.int64]
    patients: NDArray[np.str_]
    floors: dict[str, NDArray[np.float64]]
    squashed: torch.Tensor | None = None
    names: NDArray[np.str_] | None = None
    groups: dict[str, NDArray[np.bool_]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Sample:
    """One prepared image (1, rows, columns) with what an `ImageSet` keeps of it."""

    image: torch.Tensor
    label: int
    patient: str
    floors: dict[str, float] = field(default_factory=dict)
    squashed: torch.Tensor | None = None
    name: str = ""
    groups: frozenset[str] = frozenset()


def kermany(
    root: Path,
    steps: Sequence[Step],
    progress: OnLoad,
    aspect: Literal["restored", "random"] = "restored",
    splits: Sequence[str] = SPLITS,
) -> dict[str, ImageSet]:
    """Return the images of `root`/cxr by split, label 1 for pneumonia; no duplicates.

    Those of unknown aspect ratio are left out; with `aspect` "random" they are in `train`, as they are stored.
    """
    archive, index = root / "cxr/kermany224.zip", root / "cxr/kermany_index.csv"
    for needed in (archive, index):
        if not needed.is_file():
            raise ConfigError(f"{needed}: the training data is not there; name its folder with --data")
    with index.open(encoding="utf-8", newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["split"] in splits and not r["duplicate_of"]]
    both = {"train"} if aspect == "random" else set()
    rows = [r for r in rows if r["aspect_w_over_h"] or r["split"] in both]
    return collect(_kermany_images(archive, rows, steps, progress, both), [row["split"] for row in rows])


def _kermany_images(
    archive: Path, rows: Sequence[dict[str, str]], steps: Sequence[Step], progress: OnLoad, both: set[str]
) -> Iterator[Sample]:
    with zipfile.ZipFile(archive) as files:
        for number, row in enumerate(rows):
            data = files.read(row["file"])
            squashed = read_grey(data)
            aspect = float(row["aspect_w_over_h"] or 1)
            floors = {"aspect ratio": aspect, "sharpness": -sharpness(squashed), "file size": -float(len(data))}
            image = prepare(unsquash(squashed, aspect), steps)
            stored = prepare(squashed, steps) if row["split"] in both else None
            yield Sample(image, int(row["label"]), row["patient"], floors, stored, row["file"], _kermany_groups(row))
            progress(number + 1, len(rows))


def _kermany_groups(row: dict[str, str]) -> frozenset[str]:
    """Return the subgroups of an image; the normals stand against each kind of pneumonia."""
    kinds = ("bacteria", "virus") if row.get("subtype") == "normal" else (row.get("subtype"),)
    known = f"aspect ratio: {'known' if row.get('aspect_from') else 'unknown'}"
    return frozenset([known, *(f"kind: {kind} against normal" for kind in kinds if kind)])


def collect(samples: Iterable[Sample], splits: Sequence[str]) -> dict[str, ImageSet]:
    """Return the samples by split, `splits` naming that of each."""
    by_split: dict[str, list[Sample]] = {name: [] for name in SPLITS}
    for sample, split in zip(samples, splits, strict=True):
        by_split[split].append(sample)
    return {split: image_set(found) for split, found in by_split.items() if found}


def image_set(samples: Sequence[Sample]) -> ImageSet:
    """Return the samples, at least one, as a set."""
    groups = sorted({group for sample in samples for group in sample.groups})
    squashed = [s.squashed for s in samples if s.squashed is not None]
    return ImageSet(
        torch.stack([s.image for s in samples]),  # (N, 1, rows, columns)
        np.array([s.label for s in samples]),
        np.array([s.patient for s in samples]),
        {name: np.array([s.floors[name] for s in samples]) for name in samples[0].floors},
        torch.stack(squashed) if squashed else None,  # (N, 1, rows, columns)
        names=np.array([s.name for s in samples]),
        groups={group: np.array([group in s.groups for s in samples]) for group in groups},
    )


def kaggle_test(root: Path, steps: Sequence[Step]) -> ImageSet:
    """Return the 624 test images of the Kaggle edition as they are stored, squashed: what others report on."""
    with (root / "cxr/kermany_index.csv").open(encoding="utf-8", newline="") as file:
        rows = [row | {"aspect_w_over_h": "1"} for row in csv.DictReader(file) if row["kaggle_split"] == "test"]
    samples = _kermany_images(root / "cxr/kermany224.zip", rows, steps, lambda done, total: None, set())
    found = collect(samples, ["test"] * len(rows))["test"]
    return replace(found, floors={name: values for name, values in found.floors.items() if name != "aspect ratio"})


def pneumonia_mnist_test(root: Path, steps: Sequence[Step]) -> ImageSet:
    """Return the official PneumoniaMNIST test set, 28x28 enlarged; patients are not known, each image is its own."""
    with np.load(root / "cxr/pneumoniamnist28_rebuilt.npz", allow_pickle=False) as arrays:
        images, labels = arrays["test_images"], arrays["test_labels"].ravel().astype(np.int64)
    prepared = torch.stack([prepare(image.astype(np.float32) / 255, steps) for image in images])
    return ImageSet(prepared, labels, np.arange(len(labels)).astype(np.str_), {})


def wrong_inputs(root: Path, steps: Sequence[Step]) -> dict[str, torch.Tensor]:
    """Return images of other kinds by name (and `CXR`, adult chest radiographs), each (N, 1, rows, columns)."""
    file = root / "wrong-input/mednist64_300each.npz"
    if not file.is_file():
        raise ConfigError(f"{file}: the wrong inputs are not there; name their folder with --data")
    with np.load(file, allow_pickle=False) as arrays:
        images, labels, classes = arrays["images"], arrays["labels"], arrays["classes"]
    return {
        str(name): torch.stack([prepare(image.astype(np.float32) / 255, steps) for image in images[labels == number]])
        for number, name in enumerate(classes)
    }


def read_grey(data: bytes) -> FloatArray:
    """Return an encoded picture as grey values in 0..1, (rows, columns)."""
    with Image.open(io.BytesIO(data)) as image:
        if image.mode.startswith("I"):  # 16 bits a pixel
            return np.asarray(image, dtype=np.float32) / np.float32(65535)
        return np.asarray(image.convert("L"), dtype=np.float32) / np.float32(255)


def unsquash(image: FloatArray, aspect: float) -> FloatArray:
    """Return a squashed square with its width over height restored to `aspect`; no side shrinks."""
    side = image.shape[0]
    rows, columns = (side, round(side * aspect)) if aspect >= 1 else (round(side / aspect), side)
    return resize(image, rows, columns)


def sharpness(image: FloatArray) -> float:
    """Return the mean square of the Laplacian: a shortcut that gives the label away at AUC 0.8."""
    laplacian = 4 * image[1:-1, 1:-1] - image[:-2, 1:-1] - image[2:, 1:-1] - image[1:-1, :-2] - image[1:-1, 2:]
    return float(np.mean(np.square(laplacian)))


def digest(root: Path, names: Sequence[str]) -> str:
    """Return the SHA-256 over the files `names` under `root`: which data a network was trained on."""
    total = hashlib.sha256()
    for name in names:
        with (root / name).open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
