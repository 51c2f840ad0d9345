"""The code that an autoencoder gives an image: what similar studies are found by."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dicomnode.inference.bundle import Bundle

Run = Callable[[Tensor], NDArray[np.float64]]
STORED = "<f4"


@dataclass(frozen=True, slots=True)
class ImageCode:
    """The code of one image by one bundle: little-endian float32."""

    bundle_name: str
    sop_instance_uid: str
    code: bytes


def coder(bundle: Bundle) -> Run | None:
    """Return what gives the codes (B, code) of inputs (B, channels, rows, columns); None where the network has none.

    A network that knows the statistics of its codes gives them whitened: their distance is then the Mahalanobis
    distance of the codes among the training images.
    """
    if bundle.manifest.architecture is None or not hasattr(bundle.network, "encode"):
        return None
    network = bundle.network
    buffers = dict(network.named_buffers())
    whiten = _whitening(buffers["whitening"], len(buffers["usual_errors"])) if "whitening" in buffers else None

    def run(batch: Tensor) -> NDArray[np.float64]:
        with torch.inference_mode():
            codes: Tensor = network.encode(batch.contiguous(memory_format=torch.channels_last)).double()  # type: ignore[operator]
        found: NDArray[np.float64] = (codes if whiten is None else codes @ whiten).numpy()  # (B, code)
        return found

    return run


def _whitening(of_features: Tensor, errors: int) -> Tensor:
    """Return the matrix (code, code) that whitens codes alone; `of_features` whitens a code with its `errors`.

    The covariance of the F features is the inverse of F W W^T, W their whitening; the code stands first among them.
    """
    whitening = of_features.double()
    code = len(whitening) - errors
    covariance = torch.linalg.pinv(len(whitening) * whitening @ whitening.T, hermitian=True)[:code, :code]
    values, vectors = torch.linalg.eigh(covariance)
    root = torch.where(values > values.max() * 1e-9, values, torch.inf).sqrt()
    found: Tensor = vectors / root / code**0.5
    return found


def as_bytes(code: NDArray[np.float64]) -> bytes:
    """Return a code (length,) as it is stored."""
    return code.astype(STORED).tobytes()
