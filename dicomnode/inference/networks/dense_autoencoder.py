"""The fully connected autoencoder of the MNIST literature: pixels - code - pixels."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from dicomnode.inference.networks.scored_autoencoder import ScoredAutoencoder


class DenseAutoencoder(ScoredAutoencoder):
    """Anomaly score from (B, 1, size, size) in 0..1 to (B, 1): size*size - code - size*size, relu and sigmoid."""

    def __init__(self, size: int = 28, code: int = 64, tile: int = 7) -> None:
        super().__init__(code, tile)
        self.size = size
        self.to_code = nn.Linear(size * size, code)
        self.from_code = nn.Linear(code, size * size)

    def encode(self, x: Tensor) -> Tensor:
        """Return the codes of images in 0..1, no number below zero."""
        x = x.flatten(1)  # (B, size*size)
        return functional.relu(self.to_code(x))  # (B, code)

    def decode(self, code: Tensor) -> Tensor:
        """Return the images that codes stand for, in 0..1."""
        x = torch.sigmoid(self.from_code(code))  # (B, size*size)
        return x.reshape(-1, 1, self.size, self.size)  # (B, 1, size, size)
