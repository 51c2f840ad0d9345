"""The small CNN of the MNIST literature: two convolutions with pooling and one dense layer."""

from torch import Tensor, nn
from torch.nn import functional


class MnistCNN(nn.Module):
    """Classifier from (B, 1, size, size) to logits (B, outputs), 34,826 parameters at 28 x 28 and ten outputs."""

    def __init__(self, outputs: int = 10, size: int = 28, dropout: float = 0.0) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 32, 3)
        self.second = nn.Conv2d(32, 64, 3)
        self.dropout = nn.Dropout(dropout)
        smallest = ((size - 2) // 2 - 2) // 2
        self.head = nn.Linear(64 * smallest**2, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch; the shapes are those of 28 x 28."""
        x = functional.max_pool2d(functional.relu(self.first(x)), 2)  # (B, 32, 13, 13)
        x = functional.max_pool2d(functional.relu(self.second(x)), 2)  # (B, 64, 5, 5)
        x = x.flatten(1)  # (B, 1600)
        logits: Tensor = self.head(self.dropout(x))  # (B, outputs)
        return logits
