"""What a bundle reaches on labelled images, as the tables of metrics.json, the card and `dicomnode evaluate`.

Each figure has its 95 % bootstrap interval by patient; beside it stand the shortcut floors (what a number that is no
anatomy reaches), the linear baseline and the subgroups. A figure without a denominator is None.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dicomnode.inference.bundle import Bundle
from dicomnode.inference.manifest import AnomalyOutput, ClassifierOutput
from dicomnode.inference.networks.scored_autoencoder import ScoredAutoencoder
from dicomnode.training import weighted
from dicomnode.training.baseline import baseline_scores, stored_baseline
from dicomnode.training.data import ImageSet, OnLoad, sharpness
from dicomnode.training.labelled import load_sets
from dicomnode.training.reconstruction import reconstruction_figures
from dicomnode.training.weighted import Labels, Metric, Scores, Values

Figures = dict[str, Any]  # what JSON holds
BATCH = 64
TOO_FEW = 10
"""Images that a denominator needs in a subgroup: with fewer the interval says nothing."""
DECIMALS = 4


@dataclass(frozen=True)
class Scored:
    """A set with what the bundle says of it: `scores` (N, outputs), calibrated probabilities or anomaly scores."""

    images: ImageSet
    scores: Scores


@dataclass(frozen=True)
class Evaluation:
    """A bundle, its labelled sets with what it says of them, the figures, and how many files were refused and why.

    `figures` are the table of each set of a classifier, and the one table of an anomaly bundle under `test`.
    """

    bundle: Bundle
    sets: dict[str, Scored]
    figures: dict[str, Figures]
    refused: Mapping[str, int]


def evaluate_bundle(bundle: Bundle, root: Path, wanted: Sequence[str], progress: OnLoad) -> Evaluation:
    """Return what a loaded bundle reaches on the sets in `root`, or on those that `wanted` names.

    `progress` counts the images read and then those scored. Raises `ConfigError` where the data is not as it must be.
    """
    found = load_sets(bundle, root, wanted, progress)
    sets = {name: Scored(images, _run(bundle, images, progress)) for name, images in found.sets.items()}
    manifest = bundle.manifest
    if manifest.anomaly is not None:
        genuine, *wrong = sets
        table = anomaly_table(manifest.anomaly, sets[genuine], {name: sets[name] for name in wrong})
        if isinstance(bundle.network, ScoredAutoencoder):
            table |= reconstruction_figures(bundle.network, sets[genuine].images)
        return Evaluation(bundle, sets, {"test": table}, found.refused)
    assert manifest.classifier is not None  # noqa: S101  the manifest has one output
    baseline = stored_baseline(bundle)
    figures = {
        name: classifier_table(
            manifest.classifier,
            scored,
            None if baseline is None else baseline_scores(baseline, scored.images.images),
        )
        for name, scored in sets.items()
    }
    return Evaluation(bundle, sets, figures, found.refused)


def _run(bundle: Bundle, images: ImageSet, progress: OnLoad) -> Scores:
    outputs = []
    for start in range(0, len(images), BATCH):
        outputs.append(bundle.run(images.images[start : start + BATCH]))
        progress(min(start + BATCH, len(images)), len(images))
    return np.concatenate(outputs)


def results(found: Evaluation) -> Figures:
    """Return an evaluation as JSON holds it; the figures as in metrics.json."""
    identity = found.bundle.identity
    figures = found.figures if identity.kind == "anomaly" else {"sets": found.figures}
    return {
        "bundle": {
            "name": identity.name,
            "version": identity.version,
            "digest": identity.digest,
            "weights": identity.weights_digest,
        },
        **figures,
        "refused": dict(found.refused),
    }


def classifier_table(output: ClassifierOutput, scored: Scored, baseline: Scores | None = None) -> Figures:
    """Return the figures of a classifier on one set; `baseline` (N, outputs) is what the linear baseline says."""
    images = scored.images
    is_binary = len(output.names) == 1
    table: Figures = {"images": len(images), "patients": len(np.unique(images.patients))}
    if is_binary:
        table |= {"positives": int(images.labels.sum()), "metrics": _binary(output, scored)}
    else:
        table |= _multiclass(output, scored)
    table["confusion"] = confusion(output, scored)
    table["operating points"] = {
        known.label: _operating_point(
            known.operating_point.threshold, *_one_class(output, scored, output.names.index(known.label)), images
        )
        for known in output.classes
    }
    classes = [1] if is_binary else [n for n in range(len(output.names)) if (images.labels == n).any()]
    table["floors"] = {
        f"AUC of {name} alone": _number(float(np.mean([_either_way(values, _is(images.labels, n)) for n in classes])))
        for name, values in images.floors.items()
    }
    if baseline is not None:
        table["baseline"] = _baseline(baseline, images, classes)
    table["subgroups"] = {
        name: _subgroup(output, scored, chosen)
        for name, chosen in images.groups.items()
        if chosen.any() and not chosen.all()
    }
    return table


def _binary(output: ClassifierOutput, scored: Scored) -> Figures:
    threshold = output.classes[0].operating_point.threshold
    metrics: dict[str, Metric] = {
        "AUC": weighted.auc,
        "average precision": weighted.average_precision,
        "accuracy": partial(weighted.accuracy, threshold=threshold),
        "precision": partial(weighted.precision, threshold=threshold),
        "sensitivity": partial(weighted.sensitivity, threshold=threshold),
        "specificity": partial(weighted.specificity, threshold=threshold),
        "F1": partial(weighted.f1, threshold=threshold),
        "Brier": weighted.brier,
        "ECE": weighted.ece,
        "log loss": weighted.log_loss,
    }
    return _measured(metrics, scored.scores[:, 0], scored.images)


def _multiclass(output: ClassifierOutput, scored: Scored) -> Figures:
    """Return the figures of the most probable class, of each class against the rest, and their means (macro)."""
    images, scores = scored.images, scored.scores
    answers = scores.argmax(1)
    ranked: dict[str, Metric] = {"AUC": weighted.auc, "average precision": weighted.average_precision}
    decided: dict[str, Metric] = {
        name: partial(metric, threshold=0.5)
        for name, metric in (
            ("precision", weighted.precision),
            ("sensitivity", weighted.sensitivity),
            ("specificity", weighted.specificity),
            ("F1", weighted.f1),
        )
    }
    draws: dict[str, dict[str, Values]] = {}
    for number, name in enumerate(output.names):
        labels = _is(images.labels, number)
        if labels.any():
            chosen = (answers == number).astype(np.float64)
            draws[name] = weighted.draws(ranked, scores[:, number], labels, images.patients)
            draws[name] |= weighted.draws(decided, chosen, labels, images.patients)
    macro = {
        f"macro {metric}": np.mean([found[metric] for found in draws.values()], axis=0) for metric in ranked | decided
    }
    right, top = (answers == images.labels).astype(np.int64), scores.max(1)
    truth = np.eye(len(output.names))[images.labels]
    true_class = scores[np.arange(len(images)), images.labels]
    over_all: dict[str, Metric] = {
        "accuracy": lambda _, labels, weights: weighted.mean(labels.astype(np.float64), weights),
        "Brier": lambda _, labels, weights: weighted.mean(((scores - truth) ** 2).sum(1), weights),
        "ECE": weighted.ece,
        "log loss": lambda _, labels, weights: weighted.mean(-np.log(np.clip(true_class, 1e-12, 1)), weights),
    }
    summed = {**weighted.draws(over_all, top, right, images.patients), **macro}
    order = ["accuracy", *macro, "Brier", "ECE", "log loss"]
    return {
        "metrics": {name: _figure(summed[name]) for name in order},
        "classes": {
            name: {
                "images": int(_is(images.labels, output.names.index(name)).sum()),
                "metrics": {metric: _figure(values) for metric, values in found.items()},
            }
            for name, found in draws.items()
        },
    }


def confusion(output: ClassifierOutput, scored: Scored) -> Figures:
    """Return the counts, a row a true class and a column an answer (with one output: at the operating point)."""
    labels = scored.images.labels
    if len(output.names) == 1:
        names = [f"not {output.names[0]}", output.names[0]]
        answers = (scored.scores[:, 0] >= output.classes[0].operating_point.threshold).astype(np.int64)
    else:
        names, answers = list(output.names), scored.scores.argmax(1)
    table = np.bincount(labels * len(names) + answers, minlength=len(names) ** 2)
    return {"names": names, "rows": table.reshape(len(names), len(names)).tolist()}


def _one_class(output: ClassifierOutput, scored: Scored, number: int) -> tuple[Scores, Labels]:
    """Return scores and labels 0 and 1 of one class against the rest."""
    labels = scored.images.labels
    return scored.scores[:, number], labels if len(output.names) == 1 else _is(labels, number)


def _operating_point(threshold: float, scores: Scores, labels: Labels, images: ImageSet) -> Figures:
    metrics: dict[str, Metric] = {
        "sensitivity": partial(weighted.sensitivity, threshold=threshold),
        "specificity": partial(weighted.specificity, threshold=threshold),
        "PPV": partial(weighted.precision, threshold=threshold),
        "NPV": partial(weighted.negative_predictive_value, threshold=threshold),
    }
    found = weighted.draws(metrics, scores, labels, images.patients)
    return {"threshold": threshold, **{name: _figure(values) for name, values in found.items()}}


def _baseline(scores: Scores, images: ImageSet, classes: Sequence[int]) -> Figures:
    """Return what the linear baseline reaches: AUC (a class against the rest, their mean) and its accuracy."""
    columns = {number: scores[:, number if scores.shape[1] > 1 else 0] for number in classes}
    aucs = [
        weighted.draws({"AUC": weighted.auc}, column, _is(images.labels, number), images.patients)["AUC"]
        for number, column in columns.items()
    ]
    answers = scores.argmax(1) if scores.shape[1] > 1 else (scores[:, 0] >= 0.5).astype(np.int64)
    right = _measured({"accuracy": _share_of_labels}, scores[:, 0], images, (answers == images.labels).astype(np.int64))
    name = "AUC" if scores.shape[1] == 1 else "macro AUC"
    return {name: _figure(np.mean(aucs, axis=0)), **right}


def _share_of_labels(_: Scores, labels: Labels, weights: Values) -> Values:
    return weighted.mean(labels.astype(np.float64), weights)


def _subgroup(output: ClassifierOutput, scored: Scored, chosen: NDArray[np.bool_]) -> Figures:
    """Return the main figures of a part of the set; None where the denominator is below `TOO_FEW`."""
    images = scored.images
    labels, scores, patients = images.labels[chosen], scored.scores[chosen], images.patients[chosen]
    table: Figures = {"images": len(labels)}
    if len(output.names) > 1:
        right = (scores.argmax(1) == labels).astype(np.int64)
        metrics: dict[str, Metric] = {"accuracy": _share_of_labels}
        enough = {"accuracy": len(labels) >= TOO_FEW}
    else:
        right = labels
        positives, negatives = int(labels.sum()), int((1 - labels).sum())
        table["positives"] = positives
        threshold = output.classes[0].operating_point.threshold
        metrics = {
            "AUC": weighted.auc,
            "sensitivity": partial(weighted.sensitivity, threshold=threshold),
            "specificity": partial(weighted.specificity, threshold=threshold),
        }
        enough = {
            "AUC": min(positives, negatives) >= TOO_FEW,
            "sensitivity": positives >= TOO_FEW,
            "specificity": negatives >= TOO_FEW,
        }
    found = weighted.draws(metrics, scores[:, 0], right, patients)
    table["metrics"] = {name: _figure(values) if enough[name] else None for name, values in found.items()}
    return table


def anomaly_table(output: AnomalyOutput, genuine: Scored, wrong: Mapping[str, Scored]) -> Figures:
    """Return the share of genuine images that is flagged, and how well each kind of wrong input stands out."""
    images = genuine.images
    scores = genuine.scores[:, 0]
    flagged = _flagged(output, genuine)
    table: Figures = {
        "images": len(images),
        "patients": len(np.unique(images.patients)),
        "genuine flagged": flagged["value"],
        "genuine flagged interval": flagged["interval"],
    }
    if {*images.labels.tolist()} == {0, 1}:
        table["pneumonia by the score, AUC"] = _number(
            weighted.auc(scores, images.labels, np.ones((1, len(images))))[0]
        )
    table["wrong inputs"] = {name: _wrong(output, genuine, other) for name, other in wrong.items()}
    table["subgroups"] = {
        name: {
            "images": int(chosen.sum()),
            "flagged": _flagged(output, genuine, chosen) if chosen.sum() >= TOO_FEW else None,
        }
        for name, chosen in images.groups.items()
        if chosen.any() and not chosen.all()
    }
    return table


def _flagged(output: AnomalyOutput, scored: Scored, chosen: NDArray[np.bool_] | None = None) -> Figures:
    rows = np.ones(len(scored.images), np.bool_) if chosen is None else chosen
    above = (scored.scores[rows, 0] > output.threshold).astype(np.int64)
    metrics: dict[str, Metric] = {"flagged": _share_of_labels}
    return _figure(weighted.draws(metrics, scored.scores[rows, 0], above, scored.images.patients[rows])["flagged"])


def _wrong(output: AnomalyOutput, genuine: Scored, other: Scored) -> Figures:
    labels = np.repeat([0, 1], [len(genuine.images), len(other.images)])
    scores = np.concatenate([genuine.scores[:, 0], other.scores[:, 0]])
    patients = np.concatenate([genuine.images.patients, other.images.patients])
    auc = _figure(weighted.draws({"AUC": weighted.auc}, scores, labels, patients)["AUC"])
    flagged = _flagged(output, other)
    pixels = torch.cat([genuine.images.images, other.images.images])[:, 0].numpy()
    smooth = _either_way(np.array([sharpness(image) for image in pixels]), labels)
    return {
        "images": len(other.images),
        "AUC": auc["value"],
        "AUC interval": auc["interval"],
        "flagged": flagged["value"],
        "flagged interval": flagged["interval"],
        "AUC of sharpness alone": _number(smooth),
    }


def _is(labels: Labels, number: int) -> Labels:
    return np.asarray(labels == number, dtype=np.int64)


def _either_way(values: Values, labels: Labels) -> float:
    """Return the AUC of a number that may point either way."""
    found = float(weighted.auc(values, labels, np.ones((1, len(labels))))[0])
    return max(found, 1 - found)


def _measured(metrics: Mapping[str, Metric], scores: Scores, images: ImageSet, labels: Labels | None = None) -> Figures:
    wanted = images.labels if labels is None else labels
    return {name: _figure(v) for name, v in weighted.draws(metrics, scores, wanted, images.patients).items()}


def _figure(values: Values) -> Figures:
    """Return the plain value and the interval of what `weighted.draws` gave."""
    low, high = weighted.percentiles(values[1:])
    return {"value": _number(values[0]), "interval": None if np.isnan(low) else [_number(low), _number(high)]}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), DECIMALS)
