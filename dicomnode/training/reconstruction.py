"""How well an autoencoder paints its input again."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dicomnode.errors import ConfigError
from dicomnode.inference.networks.scored_autoencoder import ScoredAutoencoder
from dicomnode.training import metrics
from dicomnode.training.data import ImageSet

BATCH = 64


def reconstruction_errors_of(network: nn.Module, images: Tensor) -> metrics.Scores:
    """Return the mean squared error (N,) of the reconstruction of each of `images` (N, 1, H, W)."""
    if not isinstance(network, ScoredAutoencoder):
        raise ConfigError(f"{type(network).__name__} is no autoencoder")
    device = next(network.parameters()).device
    errors = []
    with torch.inference_mode():
        for batch in torch.split(images, BATCH):
            shown = batch.to(device)
            again = network.decode(network.encode(shown.contiguous(memory_format=torch.channels_last)))
            errors.append((again - shown).square().mean((1, 2, 3)).cpu())  # (B,)
    return np.asarray(torch.cat(errors).double().numpy())


def reconstruction_figures(network: nn.Module, images: ImageSet) -> dict[str, Any]:
    """Return the mean squared error over a set with its 95 % bootstrap interval by patient."""
    errors = reconstruction_errors_of(network, images.images)
    spread = metrics.interval(lambda s, _: float(s.mean()), errors, images.labels, images.patients)
    return {
        "reconstruction MSE": round(float(errors.mean()), 6),
        "reconstruction MSE interval": [round(v, 6) for v in spread],
    }
