"""VGG: stages of 3x3 convolutions, each ended by a pooling that halves the image.

After Simonyan and Zisserman 2014 (arXiv:1409.1556), with normalization, and a mean over the image for the dense layers.
"""

from torch import Tensor, nn
from torch.nn import functional

from dicomnode.inference.networks.layers import Convolution, Norm


class VGG(nn.Module):
    """Classifier from (B, 1, H, W) to logits (B, outputs); the defaults are VGG-11's, stage by stage.

    Between stages the image is halved; at the last one its mean is taken.
    """

    def __init__(
        self,
        outputs: int,
        channels: tuple[int, ...] = (64, 128, 256, 512, 512),
        convolutions: tuple[int, ...] = (1, 1, 2, 2, 2),
        dropout: float = 0.0,
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        if len(channels) != len(convolutions) or not channels:
            raise ValueError(f"{len(channels)} stages of channels, {len(convolutions)} of convolutions")
        widths = (1, *channels)
        self.stages = nn.ModuleList(
            nn.Sequential(*(Convolution(widths[i + min(n, 1)], widths[i + 1], norm=norm) for n in range(count)))
            for i, count in enumerate(convolutions)
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch."""
        for number, stage in enumerate(self.stages):
            if number:
                x = functional.max_pool2d(x, 2)  # (B, C, H/2**number, W/2**number)
            x = stage(x)  # (B, channels[number], H/2**number, W/2**number)
        x = x.mean((2, 3))  # (B, C)
        logits: Tensor = self.head(self.dropout(x))  # (B, outputs)
        return logits
