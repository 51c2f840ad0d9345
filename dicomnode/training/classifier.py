"""Training of a classifier: network, calibration, operating point and what it reaches on data it never saw."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dicomnode.inference.manifest import Calibration, ClassifierOutput, ClassTable, OperatingPoint
from dicomnode.inference.networks import build
from dicomnode.training import metrics
from dicomnode.training.data import ImageSet
from dicomnode.training.fit import Fitted, OnProgress, fit, outputs
from dicomnode.training.recipe import ClassifierTarget, Recipe

Figures = dict[str, object]


@dataclass(frozen=True)
class TrainedClassifier:
    """A trained network with what the manifest says about its output."""

    fitted: Fitted
    output: ClassifierOutput


def train_classifier(
    recipe: Recipe, target: ClassifierTarget, sets: dict[str, ImageSet], on_progress: OnProgress
) -> TrainedClassifier:
    """Train on `train`; choose epoch (by calibrated log loss), calibration and threshold on `val`."""
    torch.manual_seed(recipe.fit.seed)
    network = build(recipe.architecture.name, recipe.architecture.parameters)
    smoothing = recipe.fit.label_smoothing

    def loss(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        wanted = labels[:, None].float() * (1 - 2 * smoothing) + smoothing  # (B, 1)
        return functional.binary_cross_entropy_with_logits(network(images), wanted)

    def validate(network: nn.Module) -> float:
        logits = outputs(network, sets["val"].images)[:, 0].double().numpy()
        scale, offset = metrics.platt(logits, sets["val"].labels)
        scores = probabilities(logits, Calibration(method="platt", scale=max(scale, 1e-6), offset=offset))
        return metrics.log_loss(scores, sets["val"].labels)

    fitted = fit(
        network,
        sets["train"],
        loss,
        validate,
        recipe=recipe.fit,
        augmentation=recipe.augmentation,
        on_progress=on_progress,
    )
    return TrainedClassifier(fitted, _output(target, fitted.network, sets["val"]))


def _output(target: ClassifierTarget, network: nn.Module, val: ImageSet) -> ClassifierOutput:
    logits = outputs(network, val.images)[:, 0].double().numpy()
    scale, offset = metrics.platt(logits, val.labels)
    calibration = Calibration(method="platt", scale=scale, offset=offset, fitted_on=f"validation, {len(val)} images")
    scores = probabilities(logits, calibration)
    threshold = round(metrics.threshold_for_sensitivity(scores, val.labels, target.sensitivity) - 5e-7, 6)
    sensitivity = partial(metrics.sensitivity, threshold=threshold)
    specificity = partial(metrics.specificity, threshold=threshold)
    point = OperatingPoint(
        threshold=threshold,
        rule=f"largest threshold with sensitivity {target.sensitivity} on validation",
        sensitivity=sensitivity(scores, val.labels),
        sensitivity_interval=metrics.interval(sensitivity, scores, val.labels, val.patients),
        specificity=specificity(scores, val.labels),
        specificity_interval=metrics.interval(specificity, scores, val.labels, val.patients),
        measured_on=f"validation, {len(val)} images of {len(np.unique(val.patients))} patients",
    )
    known = ClassTable(
        label=target.label, code=target.code, site=target.site, priority=target.priority, operating_point=point
    )
    return ClassifierOutput(activation="sigmoid", names=(target.label,), calibration=calibration, classes=(known,))


def probabilities(logits: metrics.Scores, calibration: Calibration) -> metrics.Scores:
    """Return calibrated probabilities of logits."""
    return np.asarray(1 / (1 + np.exp(-(calibration.scale * logits + calibration.offset))))


def evaluate_classifier(trained: TrainedClassifier, images: ImageSet) -> Figures:
    """Return the metric table of one set, each figure with its 95 % interval, beside the shortcut floors."""
    logits = outputs(trained.fitted.network, images.images)[:, 0].double().numpy()
    scores = probabilities(logits, trained.output.calibration)
    threshold = trained.output.classes[0].operating_point.threshold
    measures: dict[str, Callable[[metrics.Scores, metrics.Labels], float]] = {
        "AUC": metrics.auc,
        "average precision": metrics.average_precision,
        "accuracy": partial(metrics.accuracy, threshold=threshold),
        "sensitivity": partial(metrics.sensitivity, threshold=threshold),
        "specificity": partial(metrics.specificity, threshold=threshold),
        "Brier": metrics.brier,
        "ECE": metrics.ece,
    }
    table = {
        name: {
            "value": round(measure(scores, images.labels), 4),
            "interval": [round(v, 4) for v in metrics.interval(measure, scores, images.labels, images.patients)],
        }
        for name, measure in measures.items()
    }
    floors = {f"AUC of {name} alone": round(metrics.auc(v, images.labels), 4) for name, v in images.floors.items()}
    return {"images": len(images), "positives": int(images.labels.sum()), "metrics": table, "floors": floors}
