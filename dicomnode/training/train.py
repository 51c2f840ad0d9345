"""From a recipe to a bundle that loads: data, training, calibration, figures, files."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dicomnode.errors import ConfigError
from dicomnode.inference import bundle as bundles
from dicomnode.inference.manifest import CODES_NAME, ClassifierOutput
from dicomnode.inference.preprocess import Step, output_size, prepare, resize
from dicomnode.training import data, writer
from dicomnode.training.autoencoder import evaluate_autoencoder, synthetic_codes, train_autoencoder
from dicomnode.training.card import anomaly_figures, classifier_figures
from dicomnode.training.classifier import Figures, evaluate_classifier, train_classifier
from dicomnode.training.data import ImageSet
from dicomnode.training.fit import Fitted, OnProgress, outputs
from dicomnode.training.recipe import AnomalyTarget, ClassifierTarget, Recipe, load_recipe

TOLERANCE = 1e-3
AVERAGED = 16
"""Images averaged for one reference input, so that it shows no one patient."""
DATA_FILES = ("cxr/kermany224.zip", "cxr/kermany_index.csv")


def train_bundle(
    folder: Path, root: Path, on_load: Callable[[int, int], None], on_progress: OnProgress
) -> bundles.Bundle:
    """Train what `folder`/train.toml says on the data in `root`, write the bundle's files and return it loaded."""
    recipe = load_recipe(folder)
    if recipe.about.name != folder.name:
        raise ConfigError(f"{folder}: the recipe's name is {recipe.about.name!r}")
    job = _Job(folder, root, recipe, data.kermany(root, recipe.preprocessing.steps, on_load))
    torch.set_flush_denormal(True)  # tiny activations are slow otherwise; this is a state of the whole process
    try:
        if recipe.classifier is not None:
            _classifier(job, recipe.classifier, on_progress)
        elif recipe.anomaly is not None:
            _autoencoder(job, recipe.anomaly, on_progress)
    finally:
        torch.set_flush_denormal(False)
    return bundles.load(folder)


@dataclass(frozen=True)
class _Job:
    folder: Path
    root: Path
    recipe: Recipe
    sets: dict[str, ImageSet]

    @property
    def steps(self) -> tuple[Step, ...]:
        return self.recipe.preprocessing.steps


def _classifier(job: _Job, target: ClassifierTarget, on_progress: OnProgress) -> None:
    trained = train_classifier(job.recipe, target, job.sets, on_progress)
    figures: dict[str, Figures] = {
        "validation": evaluate_classifier(trained, job.sets["val"]),
        "test, centre crop": evaluate_classifier(trained, job.sets["test"]),
        "Kaggle test, squashed": evaluate_classifier(trained, data.kaggle_test(job.root, job.steps)),
        "PneumoniaMNIST-28 test": evaluate_classifier(trained, data.pneumonia_mnist_test(job.root, job.steps)),
    }
    writer.write_metrics(job.folder, {"validation losses": trained.fitted.validation_losses, "sets": figures})
    writer.write_card(job.folder, classifier_figures(figures, trained.output))
    cases = _write_cases(job, trained.fitted.network, trained.output)
    _write(job, trained.fitted, {"kind": "classifier", "classifier": trained.output}, cases)


def _autoencoder(job: _Job, target: AnomalyTarget, on_progress: OnProgress) -> None:
    trained = train_autoencoder(job.recipe, target, job.sets, on_progress)
    wrong = data.wrong_inputs(job.root, job.steps)
    figures = evaluate_autoencoder(trained, job.recipe, job.sets["test"], wrong)
    writer.write_metrics(job.folder, {"validation losses": trained.fitted.validation_losses, "test": figures})
    writer.write_card(job.folder, anomaly_figures(figures, trained.output))
    if target.judge:
        judge = bundles.load(job.folder.parent / target.judge)
        writer.write_tensors(job.folder / CODES_NAME, synthetic_codes(trained, job.sets["val"], target, judge))
    cases = _write_cases(job, trained.fitted.network, None)
    _write(job, trained.fitted, {"kind": "anomaly", "anomaly": trained.output}, cases)


def _write(job: _Job, fitted: Fitted, output: dict[str, object], cases: list[str]) -> None:
    writer.write_weights(job.folder, fitted.network.state_dict())
    recipe = job.recipe
    size = output_size(job.steps)
    if size is None:
        raise ConfigError(f"{job.folder}: the preprocessing has no step `resize`")
    values: dict[str, object] = {
        "schema_version": 1,
        **recipe.about.model_dump(),
        **output,
        "architecture": recipe.architecture,
        "input": recipe.input,
        "preprocessing": recipe.preprocessing,
        "tensor": {"rows": size[0], "columns": size[1]},
        "training": {
            "data": recipe.data.description,
            "licence": recipe.data.licence,
            "data_sha256": data.digest(job.root, DATA_FILES),
            "seed": recipe.fit.seed,
            "epochs": len(fitted.validation_losses),
            "libraries": {name: version(name) for name in ("torch", "numpy", "pillow")},
        },
        "licences": recipe.licences,
        "reference": {"tolerance": TOLERANCE, "cases": cases},
    }
    writer.write_manifest(job.folder, values)


def _write_cases(job: _Job, network: nn.Module, classifier: ClassifierOutput | None) -> list[str]:
    """Write a reference case a label, the mean of many images and no one's radiograph, and a pattern; return names."""
    val = job.sets["val"]
    rows, columns = np.mgrid[0:150, 0:200]
    pictures = {"pattern": (np.sin(rows / 9) * np.cos(columns / 14) / 2 + 0.5).astype(np.float32)}
    for label in np.unique(val.labels):
        pictures[f"mean_of_label_{label}"] = val.images[val.labels == label][:AVERAGED].mean(0)[0].numpy()
    names = []
    for name, picture in pictures.items():
        pixels = torch.from_numpy((resize(picture, 150, 200) * 255).round().astype(np.uint8))
        prepared = prepare(bundles.reference_image({"pixels": pixels}), job.steps)[None]  # (1, 1, rows, columns)
        expected = bundles.activate(classifier, outputs(network, prepared).double())[0]
        names.append(f"reference/{name}.safetensors")
        writer.write_tensors(job.folder / names[-1], {"pixels": pixels, "expected": expected})
    return names


def default_data() -> Path:
    """Return `shared/data` beside the repository."""
    return bundles.builtin_directory().parent.parent / "shared/data"
