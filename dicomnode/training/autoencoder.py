"""Training of an anomaly bundle: autoencoder, score, threshold, what it refuses, and codes of synthetic images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dicomnode.errors import ConfigError
from dicomnode.inference.bundle import Bundle
from dicomnode.inference.manifest import AnomalyOutput
from dicomnode.inference.networks import build
from dicomnode.inference.networks.scored_autoencoder import ScoredAutoencoder
from dicomnode.inference.preprocess import Step, prepare
from dicomnode.inference.synthesis import decode_codes
from dicomnode.training.data import ImageSet
from dicomnode.training.evaluate import Figures, Scored, anomaly_table
from dicomnode.training.fit import Checkpoint, Fitted, OnProgress, fit, outputs
from dicomnode.training.recipe import AnomalyTarget, Recipe
from dicomnode.training.reconstruction import reconstruction_errors_of, reconstruction_figures

NEIGHBOURS = 8
"""Codes averaged for one synthetic image, so that it shows no one patient."""


@dataclass(frozen=True)
class TrainedAutoencoder:
    """A trained network with what the manifest says about its score."""

    fitted: Fitted
    network: ScoredAutoencoder
    output: AnomalyOutput


def train_autoencoder(
    recipe: Recipe,
    target: AnomalyTarget,
    sets: dict[str, ImageSet],
    on_progress: OnProgress,
    kept: Checkpoint | None = None,
) -> TrainedAutoencoder:
    """Train on `train`, fit the score there; choose epoch and threshold on `val`."""
    torch.manual_seed(recipe.fit.seed)
    network = build(recipe.architecture.name, recipe.architecture.parameters)
    if not isinstance(network, ScoredAutoencoder):
        raise ConfigError(f"an anomaly bundle needs an autoencoder, not {recipe.architecture.name}")

    fitted = fit(
        network,
        sets["train"],
        torch.zeros(len(sets["train"]), 0),  # an autoencoder's target is its input
        _loss,
        lambda network: float(reconstruction_errors_of(network, sets["val"].images).mean()),
        recipe=recipe.fit,
        augmentation=recipe.augmentation,
        on_progress=on_progress,
        kept=kept,
    )
    best = fitted.network
    assert isinstance(best, ScoredAutoencoder)  # noqa: S101  built above
    best.fit_score(_features(best, sets["train"].images), target.shrinkage)
    return TrainedAutoencoder(fitted, best, _output(target, best, sets["val"]))


def _loss(network: nn.Module, images: Tensor, _targets: Tensor) -> Tensor:
    assert isinstance(network, ScoredAutoencoder)  # noqa: S101  `train_autoencoder` built it
    return (network.decode(network.encode(images)).float() - images).square().mean()


def _features(network: ScoredAutoencoder, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat([network.features(batch) for batch in torch.split(images, 64)])


def _output(target: AnomalyTarget, network: ScoredAutoencoder, val: ImageSet) -> AnomalyOutput:
    scores = outputs(network, val.images)[:, 0].double().numpy()
    return AnomalyOutput(
        score_name=target.score_name,
        unit=target.unit,
        threshold=round(float(np.quantile(scores, target.flag_quantile)), 6),
        flag_quantile=target.flag_quantile,
        quantiles=tuple(round(float(q), 6) for q in np.percentile(scores, np.arange(101))),
        measured_on=f"validation, {len(val)} images of {len(np.unique(val.patients))} patients",
    )


def evaluate_autoencoder(trained: TrainedAutoencoder, test: ImageSet, wrong: Mapping[str, ImageSet]) -> Figures:
    """Return the figures of score and reconstruction on genuine test images and each kind of wrong input."""
    table = anomaly_table(
        trained.output, _scored(trained, test), {name: _scored(trained, images) for name, images in wrong.items()}
    )
    return table | reconstruction_figures(trained.network, test)


def _scored(trained: TrainedAutoencoder, images: ImageSet) -> Scored:
    return Scored(images, outputs(trained.network, images.images).double().numpy())


def synthetic_codes(
    trained: TrainedAutoencoder, val: ImageSet, target: AnomalyTarget, steps: Sequence[Step], judge: Bundle
) -> dict[str, Tensor]:
    """Return averaged codes of validation images as `codes` (N, code) and the judge's probability of each.

    Each candidate is the mean of neighbouring codes of one label; kept are those that are not unusual themselves and
    that the judge puts lowest and highest.
    """
    codes = _codes(trained.network, val.images)
    averages = torch.cat([_averages(codes[torch.from_numpy(val.labels == label)]) for label in np.unique(val.labels)])
    pictures = [(picture / 255).astype(np.float32) for picture in decode_codes(trained.network, averages)]
    again = torch.stack([prepare(picture, steps) for picture in pictures])
    usual = np.flatnonzero(outputs(trained.network, again)[:, 0].numpy() <= trained.output.threshold)
    judged = judge.run(torch.stack([judge.prepare(picture) for picture in pictures]))[:, 0]
    ranked = usual[np.argsort(judged[usual], kind="stable")]
    count = target.demo_codes_per_class
    if len(ranked) < 2 * count:
        raise ConfigError(f"only {len(ranked)} of {len(averages)} synthetic images look usual, {2 * count} are wanted")
    kept = np.concatenate([ranked[:count], ranked[-count:]])
    return {"codes": averages[kept], "judged": torch.from_numpy(judged[kept])}


def _averages(codes: Tensor) -> Tensor:
    """Return the mean of each code with its nearest neighbours, for every `NEIGHBOURS`-th of `codes` (N, code)."""
    nearest = torch.cdist(codes, codes).argsort(dim=1)[::NEIGHBOURS, :NEIGHBOURS]  # (M, NEIGHBOURS)
    return codes[nearest].mean(1)  # (M, code)


def _codes(network: ScoredAutoencoder, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat([network.encode(batch) for batch in torch.split(images, 64)])
