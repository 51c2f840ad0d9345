"""The training loop: the same for a classifier and an autoencoder, repeatable by its seed, resumable after a kill."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dicomnode.errors import ConfigError
from dicomnode.training import checkpoint
from dicomnode.training.augment import Augmentation, augment, mix
from dicomnode.training.data import ImageSet
from dicomnode.training.recipe import Fit

SHORTEST_AVERAGE = 10
"""How many times as long as its average remembers a training is at least: a short one must forget its first weights."""

LossFunction = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""Network, images (B, 1, H, W) and targets (B, outputs) to the loss."""


@dataclass(frozen=True)
class Progress:
    """Where a training stands: `step` of `steps` in all; the last losses, NaN before there are any."""

    step: int
    steps: int
    epoch: int
    training_loss: float
    validation_loss: float


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class Checkpoint:
    """Where a training keeps what it needs to go on after a kill; `key` names recipe and data."""

    file: Path
    key: str


@dataclass
class History:
    """An entry an epoch that ran, and the time they took in all."""

    training_losses: list[float] = field(default_factory=list)
    validation_losses: list[float] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)
    wall_s: float = 0.0


@dataclass(frozen=True)
class Fitted:
    """The network with its best averaged weights, and how it came about."""

    network: nn.Module
    history: History
    device: str


def fit(
    network: nn.Module,
    train: ImageSet,
    targets: Tensor,
    loss: LossFunction,
    validate: Callable[[nn.Module], float],
    *,
    recipe: Fit,
    augmentation: Augmentation,
    on_progress: OnProgress,
    kept: Checkpoint | None = None,
) -> Fitted:
    """Train `network` in place and return the averaged weights of the epoch with the smallest loss by `validate`.

    `targets` (N, outputs) belong to the images of `train`. Where `kept` holds a checkpoint, training goes on from it.
    """
    per_epoch = len(train) // recipe.batch
    if not per_epoch:
        raise ConfigError(f"fit.batch is {recipe.batch}, there are {len(train)} training images: make it smaller")
    run = _Run(network, recipe, per_epoch)
    resumed = checkpoint.load(kept.file, kept.key) if kept else None
    if resumed is not None:
        run.restore(*resumed)
    steps = recipe.epochs * per_epoch
    while len(run.history.validation_losses) < recipe.epochs and not _has_settled(run.history, recipe.patience):
        epoch, started, losses = len(run.history.validation_losses), time.monotonic(), []
        order = torch.randperm(len(train), generator=run.generator)[: per_epoch * recipe.batch]
        for number, rows in enumerate(torch.split(order, recipe.batch)):
            images, wanted = _batch(train, targets, rows, recipe, augmentation, run.generator, epoch)
            losses.append(run.step(images, wanted, loss))
            before = run.history.validation_losses[-1] if run.history.validation_losses else float("nan")
            on_progress(Progress(epoch * per_epoch + number + 1, steps, epoch, losses[-1], before))
        run.end_epoch(float(np.mean(losses)), validate, time.monotonic() - started)
        if kept is not None:
            checkpoint.save(kept.file, kept.key, run.tensors(), run.facts())
        last = run.history.validation_losses[-1]
        on_progress(Progress((epoch + 1) * per_epoch, steps, epoch + 1, losses[-1], last))
    run.averaged.module.load_state_dict(run.best)
    return Fitted(run.averaged.module.cpu().eval(), run.history, run.device.type)


def _batch(
    train: ImageSet,
    targets: Tensor,
    rows: Tensor,
    recipe: Fit,
    augmentation: Augmentation,
    generator: Generator,
    epoch: int,
) -> tuple[Tensor, Tensor]:
    """Return augmented images (B, 1, H, W) and their targets (B, outputs)."""
    images = train.images[rows]  # (B, 1, H, W)
    if train.squashed is not None:
        as_stored = torch.rand(len(rows), 1, 1, 1, generator=generator) < 0.5
        images = torch.where(as_stored, train.squashed[rows], images)
    if epoch < recipe.half_size_epochs:
        images = functional.avg_pool2d(images, 2)  # (B, 1, H/2, W/2)
    images, wanted = augment(images, augmentation, generator), targets[rows]
    return mix(images, wanted, recipe.mixup, generator) if recipe.mixup else (images, wanted)


def _has_settled(history: History, patience: int) -> bool:
    losses = history.validation_losses
    return bool(losses) and len(losses) - losses.index(min(losses)) > patience


