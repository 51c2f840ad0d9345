"""The training loop: the same for a classifier and an autoencoder, repeatable by its seed."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dicomnode.training.augment import Augmentation, augment
from dicomnode.training.data import ImageSet
from dicomnode.training.recipe import Fit

LossFunction = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""Network, images (B, 1, H, W) and labels (B,) to the loss."""


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
class Fitted:
    """The network with its best averaged weights, and the validation loss of every epoch that ran."""

    network: nn.Module
    validation_losses: tuple[float, ...]


def fit(
    network: nn.Module,
    train: ImageSet,
    loss: LossFunction,
    validate: Callable[[nn.Module], float],
    *,
    recipe: Fit,
    augmentation: Augmentation,
    on_progress: OnProgress,
) -> Fitted:
    """Train `network` in place and return the averaged weights of the epoch with the smallest loss by `validate`."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    generator = torch.Generator().manual_seed(recipe.seed)
    per_epoch = len(train) // recipe.batch
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=recipe.weight_decay)
    schedule = OneCycleLR(optimizer, recipe.learning_rate, total_steps=recipe.epochs * per_epoch)
    average = get_ema_multi_avg_fn(recipe.average_decay)  # type: ignore[no-untyped-call]
    averaged = AveragedModel(network, multi_avg_fn=average, use_buffers=True)
    labels = torch.from_numpy(train.labels)
    best: nn.Module = network
    losses: list[float] = []
    for epoch in range(recipe.epochs):
        order = torch.randperm(len(train), generator=generator)[: per_epoch * recipe.batch]
        for number, rows in enumerate(torch.split(order, recipe.batch)):
            network.train()
            images = train.images[rows]  # (B, 1, H, W)
            if epoch < recipe.half_size_epochs:
                images = functional.avg_pool2d(images, 2)  # (B, 1, H/2, W/2)
            batch = augment(images, augmentation, generator).contiguous(memory_format=torch.channels_last)
            value = loss(network, batch, labels[rows])
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            averaged.update_parameters(network)
            step = epoch * per_epoch + number + 1
            on_progress(
                Progress(step, recipe.epochs * per_epoch, epoch, value.item(), losses[-1] if losses else float("nan"))
            )
        losses.append(validate(averaged.module.eval()))
        if losses[-1] == min(losses):
            best = copy.deepcopy(averaged.module)
        if len(losses) - losses.index(min(losses)) > recipe.patience:
            break
    return Fitted(best.eval(), tuple(losses))


def outputs(network: nn.Module, images: Tensor) -> Tensor:
    """Return the raw outputs (N, outputs) for images (N, 1, H, W)."""
    network.eval()
    with torch.inference_mode():
        batches = [network(b.contiguous(memory_format=torch.channels_last)) for b in torch.split(images, 64)]
    return torch.cat(batches)
