"""Layers that several families share."""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

Norm = Literal["batch", "instance"]


class Convolution(nn.Module):
    """Convolution, normalization, relu: (B, inputs, H, W) to (B, outputs, H, W), by stride 2 half of it."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, norm: Norm = "batch") -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.norm = normalization(norm, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of a batch."""
        return functional.relu(self.norm(self.convolution(x)))  # (B, outputs, H/stride, W/stride)


def normalization(norm: Norm, channels: int) -> nn.Module:
    """Return the layer; `instance` normalizes every image by itself, so that the batch says nothing."""
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "instance":
        return nn.InstanceNorm2d(channels, affine=True)
    raise ValueError(f"norm is 'batch' or 'instance', not {norm!r}")
