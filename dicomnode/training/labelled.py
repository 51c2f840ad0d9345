"""Labelled images to evaluate a bundle on: the named sets of its recipe's data, and a site's own folder.

An own folder is `FOLDER/<class>/*.png|jpg|dcm`, with an optional `patients.csv` (columns `file` and `patient`; every
further column makes subgroups). DICOM files pass the bundle's selection, as in service; what is refused is counted.
"""

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pydicom
import torch
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset

from dicomnode.config import AnalysisSettings
from dicomnode.errors import ConfigError, UnreadableImage, UnsuitableInput
from dicomnode.inference.bundle import Bundle
from dicomnode.inference.decode import decode
from dicomnode.inference.preprocess import FloatArray, Step, prepare
from dicomnode.inference.select import SourceInstance, refusal
from dicomnode.training import data, sets
from dicomnode.training.data import ImageSet, OnLoad, Sample, image_set, sharpness
from dicomnode.training.recipe import RECIPE_NAME, Recipe, load_recipe
from dicomnode.training.sets import folder_digest

GENUINE = "genuine"
PATIENTS_NAME = "patients.csv"
PICTURES = (".png", ".jpg", ".jpeg")
AGES = (
    (1, "below 1 year"),
    (6, "1 to 5 years"),
    (18, "6 to 17 years"),
    (65, "18 to 64 years"),
    (200, "65 years and over"),
)


@dataclass(frozen=True)
class Labelled:
    """Sets by name and how many files of each reason were refused; of an anomaly bundle the first set is genuine."""

    sets: Mapping[str, ImageSet]
    refused: Mapping[str, int]


def load_sets(bundle: Bundle, root: Path, wanted: Sequence[str], progress: OnLoad) -> Labelled:
    """Return the labelled sets in `root`: the recipe's data where it lies there, else a folder of classes.

    `wanted` names sets, all of them where it is empty. Raises `ConfigError` that says what is missing.
    """
    if not root.is_dir():
        raise ConfigError(f"{root}: there is no such folder; name one with --data")
    if RECIPE_NAME in bundle.manifest.files:
        recipe = load_recipe(bundle.folder)
        if _is_data_of(recipe, bundle, root):
            return Labelled(_named(bundle, recipe, root, wanted, progress), {})
    found = labelled_folder(root, bundle, progress)
    unknown = sorted({*wanted} - {*found.sets})
    if unknown:
        raise ConfigError(f"there is no set {unknown[0]!r} in {root}; there are {', '.join(found.sets)}")
    first, *_ = found.sets
    return Labelled({n: s for n, s in found.sets.items() if not wanted or n in wanted or n == first}, found.refused)


def _is_data_of(recipe: Recipe, bundle: Bundle, root: Path) -> bool:
    """Return whether `root` holds the data of the recipe; a folder of own images must be the very one."""
    if recipe.data.set == "folder":
        return folder_digest(root) == bundle.manifest.training.data_sha256
    return (root / {"kermany": "cxr", "mnist": "mnist"}[recipe.data.set]).is_dir()


def _named(bundle: Bundle, recipe: Recipe, root: Path, wanted: Sequence[str], progress: OnLoad) -> dict[str, ImageSet]:
    """Return the sets that the recipe's data has, without those that it trained on."""
    steps = bundle.manifest.preprocessing.steps
    if recipe.data.set == "kermany":
        known = _kermany_kinds if bundle.manifest.classifier is None else _kermany_sets
        return known(root, steps, wanted, progress)
    found = sets.read(recipe, root, progress)
    if bundle.manifest.classifier is None:
        others = {name: unlabelled(images) for name, images in sets.wrong_inputs(recipe, root).items()}
        kinds = others | changed(found.sets["test"], steps)
        _check_names(wanted, [GENUINE, *kinds])
        return {GENUINE: found.sets["test"]} | {n: s for n, s in kinds.items() if not wanted or n in wanted}
    tests = {"validation": found.sets["val"], "test": found.sets["test"]}
    _check_names(wanted, [*tests])
    if len(bundle.manifest.classifier.names) == 1:
        number = found.names.index(bundle.manifest.classifier.names[0])
        tests = {n: replace(s, labels=(s.labels == number).astype(np.int64)) for n, s in tests.items()}
    return {name: images for name, images in tests.items() if not wanted or name in wanted}


def _kermany_sets(root: Path, steps: Sequence[Step], wanted: Sequence[str], progress: OnLoad) -> dict[str, ImageSet]:
    """Return the sets on which the pneumonia classifier's card reports."""
    readers: dict[str, Callable[[], ImageSet]] = {
        "validation": lambda: data.kermany(root, steps, progress, splits=("val",))["val"],
        "test, centre crop": lambda: data.kermany(root, steps, progress, splits=("test",))["test"],
        "Kaggle test, squashed": lambda: data.kaggle_test(root, steps),
        "PneumoniaMNIST-28 test": lambda: data.pneumonia_mnist_test(root, steps),
    }
    _check_names(wanted, [*readers])
    return {name: read() for name, read in readers.items() if not wanted or name in wanted}


