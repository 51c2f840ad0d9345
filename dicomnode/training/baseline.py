"""The linear baseline beside every score: logistic regression on 28x28 pixels, 785 numbers a class.

It is stored in the bundle, so that an evaluation needs no training data.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dicomnode.errors import BundleError
from dicomnode.inference.bundle import Bundle, tensors_of
from dicomnode.training.data import ImageSet
from dicomnode.training.weighted import Scores

BASELINE_NAME = "baseline.safetensors"
SIDE = 28
PENALTY = 1e-3
"""Of the squared weights, beside the mean loss of an image."""
ITERATIONS = 200


def fit_baseline(train: ImageSet) -> dict[str, Tensor]:
    """Return `weight` (K, 784) and `bias` (K,); K is 1 for labels 0 and 1, else the number of classes.

    The loss is convex and starts at zero, so that the same images give the same numbers.
    """
    pixels, labels = _pixels(train.images).double(), torch.from_numpy(train.labels)
    classes = int(labels.max()) + 1
    weight = torch.zeros(1 if classes <= 2 else classes, SIDE * SIDE, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(weight), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = pixels @ weight.T + bias  # (N, K)
        if len(weight) == 1:
            fitted = functional.binary_cross_entropy_with_logits(logits[:, 0], labels.double())
        else:
            fitted = functional.cross_entropy(logits, labels)
        value = fitted + PENALTY * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return {"weight": weight.detach().float(), "bias": bias.detach().float()}


def baseline_scores(tensors: Mapping[str, Tensor], images: Tensor) -> Scores:
    """Return the baseline's probabilities (N, K) for prepared images (N, 1, rows, columns)."""
    logits = (_pixels(images) @ tensors["weight"].T + tensors["bias"]).double()  # (N, K)
    probabilities = logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)
    return np.asarray(probabilities.numpy())


def stored_baseline(bundle: Bundle) -> dict[str, Tensor] | None:
    """Return the baseline of a bundle, None where it has none; raise `BundleError` where it does not fit."""
    if BASELINE_NAME not in bundle.manifest.files or bundle.manifest.classifier is None:
        return None
    tensors = tensors_of(bundle.identity.name, BASELINE_NAME, (bundle.folder / BASELINE_NAME).read_bytes())
    outputs = len(bundle.manifest.classifier.names)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if shapes != {"weight": (outputs, SIDE * SIDE), "bias": (outputs,)}:
        raise BundleError(f"{bundle.identity.name}: {BASELINE_NAME}: holds {shapes}, the bundle has {outputs} outputs")
    return tensors


def _pixels(images: Tensor) -> Tensor:
    """Return images (N, channels, rows, columns) at 28x28 as rows of numbers (N, 784) around zero."""
    grey = images.mean(1, keepdim=True)  # (N, 1, rows, columns)
    small = functional.interpolate(grey, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
    return small.flatten(1) - 0.5  # (N, 1*28*28)
