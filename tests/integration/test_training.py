"""A recipe on a few small pictures becomes a bundle that loads, the same bytes for the same seed."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from dicomnode.cli import train as train_command
from dicomnode.errors import ConfigError
from dicomnode.inference import bundle as bundles
from dicomnode.inference.synthesis import synthetic_radiographs
from dicomnode.training import checkpoint
from dicomnode.training.recipe import load_recipe
from dicomnode.training.train import train_bundle

COUNTS = {"train": 64, "val": 48, "test": 24}
COLUMNS = ("file", "label", "patient", "kaggle_split", "aspect_w_over_h", "duplicate_of", "split")
COMMON = """
[input]
modalities = ["DX"]
[preprocessing]
steps = [{ step = "center_square" }, { step = "resize", rows = 32, columns = 32 }]
[data]
set = "kermany"
description = "squares and rings"
licence = "CC0-1.0"
[licences]
code = "Apache-2.0"
weights = "CC0-1.0"
[fit]
epochs = 3
batch = 16
learning_rate = 0.01
average_decay = 0.5
"""
ABOUT = """
[about]
name = "{name}"
version = "0.0.1"
title = "A test"
intended_use = "tests"
not_for = ["patients"]
"""
CLASSIFIER = """
[architecture]
name = "residual_cnn"
parameters = { outputs = 1, stem = 4, channels = [8, 8] }
[classifier]
label = "Ring"
code = { value = "1", scheme = "99TEST", meaning = "Ring" }
priority = "routine"
sensitivity = 0.9
[augmentation]
blur = 0.5
jpeg = 0.5
noise = 0.02
"""
ANOMALY = """
[architecture]
name = "anomaly_autoencoder"
parameters = { size = 32, channels = [4, 8], code = 8 }
[anomaly]
score_name = "distance"
unit = "standard deviations"
flag_quantile = 0.95
judge = "rings"
demo_codes_per_class = 1
"""


def picture(label: int, rng: np.random.Generator) -> Image.Image:
    """A bright disc; label 1 has a dark middle."""
    rows, columns = np.mgrid[0:224, 0:224]
    distance = np.hypot(rows - 112 - rng.integers(-20, 20), columns - 112 - rng.integers(-20, 20))
    values = np.where(distance < 70, 200, 40) - label * np.where(distance < 35, 120, 0)
    return Image.fromarray(np.clip(values + rng.normal(0, 8, values.shape), 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(2)
    for folder in ("cxr", "wrong-input"):
        (root / folder).mkdir()
    with zipfile.ZipFile(root / "cxr/kermany224.zip", "w") as archive, (root / "cxr/kermany_index.csv").open("w") as f:
        index = csv.DictWriter(f, COLUMNS)
        index.writeheader()
        for split, count in COUNTS.items():
            for n in range(count):
                buffer = io.BytesIO()
                picture(n % 2, rng).save(buffer, "JPEG")
                name = f"{split}{n}.jpeg"
                archive.writestr(name, buffer.getvalue())
                kaggle = "test" if split == "test" else "train"
                index.writerow(dict(zip(COLUMNS, (name, n % 2, name, kaggle, 1.1, "", split), strict=True)))
                if split == "train" and n < 2:
                    row = (name, n % 2, f"unknown{n}", "train", "", "", split)
                    index.writerow(dict(zip(COLUMNS, row, strict=True)))
    noise = rng.integers(0, 256, (20, 28, 28)).astype(np.uint8)
    labels = np.arange(20)[:, None] % 2
    np.savez(root / "cxr/pneumoniamnist28_rebuilt.npz", test_images=noise, test_labels=labels)
    kinds = {"images": noise, "labels": np.arange(20) % 2, "classes": np.array(["Hand", "CXR"])}
    np.savez(root / "wrong-input/mednist64_300each.npz", **kinds)
    return root


def write_recipe(folder: Path, recipe: str, common: str = COMMON) -> Path:
    folder.mkdir(parents=True)
    (folder / "train.toml").write_text(ABOUT.format(name=folder.name) + recipe + common)
    (folder / "CARD.md").write_text("# Card\n<!-- figures -->\n<!-- /figures -->\nLimits: many.\n")
    return folder


def train(folder: Path, recipe: str, data: Path, epochs: int = 3, **options: Any) -> bundles.Bundle:
    torch.set_num_threads(1)
    write_recipe(folder, recipe, COMMON.replace("epochs = 3", f"epochs = {epochs}"))
    return train_bundle(folder, data, lambda done, total: None, lambda progress: None, **options)


@pytest.fixture(scope="module")
def classifier(data: Path, tmp_path_factory: pytest.TempPathFactory) -> bundles.Bundle:
    return train(tmp_path_factory.mktemp("models") / "rings", CLASSIFIER, data)


@pytest.fixture(scope="module")
def anomaly(classifier: bundles.Bundle, data: Path) -> bundles.Bundle:
    return train(classifier.folder.parent / "oddities", ANOMALY, data, epochs=20)


def test_a_recipe_becomes_a_bundle_that_knows_what_it_learned(classifier: bundles.Bundle) -> None:
    output = classifier.manifest.classifier
    assert output is not None
    assert output.classes[0].operating_point.sensitivity >= 0.9
    assert output.classes[0].operating_point.specificity > 0.9
    assert output.calibration.method == "platt"


def test_the_card_gets_the_measured_figures_and_keeps_its_text(classifier: bundles.Bundle) -> None:
    card = (classifier.folder / "CARD.md").read_text()
    assert "| test, centre crop | 24 (12) |" in card
    assert "AUC of sharpness alone" in card
    assert card.endswith("Limits: many.\n")


def test_the_same_seed_gives_the_same_weights(classifier: bundles.Bundle, data: Path, tmp_path: Path) -> None:
    again = train(tmp_path / "rings", CLASSIFIER, data)
    assert again.identity.weights_digest == classifier.identity.weights_digest


def test_an_anomaly_bundle_flags_what_is_unlike_its_training(anomaly: bundles.Bundle) -> None:
    output = anomaly.manifest.anomaly
    assert output is not None
    noise = torch.rand(8, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    assert (anomaly.run(noise)[:, 0] > output.threshold).all()
    assert "| Hand | 10 |" in (anomaly.folder / "CARD.md").read_text()


def test_stored_codes_become_pictures(anomaly: bundles.Bundle) -> None:
    pictures = synthetic_radiographs(anomaly)
    assert len(pictures) == 2
    assert all(picture.shape == (512, 512) and picture.dtype == np.uint8 for _, picture in pictures)


def test_figures_and_course_lie_beside_the_weights(classifier: bundles.Bundle) -> None:
    figures = json.loads((classifier.folder / "metrics.json").read_text())
    assert figures["training"]["threads"] == 1
    assert len(figures["training losses"]) == len(figures["learning rates"]) == 3
    assert (classifier.folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    known = classifier.manifest
    assert (
        known.evaluation["test, centre crop"].metrics["AUC"].value
        == figures["sets"]["test, centre crop"]["metrics"]["AUC"]["value"]
    )
    assert known.classifier is not None
    assert known.classifier.classes[0].quantiles is not None


def test_another_seed_needs_another_folder(classifier: bundles.Bundle, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name another folder with --out"):
        train(tmp_path / "rings", CLASSIFIER, data, seed=5)
    again = train_bundle(tmp_path / "rings", data, lambda *_: None, lambda _: None, seed=5, models=tmp_path / "spread")
    assert again.folder == tmp_path / "spread/rings"
    assert again.manifest.training.seed == load_recipe(again.folder).fit.seed == 5
    assert again.identity.weights_digest != classifier.identity.weights_digest
    assert not (tmp_path / "rings/bundle.toml").exists()


def test_images_of_unknown_aspect_are_learned_as_they_are_stored(data: Path, tmp_path: Path) -> None:
    common = COMMON.replace('set = "kermany"', 'set = "kermany"\naspect = "random"')
    found = train_bundle(write_recipe(tmp_path / "rings", CLASSIFIER, common), data, lambda *_: None, lambda _: None)
    figures = json.loads((found.folder / "metrics.json").read_text())
    assert figures["training"]["images"]["train"] == COUNTS["train"] + 2


def test_a_process_killed_while_it_writes_its_checkpoint_goes_on(
    classifier: bundles.Bundle, data: Path, tmp_path: Path
) -> None:
    """Killed when the second checkpoint is about to replace the first: the first one is whole."""
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "import torch\n"
        "from dicomnode.training.train import train_bundle\n"
        "torch.set_num_threads(1)\n"
        "replace = Path.replace\n"
        "def kill(self, target):\n"
        "    if Path(target).exists():\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return replace(self, target)\n"
        "Path.replace = kill\n"
        "train_bundle(Path(sys.argv[1]), Path(sys.argv[2]), lambda *_: None, lambda _: None)\n"
    )
    folder = write_recipe(tmp_path / "rings", CLASSIFIER)
    command = [sys.executable, "-c", program, str(folder), str(data)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    assert checkpoint.place(folder).is_file()
    resumed = train_bundle(folder, data, lambda *_: None, lambda _: None)
    assert resumed.identity.weights_digest == classifier.identity.weights_digest
    assert len(json.loads((folder / "metrics.json").read_text())["validation losses"]) == 3
    assert not (tmp_path / checkpoint.FOLDER_NAME).exists()


SHAPES = """
[architecture]
name = "vgg"
parameters = { outputs = 3, channels = [8, 16, 16], convolutions = [1, 1, 1] }
[classifier]
ignored = ["plain"]
[[classifier.classes]]
label = "disc"
code = { value = "1", scheme = "99TEST", meaning = "Disc" }
priority = "urgent"
sensitivity = 0.9
[[classifier.classes]]
label = "ring"
code = { value = "2", scheme = "99TEST", meaning = "Ring" }
priority = "routine"
sensitivity = 0.9
"""


@pytest.fixture(scope="module")
def own_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder a class: plain, disc, ring."""
    root, rng = tmp_path_factory.mktemp("own"), np.random.default_rng(3)
    for name in ("plain", "disc", "ring"):
        (root / name).mkdir()
        for n in range(40):
            if name == "plain":
                image = Image.fromarray(rng.integers(30, 60, (224, 224)).astype(np.uint8))
            else:
                image = picture(int(name == "ring"), rng)
            image.save(root / name / f"{n}.png")
    return root


