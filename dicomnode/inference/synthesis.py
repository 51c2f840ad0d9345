"""Synthetic chest radiographs for demonstration, decoded from averaged codes of an anomaly bundle: nobody's picture."""

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray

from dicomnode.errors import BundleError
from dicomnode.inference.bundle import Bundle
from dicomnode.inference.manifest import CODES_NAME
from dicomnode.inference.networks.scored_autoencoder import ScoredAutoencoder
from dicomnode.inference.preprocess import resize

SIDE = 512


def synthetic_radiographs(bundle: Bundle) -> list[tuple[str, NDArray[np.uint8]]]:
    """Return the pictures that the bundle's stored codes give, (512, 512), each with a name that says its order.

    A name ends in the probability (in %) that the judging classifier gave at training. Raises `BundleError` where the
    bundle stores no codes.
    """
    if not isinstance(bundle.network, ScoredAutoencoder) or CODES_NAME not in bundle.manifest.files:
        raise BundleError(f"{bundle.identity.name}: stores no {CODES_NAME}")
    stored = safetensors.torch.load_file(bundle.folder / CODES_NAME)
    pictures = decode_codes(bundle.network, stored["codes"])
    judged = stored["judged"].tolist()
    return [(f"synthetic {n}, {100 * judged[n - 1]:.0f} %", picture) for n, picture in enumerate(pictures, start=1)]


def decode_codes(network: ScoredAutoencoder, codes: torch.Tensor) -> list[NDArray[np.uint8]]:
    """Return a picture (512, 512) for each of `codes` (N, code)."""
    with torch.inference_mode():
        images = network.decode(codes)[:, 0].numpy()  # (N, size, size)
    return [(resize(image, SIDE, SIDE) * 255).round().astype(np.uint8) for image in images]