def _kermany_kinds(root: Path, steps: Sequence[Step], wanted: Sequence[str], progress: OnLoad) -> dict[str, ImageSet]:
    """Return the genuine test images and each kind of wrong input."""
    genuine = data.kermany(root, steps, progress, splits=("test",))["test"]
    return {GENUINE: genuine, **wrong_sets(root, genuine, steps, wanted)}


def wrong_sets(root: Path, genuine: ImageSet, steps: Sequence[Step], wanted: Sequence[str] = ()) -> dict[str, ImageSet]:
    """Return the kinds of wrong input by name: other images than chest radiographs, and changed genuine ones."""
    other = {name: unlabelled(images) for name, images in data.wrong_inputs(root, steps).items()}
    kinds = {**other, **changed(genuine, steps)}
    _check_names(wanted, [GENUINE, *kinds])
    return {name: images for name, images in kinds.items() if not wanted or name in wanted}


def changed(images: ImageSet, steps: Sequence[Step]) -> dict[str, ImageSet]:
    """Return what may happen to a right image, by name: turned, inverted, heavily cropped, blank."""
    tensor, side = images.images, images.images.shape[-1]
    crop = tensor[:, 0, side // 3 : 2 * side // 3, : side // 3].numpy()
    kinds = {
        "rotated 90": tensor.rot90(1, (2, 3)),
        "rotated 180": tensor.rot90(2, (2, 3)),
        "inverted": 1 - tensor,
        "heavy crop": torch.stack([prepare(image, steps) for image in crop]),
    }
    found = {name: unlabelled(kind, images.patients, images.names) for name, kind in kinds.items()}
    return found | {"blank": unlabelled(torch.zeros_like(tensor[:1]))}


def unlabelled(
    images: torch.Tensor, patients: NDArray[np.str_] | None = None, names: NDArray[np.str_] | None = None
) -> ImageSet:
    """Return images (N, 1, rows, columns) as a set of label 0, each its own patient where none are given."""
    numbers = np.array([f"image {n}" for n in range(len(images))])
    return ImageSet(
        images,
        np.zeros(len(images), np.int64),
        numbers if patients is None else patients,
        {},
        names=numbers if names is None else names,
    )


def _check_names(wanted: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ConfigError(f"there is no set {unknown[0]!r}; there are {', '.join(repr(name) for name in known)}")


def labelled_folder(root: Path, bundle: Bundle, progress: OnLoad) -> Labelled:
    """Return the images in the folders of `root` that the bundle takes.

    A classifier gets one set, `folder`; with one class every other folder is "not" that class. An anomaly bundle gets
    the folder `genuine` and a set for each other one. Raises `ConfigError` where the folders are not the bundle's.
    """
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    labels = _labels(bundle, root, [folder.name for folder in folders])
    table = _patients(root)
    files = [(folder, file) for folder in folders for file in sorted(folder.rglob("*")) if file.is_file()]
    refused: Counter[str] = Counter()
    samples: dict[str, list[Sample]] = {folder.name: [] for folder in folders}
    for number, (folder, file) in enumerate(files, start=1):
        try:
            samples[folder.name].append(_sample(file, root, labels[folder.name], bundle, table))
        except (UnsuitableInput, UnreadableImage) as exc:
            refused[str(exc)] += 1
        progress(number, len(files))
    return Labelled(_as_sets(bundle, root, samples, refused), dict(refused.most_common()))


def _labels(bundle: Bundle, root: Path, folders: Sequence[str]) -> dict[str, int]:
    """Return the label of each folder's images by its name."""
    found = ", ".join(folders) or "none"
    if bundle.manifest.classifier is None:
        if GENUINE not in folders:
            raise ConfigError(f"{root}: an anomaly bundle needs a folder {GENUINE!r}; the folders are {found}")
        return dict.fromkeys(folders, 0)
    names = [name.casefold() for name in bundle.manifest.classifier.names]
    known = {folder: names.index(folder.casefold()) for folder in folders if folder.casefold() in names}
    listed = ", ".join(bundle.manifest.classifier.names)
    if len(names) == 1:
        if not known or len(folders) < 2:
            raise ConfigError(f"{root}: needs a folder {listed!r} and one of other images; the folders are {found}")
        return {folder: int(folder in known) for folder in folders}
    if not known or len(known) < len(folders):
        raise ConfigError(f"{root}: the folders are {found}; the bundle's classes are {listed}")
    return known


def _as_sets(
    bundle: Bundle, root: Path, samples: Mapping[str, list[Sample]], refused: Mapping[str, int]
) -> dict[str, ImageSet]:
    first = f"; the first reason: {next(iter(refused))}" if refused else ""
    if bundle.manifest.classifier is not None:
        found = [sample for some in samples.values() for sample in some]
        if len({sample.label for sample in found}) < 2:
            raise ConfigError(f"{root}: there are not usable images of two classes{first}")
        return {"folder": image_set(found)}
    if not samples[GENUINE]:
        raise ConfigError(f"{root / GENUINE}: holds no usable image{first}")
    wrong = {name: image_set(some) for name, some in samples.items() if some and name != GENUINE}
    return {GENUINE: image_set(samples[GENUINE]), **wrong}


def _patients(root: Path) -> dict[str, dict[str, str]]:
    """Return the rows of patients.csv by file; without the file none."""
    file = root / PATIENTS_NAME
    if not file.is_file():
        return {}
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines)
        if not {"file", "patient"} <= {*(reader.fieldnames or ())}:
            raise ConfigError(f"{file}: the first line must name the columns `file` and `patient`")
        return {Path(row["file"]).as_posix(): row for row in reader}


def _sample(file: Path, root: Path, label: int, bundle: Bundle, table: Mapping[str, Mapping[str, str]]) -> Sample:
    """Return one file as the bundle sees it; raise `UnsuitableInput` or `UnreadableImage` with the reason."""
    name = file.relative_to(root).as_posix()
    image, header = _picture(file) if file.suffix.lower() in PICTURES else _dicom(file, bundle)
    row = table.get(name, {})
    groups = [*_dicom_groups(header), *_table_groups(row)]
    rows, columns = image.shape
    floors = {
        "aspect ratio": columns / rows,
        "sharpness": sharpness(image) if min(rows, columns) > 2 else 0.0,
        "file size": float(file.stat().st_size),
    }
    patient = row.get("patient") or str(header.get("PatientID") or "") or name
    shown = str(header.get("SOPInstanceUID") or name)
    return Sample(bundle.prepare(image), label, patient, floors, name=shown, groups=frozenset(groups))


def _picture(file: Path) -> tuple[FloatArray, Dataset]:
    """Return an encoded picture as grey values in 0..1, and an empty header."""
    try:
        with Image.open(io.BytesIO(file.read_bytes())) as image:
            if image.mode.startswith("I"):  # 16 bits: `convert("L")` would clip them
                return _unit(np.asarray(image, dtype=np.float32), 65535), Dataset()
            return _unit(np.asarray(image.convert("L"), dtype=np.float32), 255), Dataset()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as exc:
        raise UnreadableImage(f"a picture that cannot be read ({type(exc).__name__})") from exc


def _unit(values: FloatArray, largest: int) -> FloatArray:
    return (values / np.float32(largest)).clip(0, 1)


def _dicom(file: Path, bundle: Bundle) -> tuple[FloatArray, Dataset]:
    """Return display values and header of a DICOM file that the bundle takes."""
    try:
        header = pydicom.dcmread(file, stop_before_pixels=True)
        uids = str(header.SOPInstanceUID), str(header.SOPClassUID)
        modality = str(header.get("Modality", ""))
    except Exception as exc:  # a file can make its reader raise anything, RecursionError too
        raise UnreadableImage(f"neither a picture nor a DICOM image ({type(exc).__name__})") from exc
    why = refusal(SourceInstance(file, *uids, modality), bundle.manifest.input)
    if why is not None:
        raise UnsuitableInput(why.reason)
    try:
        return decode(file, bundle.manifest.preprocessing.voi, AnalysisSettings().max_image_pixels), header
    except UnreadableImage as exc:
        raise UnreadableImage(str(exc).removeprefix(f"{file.name}: ")) from exc


def _dicom_groups(header: Dataset) -> Iterator[str]:
    """Yield the subgroups that a header names: view, sex, age group, manufacturer, sending AE."""
    for heading, keyword in (("view", "ViewPosition"), ("sex", "PatientSex"), ("manufacturer", "Manufacturer")):
        value = str(header.get(keyword) or "").strip()
        if value:
            yield f"{heading}: {value}"
    age = str(header.get("PatientAge") or "")
    if len(age) == 4 and age[:3].isdigit() and age[3] in "DWMY":
        years = int(age[:3]) / {"D": 365.25, "W": 52.18, "M": 12, "Y": 1}[age[3]]
        yield f"age: {next(name for limit, name in AGES if years < limit)}" if years < 200 else "age: unknown"
    meta = getattr(header, "file_meta", Dataset())
    source = str(meta.get("SourceApplicationEntityTitle") or "").strip()
    if source:
        yield f"source AE: {source}"


def _table_groups(row: Mapping[str, str]) -> Iterator[str]:
    """Yield the subgroups that a line of patients.csv names."""
    for heading, value in row.items():
        if heading not in ("file", "patient") and value:
            yield f"{heading}: {value}"
