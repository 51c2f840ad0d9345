"""What every autoencoder of an anomaly bundle shares: a score of how far an image is from the known kind.

The score is the Mahalanobis distance of (code, log reconstruction errors) from the training images, per root of the
number of features: about 1 for the known kind. An error below the usual one counts as usual: a smooth image is no
anomaly. The statistics are buffers, saved with the weights.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

ERRORS = 3  # of the pixels, of their means over tiles, and of what is left


class ScoredAutoencoder(nn.Module):
    """Anomaly score from (B, 1, H, W) in 0..1 to (B, 1); a family says how to `encode` and `decode`."""

    usual_errors: Tensor
    mean: Tensor
    whitening: Tensor

    def __init__(self, code: int, tile: int = 8) -> None:
        super().__init__()
        self.tile = tile
        features = code + ERRORS
        self.register_buffer("usual_errors", torch.full((ERRORS,), -100.0))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("whitening", torch.eye(features))

    def encode(self, x: Tensor) -> Tensor:
        """Return the codes (B, code) of images in 0..1."""
        raise NotImplementedError

    def decode(self, code: Tensor) -> Tensor:
        """Return the images (B, 1, H, W) that codes stand for, in 0..1."""
        raise NotImplementedError

    def features(self, x: Tensor) -> Tensor:
        """Return what the score looks at: code and log errors, (B, code + errors)."""
        code = self.encode(x)  # (B, code)
        errors = reconstruction_errors(x, self.decode(code), self.tile).maximum(self.usual_errors)  # (B, errors)
        return torch.cat([code, errors], dim=1)  # (B, code + errors)

    def fit_score(self, features: Tensor, shrinkage: float) -> None:
        """Set the statistics of the score from the features of known images, (N, code + errors).

        A feature that never changes (a dead unit) counts for nothing in them.
        """
        usual = features[:, -ERRORS:].median(0).values
        known = torch.cat([features[:, :-ERRORS], features[:, -ERRORS:].maximum(usual)], dim=1).double()
        mean = known.mean(0)
        centered = known - mean
        covariance = centered.T @ centered / len(features)
        scale = covariance.diagonal().sqrt()
        scale = torch.where(scale > scale.max() * 1e-6, scale, torch.inf)
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


def reconstruction_errors(x: Tensor, reconstruction: Tensor, tile: int = 8) -> Tensor:
    """Return log errors (B, 3): of the pixels, of their means over tiles, and of what is left."""
    difference = x - reconstruction
    coarse = functional.avg_pool2d(difference, tile)  # (B, 1, H/tile, W/tile)
    total = difference.square().mean((1, 2, 3))  # (B,)
    low = coarse.square().mean((1, 2, 3))  # (B,)
    return torch.stack([total, low, total - low], dim=1).clamp_min(1e-6).log()  # (B, 3)
