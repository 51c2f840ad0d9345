"""Training of a classifier: network, calibration, operating points and what it reaches on data it never saw."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dicomnode.errors import ConfigError
from dicomnode.inference.bundle import activate
from dicomnode.inference.manifest import Calibration, ClassifierOutput, ClassTable, OperatingPoint
from dicomnode.inference.networks import build
from dicomnode.training import metrics
from dicomnode.training.data import ImageSet
from dicomnode.training.fit import Checkpoint, Fitted, LossFunction, OnProgress, fit, outputs
from dicomnode.training.recipe import ClassifierTarget, Recipe, ReportedClass
from dicomnode.training.sets import TrainingData


@dataclass(frozen=True)
class TrainedClassifier:
    """A trained network with what the manifest says about its output; `labels` is the class number of each output."""

    fitted: Fitted
    output: ClassifierOutput
    labels: tuple[int, ...]

    def probabilities(self, images: ImageSet) -> metrics.Scores:
        """Return the calibrated probability (N, outputs) of every output."""
        return activate(self.output, outputs(self.fitted.network, images.images).double()).numpy()

    def relabelled(self, images: ImageSet) -> ImageSet:
        """Return `images` with the number of its output as label; of one output 1 for its class and 0 for any other."""
        if len(self.labels) > 1:
            return images
        return replace(images, labels=(images.labels == self.labels[0]).astype(np.int64))


def train_classifier(
    recipe: Recipe,
    target: ClassifierTarget,
    known: TrainingData,
    on_progress: OnProgress,
    kept: Checkpoint | None = None,
) -> TrainedClassifier:
    """Train on `train`; choose epoch (by calibrated log loss), calibration and thresholds on `val`."""
    labels = _label_numbers(target, recipe, known.names)
    torch.manual_seed(recipe.fit.seed)
    network = build(recipe.architecture.name, recipe.architecture.parameters)
    train, val = known.sets["train"], known.sets["val"]
    _check_outputs(network, recipe, val, len(labels))

    def validate(network: nn.Module) -> float:
        logits = outputs(network, val.images).double()
        scores = activate(_bare_output(target, known.names, _calibration(target, logits, labels, val)), logits).numpy()
        return _log_loss(scores, labels, val)

    fitted = fit(
        network,
        train,
        one_vs_rest(train, labels, recipe.fit.label_smoothing),
        _loss(recipe.fit.loss, target.activation),
        validate,
        recipe=recipe.fit,
        augmentation=recipe.augmentation,
        on_progress=on_progress,
        kept=kept,
    )
    return TrainedClassifier(fitted, _output(target, fitted.network, known, labels), labels)


def _label_numbers(target: ClassifierTarget, recipe: Recipe, names: tuple[str, ...]) -> tuple[int, ...]:
    """Return the class number that each output stands for; raise `ConfigError` where recipe and data disagree."""
    if target.activation == "softmax":
        wanted = sorted([*(known.label for known in target.classes), *target.ignored])
        if wanted != sorted(names):
            raise ConfigError(f"classifier: classes and ignored are {wanted}, the data has {sorted(names)}")
        return tuple(range(len(names)))
    label = target.classes[0].label
    if label in names:
        return (names.index(label),)
    if recipe.data.set == "kermany":
        return (1,)
    raise ConfigError(f"classifier: the data has no class {label!r}, it has {', '.join(names)}")


def _check_outputs(network: nn.Module, recipe: Recipe, val: ImageSet, wanted: int) -> None:
    try:
        with torch.inference_mode():
            given = network.eval()(val.images[:2]).shape
    except (RuntimeError, ValueError) as exc:
        shape = tuple(val.images.shape[1:])
        raise ConfigError(f"architecture {recipe.architecture.name} takes no image of shape {shape}: {exc}") from exc
    if tuple(given[1:]) != (wanted,):
        raise ConfigError(
            f"architecture {recipe.architecture.name} gives {tuple(given[1:])} outputs, the recipe needs {wanted}: "
            f"set the number in [architecture.parameters]"
        )


def one_vs_rest(images: ImageSet, labels: Sequence[int], smoothing: float = 0.0) -> Tensor:
    """Return targets (N, outputs), 1 where the image is of the output's class; smoothed towards an even guess."""
    hard = torch.from_numpy(images.labels[:, None] == np.array(labels)).float()  # (N, outputs)
    if len(labels) == 1:
        return hard * (1 - 2 * smoothing) + smoothing
    return hard * (1 - smoothing) + smoothing / len(labels)


