"""A small residual CNN: one strided convolution, then residual blocks that each halve the image."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class ResidualCNN(nn.Module):
    """Classifier from (B, input_channels, H, W) to logits (B, outputs); H and W are multiples of 2 ** (1 + blocks)."""

    def __init__(
        self,
        outputs: int,
        input_channels: int = 1,
        stem: int = 16,
        channels: tuple[int, ...] = (32, 64, 128, 256),
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        widths = (stem, *channels)
        self.stem = nn.Conv2d(input_channels, stem, 5, stride=2, padding=2, bias=False)
        self.stem_norm = nn.BatchNorm2d(stem)
        self.blocks = nn.ModuleList(_Block(widths[i], widths[i + 1]) for i in range(len(channels)))
        self.explained_layer = f"blocks.{len(channels) - 1}"
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * widths[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch."""
        x = functional.relu(self.stem_norm(self.stem(x)))  # (B, stem, H/2, W/2)
        for block in self.blocks:
            x = block(x)  # (B, channels[i], H/2**(i+2), W/2**(i+2))
        x = torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)  # (B, 2*C)
        logits: Tensor = self.head(self.dropout(x))  # (B, outputs)
        return logits


class _Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, the first of stride 2: (B, inputs, H, W) to (B, outputs, H/2, W/2)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.shortcut_norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.first_norm(self.first(x)))  # (B, outputs, H/2, W/2)
        y = self.second_norm(self.second(y))
        x = functional.avg_pool2d(x, 2)  # (B, inputs, H/2, W/2)
        return functional.relu(y + self.shortcut_norm(self.shortcut(x)))  # (B, outputs, H/2, W/2)
