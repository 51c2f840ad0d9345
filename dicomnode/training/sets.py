"""What a recipe's `[data] set` stands for: images by split, what their labels mean, and what else to measure on."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dicomnode.training import data, folder, mnist
from dicomnode.training.data import ImageSet, OnLoad
from dicomnode.training.recipe import Recipe

KERMANY_FILES = ("cxr/kermany224.zip", "cxr/kermany_index.csv")


@dataclass(frozen=True)
class TrainingData:
    """Images by split; `names` say what label 0, 1, ... means; `sha256` is over the files that were read."""

    sets: dict[str, ImageSet]
    names: tuple[str, ...]
    sha256: str


def read(recipe: Recipe, root: Path, on_load: OnLoad) -> TrainingData:
    """Return the data that the recipe names, from `root`; raise `ConfigError` where it is not there."""
    how = recipe.preprocessing
    if recipe.data.set == "mnist":
        return TrainingData(mnist.mnist(root, how.steps, on_load), mnist.NAMES, data.digest(root, tuple(mnist.FILES)))
    if recipe.data.set == "folder":
        return TrainingData(folder.folder(root, how, on_load), folder.class_names(root), folder_digest(root))
    sets = data.kermany(root, how.steps, on_load, aspect=recipe.data.aspect)
    return TrainingData(sets, ("Normal", "Pneumonia"), data.digest(root, KERMANY_FILES))


def folder_digest(root: Path) -> str:
    """Return the SHA-256 over name and bytes of every file of a folder of own images: the names say the class."""
    total = hashlib.sha256()
    for name in sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()):
        total.update(hashlib.sha256(name.encode()).digest())
        total.update(bytes.fromhex(data.digest(root, (name,))))
    return total.hexdigest()


def further_tests(recipe: Recipe, root: Path) -> dict[str, ImageSet]:
    """Return the other test sets that a classifier of this data is measured on, by name."""
    if recipe.data.set != "kermany":
        return {}
    steps = recipe.preprocessing.steps
    return {
        "Kaggle test, squashed": data.kaggle_test(root, steps),
        "PneumoniaMNIST-28 test": data.pneumonia_mnist_test(root, steps),
    }


def wrong_inputs(recipe: Recipe, root: Path) -> dict[str, Tensor]:
    """Return images of other kinds by name, that an anomaly bundle of this data must flag."""
    return {} if recipe.data.set == "folder" else data.wrong_inputs(root, recipe.preprocessing.steps)
