"""A convolutional autoencoder: strided convolutions to a code, nearest-neighbour growth back to the image."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from dicomnode.inference.networks.scored_autoencoder import ScoredAutoencoder


class AnomalyAutoencoder(ScoredAutoencoder):
    """Anomaly score from (B, 1, size, size) in 0..1 to (B, 1); `size` is a multiple of 2 ** len(channels)."""

    def __init__(
        self, size: int = 128, channels: tuple[int, ...] = (16, 32, 64, 96, 96), code: int = 64, tile: int = 8
    ) -> None:
        super().__init__(code, tile)
        if size % 2 ** len(channels):
            raise ValueError(f"size {size} is no multiple of {2 ** len(channels)}")
        widths = (1, *channels)
        self.smallest = size >> len(channels)
        self.deepest = channels[-1]
        flat = channels[-1] * self.smallest**2
        self.down = nn.ModuleList(_down(widths[i], widths[i + 1]) for i in range(len(channels)))
        self.to_code = nn.Linear(flat, code)
        self.from_code = nn.Linear(code, flat)
        self.up = nn.ModuleList(_up(widths[i + 1], widths[i]) for i in reversed(range(1, len(channels))))
        self.last = nn.Conv2d(channels[0], 4, 3, padding=1)

    def encode(self, x: Tensor) -> Tensor:
        """Return the codes of images in 0..1."""
        x = x - 0.5
        for layer in self.down:
            x = layer(x)  # (B, channels[i], size/2**(i+1), size/2**(i+1))
        x = x.flatten(1)  # (B, C*smallest*smallest)
        code: Tensor = self.to_code(x)  # (B, code)
        return code

    def decode(self, code: Tensor) -> Tensor:
        """Return the images that codes stand for, in 0..1."""
        x = functional.relu(self.from_code(code))  # (B, C*smallest*smallest)
        x = x.reshape(-1, self.deepest, self.smallest, self.smallest)  # (B, C, smallest, smallest)
        for layer in self.up:
            x = functional.interpolate(x, scale_factor=2.0, mode="nearest")  # (B, c, 2h, 2w)
            x = layer(x)  # (B, next c, 2h, 2w)
        x = functional.pixel_shuffle(self.last(x), 2)  # (B, 1, size, size)
        return torch.sigmoid(x)


def _down(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.SiLU()
    )


def _up(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.SiLU())