class _Run:
    """The state of a training between two epochs."""

    def __init__(self, network: nn.Module, recipe: Fit, per_epoch: int) -> None:
        self.recipe = recipe
        self.device = device_of(recipe)
        self.network = network.to(self.device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.generator = Generator().manual_seed(recipe.seed)
        self.optimizer = _optimizer(recipe, network)
        steps = recipe.epochs * per_epoch
        self.schedule = _schedule(recipe, self.optimizer, steps)
        decay = max(min(recipe.average_decay, 1 - SHORTEST_AVERAGE / steps), 0.0)
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self.averaged = AveragedModel(network, multi_avg_fn=average, use_buffers=True)
        self.best: dict[str, Tensor] = {}
        self.history = History()

    def step(self, images: Tensor, targets: Tensor, loss: LossFunction) -> float:
        """Take one step of the optimizer and return the loss before it."""
        self.network.train()
        batch = images.to(self.device).contiguous(memory_format=torch.channels_last)
        mixed = self.recipe.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=mixed):
            value = loss(self.network, batch, targets.to(self.device))
        self.optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.schedule.step()
        self.averaged.update_parameters(self.network)
        return value.item()

    def end_epoch(self, training_loss: float, validate: Callable[[nn.Module], float], wall_s: float) -> None:
        """Validate the averaged weights and keep them if they are the best so far."""
        losses, started = self.history.validation_losses, time.monotonic()
        losses.append(validate(self.averaged.module.eval()))
        if not math.isfinite(losses[-1]):
            raise ConfigError(f"the loss of epoch {len(losses)} is {losses[-1]}: make fit.learning_rate smaller")
        if losses[-1] == min(losses):
            self.best = copy.deepcopy(self.averaged.module.state_dict())
        self.history.training_losses.append(training_loss)
        self.history.learning_rates.append(float(self.schedule.get_last_lr()[0]))
        self.history.wall_s += wall_s + time.monotonic() - started

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor that the rest of the training depends on."""
        found = checkpoint.with_prefix("network", self.network.state_dict())
        found |= checkpoint.with_prefix("averaged", self.averaged.state_dict())
        found |= checkpoint.with_prefix("best", self.best)
        found |= checkpoint.optimizer_tensors(self.optimizer)
        found |= {"generator": self.generator.get_state(), "torch": torch.get_rng_state()}
        return found | ({"cuda": torch.cuda.get_rng_state()} if self.device.type == "cuda" else {})

    def facts(self) -> dict[str, object]:
        """Return what else it depends on, as JSON."""
        groups = self.optimizer.state_dict()["param_groups"]
        return {"history": vars(self.history), "schedule": self.schedule.state_dict(), "groups": groups}

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Be where the checkpoint was written."""
        self.network.load_state_dict(checkpoint.without_prefix("network", tensors))
        self.averaged.load_state_dict(checkpoint.without_prefix("averaged", tensors))
        self.best = checkpoint.without_prefix("best", tensors)
        self.schedule.load_state_dict(facts["schedule"])
        checkpoint.restore_optimizer(self.optimizer, self.network, tensors, facts["groups"])
        self.history = History(**facts["history"])
        self.generator.set_state(tensors["generator"])
        torch.set_rng_state(tensors["torch"])
        if "cuda" in tensors:
            torch.cuda.set_rng_state(tensors["cuda"])


def _optimizer(recipe: Fit, network: nn.Module) -> Optimizer:
    family = AdamW if recipe.optimizer == "adamw" else Adam
    return family(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)


def _schedule(recipe: Fit, optimizer: Optimizer, steps: int) -> LRScheduler:
    if recipe.schedule == "constant":
        return ConstantLR(optimizer, factor=1.0, total_iters=0)
    return OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps)


def device_of(recipe: Fit) -> torch.device:
    """Return where to train; raise `ConfigError` where a GPU is wanted and there is none."""
    there = torch.cuda.is_available()
    if recipe.device == "cuda" and not there:
        raise ConfigError('fit.device is "cuda", but torch sees no GPU here: set it to "auto" or "cpu"')
    return torch.device("cuda" if there and recipe.device != "cpu" else "cpu")


def outputs(network: nn.Module, images: Tensor) -> Tensor:
    """Return the raw outputs (N, outputs) for images (N, 1, H, W)."""
    network.eval()
    device = next(network.parameters()).device
    with torch.inference_mode():
        batches = torch.split(images, 64)
        return torch.cat([network(b.to(device).contiguous(memory_format=torch.channels_last)).cpu() for b in batches])