def _loss(name: str, activation: str) -> LossFunction:
    criterion: Callable[[Tensor, Tensor], Tensor]
    if name == "focal":
        from monai.losses.focal_loss import FocalLoss  # noqa: PLC0415  1 s, needed by few recipes

        criterion = FocalLoss(use_softmax=activation == "softmax")
    elif activation == "softmax":
        criterion = functional.cross_entropy
    else:
        criterion = functional.binary_cross_entropy_with_logits
    return lambda network, images, targets: criterion(network(images).float(), targets)


def _calibration(target: ClassifierTarget, logits: Tensor, labels: Sequence[int], val: ImageSet) -> Calibration:
    """Return what makes the validation labels likeliest: Platt for one output, a temperature for several."""
    where = f"validation, {len(val)} images"
    if target.activation == "softmax":
        return Calibration(method="temperature", scale=_inverse_temperature(logits, val.labels), fitted_on=where)
    positive = (val.labels == labels[0]).astype(np.int64)
    scale, offset = metrics.platt(logits[:, 0].numpy(), positive)
    return Calibration(method="platt", scale=max(scale, 1e-6), offset=offset, fitted_on=where)


def _inverse_temperature(logits: Tensor, labels: metrics.Labels) -> float:
    """Return the scale of `logits` (N, classes) that makes `labels` likeliest, between 0.05 and 20 (golden section)."""
    wanted = torch.from_numpy(labels)
    golden = (5**0.5 - 1) / 2
    low, high = np.log(0.05), np.log(20.0)
    while high - low > 1e-4:
        left, right = high - golden * (high - low), low + golden * (high - low)
        costs = [float(functional.cross_entropy(logits * np.exp(place), wanted)) for place in (left, right)]
        low, high = (low, right) if costs[0] < costs[1] else (left, high)
    return float(np.exp((low + high) / 2))


def _log_loss(scores: metrics.Scores, labels: Sequence[int], images: ImageSet) -> float:
    if len(labels) == 1:
        return metrics.log_loss(scores[:, 0], (images.labels == labels[0]).astype(np.int64))
    right = scores[np.arange(len(images)), images.labels]
    return float(-np.log(np.clip(right, 1e-12, 1)).mean())


def _bare_output(target: ClassifierTarget, names: tuple[str, ...], calibration: Calibration) -> ClassifierOutput:
    """Return an output without operating points, enough to turn logits into probabilities."""
    outputs_of = names if target.activation == "softmax" else (target.classes[0].label,)
    return ClassifierOutput.model_construct(
        activation=target.activation, names=outputs_of, calibration=calibration, ignored=target.ignored, classes=()
    )


def _output(
    target: ClassifierTarget, network: nn.Module, known: TrainingData, labels: Sequence[int]
) -> ClassifierOutput:
    val = known.sets["val"]
    logits = outputs(network, val.images).double()
    bare = _bare_output(target, known.names, _calibration(target, logits, labels, val))
    scores = activate(bare, logits).numpy()  # (N, outputs)
    classes = []
    for one in target.classes:
        column = bare.names.index(one.label)
        classes.append(_class(one, scores[:, column], (val.labels == labels[column]).astype(np.int64), val))
    return ClassifierOutput(
        activation=bare.activation,
        names=bare.names,
        ignored=target.ignored,
        calibration=bare.calibration,
        classes=tuple(classes),
    )


def _class(one: ReportedClass, scores: metrics.Scores, positive: metrics.Labels, val: ImageSet) -> ClassTable:
    """Return the manifest's table of a class: its operating point, one against the rest, and its drift reference."""
    if not positive.any() or positive.all():
        raise ConfigError(f"classifier: the validation images are all or none of class {one.label!r}")
    threshold = round(max(metrics.threshold_for_sensitivity(scores, positive, one.sensitivity) - 5e-7, 0.0), 6)
    sensitivity = partial(metrics.sensitivity, threshold=threshold)
    specificity = partial(metrics.specificity, threshold=threshold)
    point = OperatingPoint(
        threshold=threshold,
        rule=f"largest threshold with sensitivity {one.sensitivity} on validation",
        sensitivity=sensitivity(scores, positive),
        sensitivity_interval=metrics.interval(sensitivity, scores, positive, val.patients),
        specificity=specificity(scores, positive),
        specificity_interval=metrics.interval(specificity, scores, positive, val.patients),
        measured_on=f"validation, {len(val)} images of {len(np.unique(val.patients))} patients",
    )
    return ClassTable(
        label=one.label,
        code=one.code,
        site=one.site,
        priority=one.priority,
        operating_point=point,
        quantiles=tuple(round(float(q), 6) for q in np.percentile(scores, np.arange(101))),
    )
