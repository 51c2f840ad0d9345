"""A recipe on a few small pictures becomes a bundle that loads, the same bytes for the same seed."""

import csv
import io
import zipfile
from pathlib import Path

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
    noise = rng.integers(0, 256, (20, 28, 28)).astype(np.uint8)
    labels = np.arange(20)[:, None] % 2
    np.savez(root / "cxr/pneumoniamnist28_rebuilt.npz", test_images=noise, test_labels=labels)
    kinds = {"images": noise, "labels": np.arange(20) % 2, "classes": np.array(["Hand", "CXR"])}
    np.savez(root / "wrong-input/mednist64_300each.npz", **kinds)
    return root


def train(folder: Path, recipe: str, data: Path, epochs: int = 3) -> bundles.Bundle:
    torch.set_num_threads(1)
    folder.mkdir(parents=True)
    text = ABOUT.format(name=folder.name) + recipe + COMMON.replace("epochs = 3", f"epochs = {epochs}")
    (folder / "train.toml").write_text(text)
    (folder / "CARD.md").write_text("# Card\n<!-- figures -->\n<!-- /figures -->\nLimits: many.\n")
    return train_bundle(folder, data, lambda done, total: None, lambda progress: None)


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
