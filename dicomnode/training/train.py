"""From a recipe to a bundle that loads: data, training, calibration, figures, files."""

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dicomnode.errors import ConfigError
from dicomnode.inference import bundle as bundles
from dicomnode.inference.manifest import CODES_NAME, ClassifierOutput
from dicomnode.inference.preprocess import Step, output_size, prepare, resize
from dicomnode.training import checkpoint, sets, writer
from dicomnode.training.autoencoder import evaluate_autoencoder, synthetic_codes, train_autoencoder
from dicomnode.training.baseline import BASELINE_NAME, baseline_scores, fit_baseline
from dicomnode.training.card import anomaly_figures, classifier_figures
from dicomnode.training.classifier import train_classifier
from dicomnode.training.curves import check_matplotlib, write_curves
from dicomnode.training.data import OnLoad
from dicomnode.training.evaluate import Figures, Scored, classifier_table
from dicomnode.training.fit import Checkpoint, Fitted, OnProgress, outputs
from dicomnode.training.labelled import changed, unlabelled
from dicomnode.training.recipe import RECIPE_NAME, AnomalyTarget, ClassifierTarget, Recipe, load_recipe
from dicomnode.training.sets import TrainingData

TOLERANCE = 1e-3
AVERAGED = 16
"""Images averaged for one reference input, so that it shows no one patient."""
MAX_CASES = 3
LIBRARIES = ("torch", "numpy", "pillow")


def train_bundle(
    folder: Path,
    root: Path,
    on_load: OnLoad,
    on_progress: OnProgress,
    *,
    models: Path | None = None,
    seed: int | None = None,
) -> bundles.Bundle:
    """Train what `folder`/train.toml says on the data in `root`, write the bundle's files and return it loaded.

    The files go into `folder`, or into a folder of the same name in `models`. Another `seed` than the recipe's needs
    `models`: a bundle holds what its own recipe gives. A training that was killed goes on after its last whole epoch.
    """
    recipe = load_recipe(folder)
    if recipe.about.name != folder.name:
        raise ConfigError(f"{folder}: the recipe's name is {recipe.about.name!r}")
    check_matplotlib()
    seeded = (
        recipe.model_copy(update={"fit": recipe.fit.model_copy(update={"seed": seed})}) if seed is not None else recipe
    )
    if seeded != recipe and models is None:
        raise ConfigError(f"seed {seed} is not the recipe's ({recipe.fit.seed}): name another folder with --out")
    target = folder if models is None else _copied(folder, models / folder.name, seeded)
    known = sets.read(seeded, root, on_load)
    job = _Job(target, folder, root, seeded, known, _checkpoint(target, seeded, known))
    torch.set_flush_denormal(True)  # tiny activations are slow otherwise; this is a state of the whole process
    try:
        if seeded.classifier is not None:
            _classifier(job, seeded.classifier, on_progress)
        elif seeded.anomaly is not None:
            _autoencoder(job, seeded.anomaly, on_progress)
    finally:
        torch.set_flush_denormal(False)
    checkpoint.remove(job.kept.file)
    return bundles.load(target)


def _copied(source: Path, target: Path, recipe: Recipe) -> Path:
    """Return `target` with card and recipe of `source`, the recipe as it is trained."""
    if target.resolve() == source.resolve():
        raise ConfigError(f"{target}: --out is the folder that the recipe is in")
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / writer.CARD_NAME, target / writer.CARD_NAME)
    if recipe == load_recipe(source):
        shutil.copyfile(source / RECIPE_NAME, target / RECIPE_NAME)
    else:
        values = recipe.model_dump(mode="json", exclude_unset=True)
        values["fit"]["seed"] = recipe.fit.seed
        (target / RECIPE_NAME).write_text(writer.to_toml(values), encoding="utf-8")
    return target


def _checkpoint(target: Path, recipe: Recipe, known: TrainingData) -> Checkpoint:
    """Return where the training keeps its state, and the key that says of which recipe, data and library it is."""
    says = {"about", "licences", "input"}  # these change no weight
    key = hashlib.sha256(recipe.model_dump_json(exclude=says).encode())
    key.update(f"{known.sha256} {version('torch')}".encode())
    return Checkpoint(checkpoint.place(target), key.hexdigest())


@dataclass(frozen=True)
class _Job:
    folder: Path
    source: Path
    root: Path
    recipe: Recipe
    data: TrainingData
    kept: Checkpoint

    @property
    def steps(self) -> tuple[Step, ...]:
        return self.recipe.preprocessing.steps


def _classifier(job: _Job, target: ClassifierTarget, on_progress: OnProgress) -> None:
    trained = train_classifier(job.recipe, target, job.data, on_progress, job.kept)
    test = "test, centre crop" if job.recipe.data.set == "kermany" else "test"
    tests = {"validation": job.data.sets["val"], test: job.data.sets["test"]}
    tests |= sets.further_tests(job.recipe, job.root)
    baseline = fit_baseline(trained.relabelled(job.data.sets["train"]))
    writer.write_tensors(job.folder / BASELINE_NAME, baseline)
    figures = {
        name: classifier_table(
            trained.output,
            Scored(trained.relabelled(images), trained.probabilities(images)),
            baseline_scores(baseline, images.images),
        )
        for name, images in tests.items()
    }
    writer.write_metrics(job.folder, {**_course(job, trained.fitted), "sets": figures})
    writer.write_card(job.folder, classifier_figures(figures, trained.output))
    cases = _write_cases(job, trained.fitted.network, trained.output)
    output = {"kind": "classifier", "classifier": trained.output}
    _write(job, trained.fitted, output, {name: _evaluation(table) for name, table in figures.items()}, cases)


