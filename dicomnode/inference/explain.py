"""Where in an image a number comes from: Grad-CAM for a classifier, the residual for an autoencoder.

A map has the size of the source image; what the preprocessing cut away is 0. It shows what the network looked at, and
is no outline of a lesion.
"""

import copy
import io
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from dicomnode.domain.findings import BundleResult
from dicomnode.errors import UnsuitableInput
from dicomnode.inference.bundle import Bundle
from dicomnode.inference.preprocess import CenterSquare, ClipPercentile, FloatArray, Resize, Step, resize

When = Literal["suspected", "all", "none"]
NO_METHOD = "none"
COMPRESSION = 1  # zlib level: at 3000 x 2500 a third of the default's time for smooth maps
MONAI_LAYERS = {
    "DenseNet": "class_layers.relu",
    "EfficientNet": "_bn1",
    "ResNet": "layer4",
    "SENet": "layer4",
}
"""The last convolutional block by the class of MONAI's networks or a base of it."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A number of a bundle that is to be explained, and the image that gave it."""

    bundle_name: str
    label: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """A map as an 8-bit grey PNG of (rows, columns): 0..255 for 0..`maximum`."""

    method: str
    png: bytes
    rows: int
    columns: int
    maximum: float


def wanted(results: Sequence[BundleResult], when: When) -> tuple[Wanted, ...]:
    """Return what to explain: what is suspected or unusual, all that is reported, or nothing."""
    if when == "none":
        return ()
    found: list[Wanted] = []
    for result in results:
        name, is_all = result.bundle.name, when == "all"
        found += [Wanted(name, f.label, f.sop_instance_uid) for f in result.findings if is_all or f.is_suspected]
        anomaly = result.anomaly
        if anomaly is not None and (is_all or anomaly.is_unusual):
            found.append(Wanted(name, anomaly.label, anomaly.sop_instance_uid))
    return tuple(found)


class Explainer:
    """Explains one bundle; may be called from many threads.

    It has a network of its own: hooks and gradients must not meet the batches of the other.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._manifest = bundle.manifest
        self._lock = threading.Lock()
        self._network = copy.deepcopy(bundle.network).eval().requires_grad_(requires_grad=True)
        self._cam = grad_cam(self._network) if bundle.manifest.classifier is not None else None

    def explain(self, image: FloatArray, tensor: Tensor, label: str) -> Explanation:
        """Return the map of `image` (rows, columns), whose input is `tensor` (channels, rows, columns)."""
        with self._lock:
            small = self._map(tensor[None], label)
        if not np.isfinite(small).all():
            raise UnsuitableInput("the map holds a number that is not finite")
        rows, columns = image.shape
        large = to_source(small, self._manifest.preprocessing.steps, (rows, columns))
        maximum = float(large.max())
        scale = 255 / maximum if maximum > 0 else 0.0
        grey = np.rint(large * scale).astype(np.uint8)
        return Explanation(self._manifest.explanation, png(grey), rows, columns, maximum)

    def _map(self, batch: Tensor, label: str) -> FloatArray:
        if self._cam is None:
            return residual_map(self._network, batch)
        assert self._manifest.classifier is not None  # noqa: S101  Grad-CAM explains a class
        with torch.enable_grad():
            found = self._cam(batch.clone(), class_idx=self._manifest.classifier.names.index(label))
        values: FloatArray = found[0, 0].detach().numpy().astype(np.float32)  # of (1, 1, rows, columns)
        return values


def grad_cam(network: nn.Module) -> Callable[..., Tensor]:
    """Return MONAI's Grad-CAM over `network`, which it puts hooks into; its maps are not normalized.

    Standard: Selvaraju et al. 2017.
    """
    from monai.visualize.class_activation_maps import GradCAM  # noqa: PLC0415  costs 0.6 s, needed by few studies

    cam: Callable[..., Tensor] = GradCAM(network, explained_layer(network), postprocessing=lambda values: values)
    return cam


def explained_layer(network: nn.Module) -> str:
    """Return the name of the last convolutional block: the family's `explained_layer`, else its last convolution."""
    own = getattr(network, "explained_layer", None)
    if isinstance(own, str):
        return own
    for kind in type(network).__mro__:
        if layer := MONAI_LAYERS.get(kind.__name__):
            return layer
    layers: list[str] = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    if not layers:
        raise UnsuitableInput("the network has no convolution to look at")
    return layers[-1]


def residual_map(network: nn.Module, batch: Tensor) -> FloatArray:
    """Return what an autoencoder does not give back of a batch of one, (rows, columns), never negative."""
    with torch.inference_mode():
        code = network.encode(batch)  # type: ignore[operator]  # (1, code)
        difference = (batch - network.decode(code)).abs().mean(1)  # type: ignore[operator]  # (1, rows, columns)
    values: FloatArray = difference[0].numpy()
    return values


@dataclass(frozen=True, slots=True)
class Frame:
    """The part of the source that the network sees, in source pixels."""

    top: float
    left: float
    rows: float
    columns: float


def frame(steps: Sequence[Step], shape: tuple[int, int]) -> Frame:
    """Return the frame of the network's input in a source of `shape` (rows, columns)."""
    rows, columns = shape
    seen = Frame(0, 0, rows, columns)
    for step in steps:
        if isinstance(step, CenterSquare):
            side = min(rows, columns)
            down, right = seen.rows / rows, seen.columns / columns
            top, left = (rows - side) // 2 * down, (columns - side) // 2 * right
            seen = Frame(seen.top + top, seen.left + left, side * down, side * right)
            rows = columns = side
        elif isinstance(step, Resize):
            rows, columns = step.rows, step.columns
        elif not isinstance(step, ClipPercentile):
            raise UnsuitableInput(f"the map finds no way back through the step {step.step}")
    return seen


def to_source(values: FloatArray, steps: Sequence[Step], shape: tuple[int, int]) -> FloatArray:
    """Return a map over the network's input as a map over the source, `shape` (rows, columns); 0 beyond the frame."""
    seen = frame(steps, shape)
    top, left, rows, columns = (round(value) for value in (seen.top, seen.left, seen.rows, seen.columns))
    source = np.zeros(shape, np.float32)
    source[top : top + rows, left : left + columns] = resize(values, rows, columns)
    return source


def png(values: NDArray[np.uint8]) -> bytes:
    """Return a picture (rows, columns) or (rows, columns, 3) as PNG, the same bytes for the same picture."""
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG", compress_level=COMPRESSION)
    return buffer.getvalue()


def overlay(image: FloatArray, grey: NDArray[np.uint8], caption: str) -> NDArray[np.uint8]:
    """Return `image` (rows, columns) in 0..1 under a map of 0..255 as colours (rows, columns, 3), captioned.

    The stronger the map, the redder; where it is 0 the image stays as it is.
    """
    heat = (grey / np.float32(255))[..., None]  # (rows, columns, 1)
    colours = np.concatenate([np.clip(2 * heat, 0, 1), np.clip(2 * heat - 1, 0, 1), np.zeros_like(heat)], axis=-1)
    mixed = image[..., None] * (1 - 0.5 * heat) + colours * 0.5 * heat  # (rows, columns, 3)
    picture = Image.fromarray(np.rint(255 * np.clip(mixed, 0, 1)).astype(np.uint8))
    size = max(10, image.shape[1] // 50)
    ImageDraw.Draw(picture).text((size, size), caption, fill=(255, 255, 0), font=ImageFont.load_default(size))
    return np.asarray(picture)
