"""A site's own images: a folder a class, PNG, JPEG or DICOM, in as many folders below as you like.

`patients.csv` beside the classes may name patient and split of each file (columns file, patient, split; split may be
left empty). Where it does not, a DICOM file's Patient ID groups its images, any other image is its own patient, and a
hash of the patient decides the split: 70 % train, 15 % val, 15 % test. No patient falls into two splits.
"""

import csv
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from PIL import UnidentifiedImageError

from dicomnode.config import AnalysisSettings
from dicomnode.errors import ConfigError, UnreadableImage, UnsuitableInput
from dicomnode.inference.decode import decode
from dicomnode.inference.manifest import Preprocessing
from dicomnode.inference.preprocess import FloatArray, prepare
from dicomnode.training.data import SPLITS, ImageSet, OnLoad, Sample, collect, read_grey

PICTURES = {".png", ".jpg", ".jpeg"}
DICOM = {".dcm"}
LIST_NAME = "patients.csv"
SHARES = {"train": 70, "val": 85, "test": 100}
"""Up to which hundredth of the hash a patient falls into a split."""


@dataclass(frozen=True)
class _Listed:
    patient: str
    split: str


def class_names(root: Path) -> tuple[str, ...]:
    """Return the names of the folders in `root` that hold an image, in order: label 0, 1, ..."""
    if not root.is_dir():
        raise ConfigError(f"{root}: the folder of images is not there; name it with --data")
    names = tuple(sorted(p.name for p in root.iterdir() if p.is_dir() and next(_images(p), None)))
    if not names:
        raise ConfigError(f"{root}: holds no image; expected is a folder a class with .png, .jpg or .dcm files")
    return names


def folder(root: Path, how: Preprocessing, progress: OnLoad) -> dict[str, ImageSet]:
    """Return the images of `root` by split; raise `ConfigError` that names a file that is no image."""
    names, listed = class_names(root), _listed(root)
    found = [(file, label) for label, name in enumerate(names) for file in sorted(_images(root / name))]
    unknown = sorted(listed.keys() - {file.relative_to(root).as_posix() for file, _ in found})
    if unknown:
        raise ConfigError(f"{root / LIST_NAME}: there is no image {unknown[0]!r}")
    samples = list(_samples(root, found, listed, how, progress))
    splits = [_split(root, file, listed, sample.patient) for (file, _), sample in zip(found, samples, strict=True)]
    _check(root, splits, samples)
    return collect(samples, splits)


def _images(folder: Path) -> Iterator[Path]:
    return (p for p in folder.rglob("*") if p.suffix.lower() in PICTURES | DICOM and p.is_file())


def _listed(root: Path) -> dict[str, _Listed]:
    file = root / LIST_NAME
    if not file.is_file():
        return {}
    with file.open(encoding="utf-8-sig", newline="") as opened:
        reader = csv.DictReader(opened)
        if not {"file", "patient"} <= set(reader.fieldnames or ()):
            raise ConfigError(f"{file}: needs the columns file and patient (and may have split)")
        rows = {row["file"]: _Listed(row["patient"], row.get("split") or "") for row in reader}
    for name, row in rows.items():
        if row.split and row.split not in SPLITS:
            raise ConfigError(f"{file}: {name}: split is {row.split!r}, not one of {', '.join(SPLITS)}")
    return rows


def _samples(
    root: Path, files: Sequence[tuple[Path, int]], listed: dict[str, _Listed], how: Preprocessing, progress: OnLoad
) -> Iterator[Sample]:
    for number, (file, label) in enumerate(files):
        name = file.relative_to(root).as_posix()
        patient = listed[name].patient if name in listed else _patient(file, name)
        yield Sample(prepare(_pixels(file, how), how.steps), label, patient)
        progress(number + 1, len(files))


def _pixels(file: Path, how: Preprocessing) -> FloatArray:
    try:
        if file.suffix.lower() in DICOM:
            return decode(file, how.voi, AnalysisSettings().max_image_pixels)
        return read_grey(file.read_bytes())
    except (UnreadableImage, UnsuitableInput, UnidentifiedImageError, OSError) as exc:
        raise ConfigError(f"{file}: cannot be read as an image: {exc}; repair it or take it out") from exc


def _patient(file: Path, name: str) -> str:
    if file.suffix.lower() not in DICOM:
        return name
    ds = pydicom.dcmread(file, specific_tags=["PatientID"], stop_before_pixels=True, force=True)
    return str(ds.get("PatientID") or name)


def _split(root: Path, file: Path, listed: dict[str, _Listed], patient: str) -> str:
    row = listed.get(file.relative_to(root).as_posix())
    if row and row.split:
        return row.split
    place = int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8], "big") % 100
    return next(split for split, end in SHARES.items() if place < end)


def _check(root: Path, splits: Sequence[str], samples: Sequence[Sample]) -> None:
    missing = [split for split in SPLITS if split not in splits]
    if missing:
        raise ConfigError(f"{root}: no image falls into {missing[0]!r}: add patients, or name splits in {LIST_NAME}")
    seen: dict[str, str] = {}
    for sample, split in zip(samples, splits, strict=True):
        if seen.setdefault(sample.patient, split) != split:
            raise ConfigError(f"{root / LIST_NAME}: a patient is in both {seen[sample.patient]!r} and {split!r}")