def test_a_folder_of_own_images_becomes_a_bundle_of_exclusive_classes(own_images: Path, tmp_path: Path) -> None:
    common = COMMON.replace('set = "kermany"', 'set = "folder"').replace("epochs = 3", "epochs = 30")
    found = train_bundle(write_recipe(tmp_path / "shapes", SHAPES, common), own_images, lambda *_: None, lambda _: None)
    output = found.manifest.classifier
    assert output is not None
    assert output.names == ("disc", "plain", "ring")
    assert output.calibration.method == "temperature"
    assert [c.label for c in output.classes] == ["disc", "ring"]
    assert found.manifest.evaluation["test"].metrics["accuracy"].value > 0.8
    assert "Operating point: ring from probability" in (found.folder / "CARD.md").read_text()


def test_a_recipe_whose_classes_are_not_the_folders_is_refused(own_images: Path, tmp_path: Path) -> None:
    common = COMMON.replace('set = "kermany"', 'set = "folder"')
    folder = write_recipe(tmp_path / "shapes", SHAPES.replace('"plain"', '"plane"'), common)
    with pytest.raises(ConfigError, match=r"\['disc', 'plane', 'ring'\], the data has \['disc', 'plain', 'ring'\]"):
        train_bundle(folder, own_images, lambda *_: None, lambda _: None)


def test_a_network_of_too_few_outputs_is_refused(own_images: Path, tmp_path: Path) -> None:
    common = COMMON.replace('set = "kermany"', 'set = "folder"')
    folder = write_recipe(tmp_path / "shapes", SHAPES.replace("outputs = 3", "outputs = 2"), common)
    with pytest.raises(ConfigError, match=r"gives .2,. outputs, the recipe needs 3"):
        train_bundle(folder, own_images, lambda *_: None, lambda _: None)


def test_a_misspelt_recipe_is_refused_by_its_key(tmp_path: Path) -> None:
    (tmp_path / "train.toml").write_text(ABOUT.format(name="x") + CLASSIFIER.replace("blur", "blurr") + COMMON)
    with pytest.raises(ConfigError, match=r"augmentation\.blurr: Extra inputs"):
        load_recipe(tmp_path)


def test_missing_data_is_named(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(train_command.train)
    folder = tmp_path / "rings"
    folder.mkdir()
    (folder / "train.toml").write_text(ABOUT.format(name="rings") + CLASSIFIER + COMMON)
    result = CliRunner().invoke(app, [str(folder), "--data", str(tmp_path / "nowhere")])
    assert result.exit_code == 1
    assert "the training data is not there" in result.output.replace("\n", "")
