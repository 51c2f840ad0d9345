"""GoogLeNet: blocks that look with four widths at once (Inception).

After Szegedy and others 2014 (arXiv:1409.4842), with normalization and without the auxiliary heads.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from dicomnode.inference.networks.layers import Convolution, Norm

# 1x1; 1x1 before 3x3, 3x3; 1x1 before 5x5, 5x5; 1x1 after the pooling: table 1 of the paper
STAGES: tuple[tuple[tuple[int, int, int, int, int, int], ...], ...] = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)


class GoogLeNet(nn.Module):
    """Classifier from (B, 1, H, W) to logits (B, outputs); `width` scales every number of channels of the paper."""

    def __init__(self, outputs: int, width: float = 1.0, dropout: float = 0.4, norm: Norm = "batch") -> None:
        super().__init__()
        first, third = _scaled(64, width), _scaled(192, width)
        self.stem = nn.Sequential(
            Convolution(1, first, 7, stride=2, norm=norm),  # (B, 64, H/2, W/2)
            nn.MaxPool2d(3, 2, padding=1),  # (B, 64, H/4, W/4)
            Convolution(first, first, 1, norm=norm),
            Convolution(first, third, 3, norm=norm),  # (B, 192, H/4, W/4)
        )
        inputs = third
        self.stages = nn.ModuleList()
        for stage in STAGES:
            blocks = nn.Sequential()
            for widths in stage:
                block = _Inception(inputs, tuple(_scaled(channels, width) for channels in widths), norm)
                blocks.append(block)
                inputs = block.outputs
            self.stages.append(blocks)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch."""
        x = self.stem(x)  # (B, 192, H/4, W/4)
        for stage in self.stages:
            x = functional.max_pool2d(x, 3, 2, padding=1)  # (B, C, H/8, W/8), then H/16, then H/32
            x = stage(x)  # (B, next C, H/8, W/8), and so on
        x = x.mean((2, 3))  # (B, 1024)
        logits: Tensor = self.head(self.dropout(x))  # (B, outputs)
        return logits


class _Inception(nn.Module):
    """Four looks side by side: (B, inputs, H, W) to (B, outputs, H, W)."""

    def __init__(self, inputs: int, widths: tuple[int, ...], norm: Norm) -> None:
        super().__init__()
        one, before_three, three, before_five, five, pooled = widths
        self.outputs = one + three + five + pooled
        self.looks = nn.ModuleList(
            [
                Convolution(inputs, one, 1, norm=norm),
                nn.Sequential(
                    Convolution(inputs, before_three, 1, norm=norm), Convolution(before_three, three, 3, norm=norm)
                ),
                nn.Sequential(
                    Convolution(inputs, before_five, 1, norm=norm), Convolution(before_five, five, 5, norm=norm)
                ),
                nn.Sequential(nn.MaxPool2d(3, 1, padding=1), Convolution(inputs, pooled, 1, norm=norm)),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([look(x) for look in self.looks], dim=1)  # (B, outputs, H, W)


def _scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width))