def _autoencoder(job: _Job, target: AnomalyTarget, on_progress: OnProgress) -> None:
    trained = train_autoencoder(job.recipe, target, job.data.sets, on_progress, job.kept)
    test = job.data.sets["test"]
    wrong = {name: unlabelled(images) for name, images in sets.wrong_inputs(job.recipe, job.root).items()}
    figures = evaluate_autoencoder(trained, test, {**wrong, **changed(test, job.steps)})
    writer.write_metrics(job.folder, {**_course(job, trained.fitted), "test": figures})
    writer.write_card(job.folder, anomaly_figures(figures, trained.output))
    if target.judge:
        judge = bundles.load(job.source.parent / target.judge)
        writer.write_tensors(
            job.folder / CODES_NAME, synthetic_codes(trained, job.data.sets["val"], target, job.steps, judge)
        )
    cases = _write_cases(job, trained.fitted.network, None)
    output = {"kind": "anomaly", "anomaly": trained.output}
    _write(job, trained.fitted, output, {"test": _anomaly_evaluation(figures)}, cases)


def _course(job: _Job, fitted: Fitted) -> Figures:
    """Return how the training went, for metrics.json."""
    return {
        "training": {
            "seed": job.recipe.fit.seed,
            "data sha256": job.data.sha256,
            "images": {split: len(images) for split, images in job.data.sets.items()},
            "parameters": sum(p.numel() for p in fitted.network.parameters()),
            "device": fitted.device,
            "precision": job.recipe.fit.precision,
            "threads": torch.get_num_threads(),
            "wall time in seconds": round(fitted.history.wall_s, 1),
            "libraries": {name: version(name) for name in (*LIBRARIES, "monai", "safetensors")},
        },
        "training losses": fitted.history.training_losses,
        "validation losses": fitted.history.validation_losses,
        "learning rates": fitted.history.learning_rates,
    }


def _evaluation(table: Mapping[str, Any]) -> dict[str, object]:
    """Return one set's figures as the manifest holds them; of several classes each figure carries its class's name."""
    metrics = dict(table["metrics"])
    for label, row in table.get("classes", {}).items():
        metrics |= {f"{name}, {label}": figure for name, figure in row["metrics"].items()}
    metrics |= {f"baseline {name}": figure for name, figure in table["baseline"].items()}
    known = {name: figure for name, figure in metrics.items() if figure["value"] is not None}
    return {key: table[key] for key in ("images", "patients", "floors")} | {"metrics": known}


def _anomaly_evaluation(table: Mapping[str, Any]) -> dict[str, object]:
    metrics = {
        name: {"value": table[name], "interval": table[f"{name} interval"]}
        for name in ("genuine flagged", "reconstruction MSE")
    }
    metrics |= {f"AUC, {name}": {"value": row["AUC"]} for name, row in table["wrong inputs"].items()}
    return {"images": table["images"], "patients": table["patients"], "metrics": metrics}


def _write(
    job: _Job, fitted: Fitted, output: Mapping[str, object], evaluation: Mapping[str, object], cases: list[str]
) -> None:
    writer.write_weights(job.folder, fitted.network.state_dict())
    write_curves(job.folder, fitted.history)
    recipe = job.recipe
    size = _size(job)
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
            "data_sha256": job.data.sha256,
            "seed": recipe.fit.seed,
            "epochs": len(fitted.history.validation_losses),
            "libraries": {name: version(name) for name in LIBRARIES},
        },
        "evaluation": evaluation,
        "licences": recipe.licences,
        "reference": {"tolerance": TOLERANCE, "cases": cases},
    }
    writer.write_manifest(job.folder, values)


def _size(job: _Job) -> tuple[int, int]:
    size = output_size(job.steps)
    if size is None:
        raise ConfigError(f"{job.folder}: the preprocessing has no step `resize`")
    return size


def _write_cases(job: _Job, network: nn.Module, classifier: ClassifierOutput | None) -> list[str]:
    """Write a pattern and, a label, the mean of many images and no one's radiograph; return their names."""
    val = job.data.sets["val"]
    shape = min(150, 3 * _size(job)[0]), min(200, 4 * _size(job)[1])
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]]
    pictures = {"pattern": (np.sin(rows / 9) * np.cos(columns / 14) / 2 + 0.5).astype(np.float32)}
    for label in np.unique(val.labels)[: MAX_CASES - 1]:
        pictures[f"mean_of_label_{label}"] = val.images[val.labels == label][:AVERAGED].mean(0)[0].numpy()
    names = []
    for name, picture in pictures.items():
        pixels = torch.from_numpy((resize(picture, *shape) * 255).round().astype(np.uint8))
        prepared = prepare(bundles.reference_image({"pixels": pixels}), job.steps)[None]  # (1, 1, rows, columns)
        expected = bundles.activate(classifier, outputs(network, prepared).double())[0]
        names.append(f"reference/{name}.safetensors")
        writer.write_tensors(job.folder / names[-1], {"pixels": pixels, "expected": expected})
    return names


def default_data() -> Path:
    """Return `shared/data` beside the repository."""
    return bundles.builtin_directory().parent.parent / "shared/data"
