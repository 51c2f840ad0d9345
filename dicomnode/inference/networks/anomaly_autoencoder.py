"""A convolutional autoencoder whose code and reconstruction errors say how far an image is from the known kind.

The score is the Mahalanobis distance of (code, log reconstruction errors) from the training images, per root of the
number of features: about 1 for the known kind. An error below the usual one counts as usual: a smooth image is no
anomaly. The statistics are buffers, saved with the weights.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

ERRORS = 3  # of the pixels, of their means over tiles, and of what is left


class AnomalyAutoencoder(nn.Module):
    """Anomaly score from (B, 1, size, size) in 0..1 to (B, 1); `size` is a multiple of 2 ** len(channels)."""

    usual_errors: Tensor
    mean: Tensor
    whitening: Tensor

    def __init__(self, size: int = 128, channels: tuple[int, ...] = (16, 32, 64, 96, 96), code: int = 64) -> None:
        super().__init__()
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
        features = code + ERRORS
        self.register_buffer("usual_errors", torch.full((ERRORS,), -100.0))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("whitening", torch.eye(features))

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

    def features(self, x: Tensor) -> Tensor:
        """Return what the score looks at: code and log errors, (B, code + errors)."""
        code = self.encode(x)  # (B, code)
        errors = reconstruction_errors(x, self.decode(code)).maximum(self.usual_errors)  # (B, errors)
        return torch.cat([code, errors], dim=1)  # (B, code + errors)

    def fit_score(self, features: Tensor, shrinkage: float) -> None:
        """Set the statistics of the score from the features of known images, (N, code + errors)."""
        usual = features[:, -ERRORS:].median(0).values
        known = torch.cat([features[:, :-ERRORS], features[:, -ERRORS:].maximum(usual)], dim=1).double()
        mean = known.mean(0)
        centered = known - mean
        covariance = centered.T @ centered / len(features)
        scale = covariance.diagonal().sqrt()
        correlation = covariance / scale.outer(scale)
        correlation = (1 - shrinkage) * correlation + shrinkage * torch.eye(len(scale), dtype=torch.float64)
        values, vectors = torch.linalg.eigh(correlation)
        self.usual_errors.copy_(usual)
        self.mean.copy_(mean)
        self.whitening.copy_((vectors / values.sqrt() / len(scale) ** 0.5) / scale[:, None])

    def forward(self, x: Tensor) -> Tensor:
        """Return the anomaly score of a batch."""
        whitened = (self.features(x) - self.mean) @ self.whitening  # (B, features)
        return whitened.square().sum(1, keepdim=True).sqrt()  # (B, 1)


def reconstruction_errors(x: Tensor, reconstruction: Tensor) -> Tensor:
    """Return log errors (B, 3): of the pixels, of their means over 8x8 tiles, and of what is left."""
    difference = x - reconstruction
    coarse = functional.avg_pool2d(difference, 8)  # (B, 1, H/8, W/8)
    total = difference.square().mean((1, 2, 3))  # (B,)
    low = coarse.square().mean((1, 2, 3))  # (B,)
    return torch.stack([total, low, total - low], dim=1).clamp_min(1e-6).log()  # (B, 3)


def _down(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.SiLU()
    )


def _up(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.SiLU())
