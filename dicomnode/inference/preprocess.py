"""Image to network input: the steps of a manifest in order, one home used by training and serving."""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch.nn import functional

from dicomnode.inference.display import FloatArray as FloatArray  # noqa: PLC0414  it is imported from here

Size = tuple[int, int]
Side = Annotated[int, Field(ge=8, le=1024)]


class _Step(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class CenterSquare(_Step):
    """Keep the largest square in the middle."""

    step: Literal["center_square"]


class CenterCrop(_Step):
    """Keep `rows` x `columns` in the middle; a smaller image is padded with 0."""

    step: Literal["center_crop"]
    rows: Side
    columns: Side


class PadSquare(_Step):
    """Pad the shorter sides with `fill` to a square, the image in the middle."""

    step: Literal["pad_square"]
    fill: float = 0.0


class Resize(_Step):
    """Resize to `rows` x `columns`, bilinear; with `antialias` every source pixel counts when it shrinks."""

    step: Literal["resize"]
    rows: Side
    columns: Side
    antialias: bool = True


class ResizeShort(_Step):
    """Resize until the shorter side has `side` pixels and the aspect ratio is kept."""

    step: Literal["resize_short"]
    side: Side
    antialias: bool = True


class Letterbox(_Step):
    """Resize with the aspect ratio kept until the image fits `rows` x `columns`, and pad the rest with `fill`."""

    step: Literal["letterbox"]
    rows: Side
    columns: Side
    fill: float = 0.0
    antialias: bool = True


class ClipPercentile(_Step):
    """Map the `low` and `high` percentile of the image to 0 and 1 and clip; a constant image becomes 0."""

    step: Literal["clip_percentile"]
    low: float = Field(ge=0, lt=50)
    high: float = Field(gt=50, le=100)


class Scale(_Step):
    """Map 0..1 to `minimum`..`maximum`: 0 and 255 for a network that takes grey levels, -1 and 1 for others."""

    step: Literal["scale"]
    minimum: float = 0.0
    maximum: float

    @model_validator(mode="after")
    def _rises(self) -> "Scale":
        if self.maximum <= self.minimum:
            raise ValueError(f"maximum {self.maximum} is not above minimum {self.minimum}")
        return self


class Normalize(_Step):
    """Take `mean` off and divide by `std`, one number for all channels or one for each; the last step."""

    step: Literal["normalize"]
    mean: tuple[float, ...] = Field(min_length=1, max_length=3)
    std: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=1, max_length=3)

    @model_validator(mode="after")
    def _are_as_many(self) -> "Normalize":
        if len(self.mean) != len(self.std):
            raise ValueError(f"{len(self.mean)} means and {len(self.std)} standard deviations")
        return self


Geometry = CenterSquare | CenterCrop | PadSquare | Resize | ResizeShort | Letterbox
Values = ClipPercentile | Scale
Step = Annotated[Geometry | Values | Normalize, Field(discriminator="step")]


def prepare(image: FloatArray, steps: Sequence[Step], channels: int = 1) -> torch.Tensor:
    """Return `image`, (rows, columns) in 0..1, after `steps` as a float32 tensor (channels, rows, columns).

    Grey is repeated where the network takes more channels than one.
    """
    normalize = None
    for step in steps:
        if isinstance(step, Normalize):
            normalize = step
        else:
            image = _applied(image, step)
    tensor = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))  # (rows, columns)
    tensor = tensor.repeat(channels, 1, 1)  # (channels, rows, columns)
    if normalize is not None:
        mean, std = (torch.tensor(values)[:, None, None] for values in (normalize.mean, normalize.std))
        tensor = (tensor - mean) / std  # (channels, rows, columns)
    return tensor


def _applied(image: FloatArray, step: Geometry | Values) -> FloatArray:
    if isinstance(step, ClipPercentile):
        return clip_percentile(image, step.low, step.high)
    if isinstance(step, Scale):
        return image * np.float32(step.maximum - step.minimum) + np.float32(step.minimum)
    return _placed_by(image, step)


def _placed_by(image: FloatArray, step: Geometry) -> FloatArray:
    match step:
        case CenterSquare():
            return center_square(image)
        case CenterCrop():
            return _placed(image, (step.rows, step.columns), 0.0)
        case PadSquare():
            return _placed(image, (max(image.shape), max(image.shape)), step.fill)
        case Letterbox():
            return letterbox(image, step)
        case Resize():
            size = (step.rows, step.columns)
        case ResizeShort():
            size = _short_size((image.shape[0], image.shape[1]), step.side)
    return resize(image, *size, antialias=step.antialias)


def center_square(image: FloatArray) -> FloatArray:
    """Return the largest square in the middle of `image`, (side, side)."""
    rows, columns = image.shape
    side = min(rows, columns)
    top, left = (rows - side) // 2, (columns - side) // 2
    return image[top : top + side, left : left + side]


def letterbox(image: FloatArray, step: Letterbox) -> FloatArray:
    """Return the whole of `image` inside (step.rows, step.columns), the rest `step.fill`."""
    rows, columns = image.shape
    factor = min(step.rows / rows, step.columns / columns)
    inside = resize(image, max(1, round(rows * factor)), max(1, round(columns * factor)), antialias=step.antialias)
    return _placed(inside, (step.rows, step.columns), step.fill)


def _placed(image: FloatArray, size: Size, fill: float) -> FloatArray:
    """Return the middle of `image` in the middle of an array of `size`: cut where it is larger, else padded."""
    placed = np.full(size, fill, dtype=np.float32)
    source, target = [], []
    for had, wanted in zip(image.shape, size, strict=True):
        kept = min(had, wanted)
        source.append(slice((had - kept) // 2, (had - kept) // 2 + kept))
        target.append(slice((wanted - kept) // 2, (wanted - kept) // 2 + kept))
    placed[tuple(target)] = image[tuple(source)]
    return placed


def resize(image: FloatArray, rows: int, columns: int, *, antialias: bool = True) -> FloatArray:
    """Return `image` resized to (rows, columns), bilinear, pixel centres aligned."""
    batch = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))[None, None]  # (1, 1, rows, columns)
    resized = functional.interpolate(batch, (rows, columns), mode="bilinear", antialias=antialias, align_corners=False)
    result: FloatArray = resized.numpy()[0, 0]
    return result


def clip_percentile(image: FloatArray, low: float, high: float) -> FloatArray:
    """Return `image` with its percentiles `low` and `high` at 0 and 1, clipped."""
    bottom, top = (float(value) for value in np.percentile(image, [low, high]))
    if top - bottom < 1e-6:
        return np.zeros_like(image)
    clipped: FloatArray = np.clip((image - bottom) / (top - bottom), 0, 1).astype(np.float32)
    return clipped


def _short_size(size: Size, side: int) -> Size:
    factor = side / min(size)
    return max(side, round(size[0] * factor)), max(side, round(size[1] * factor))


def output_size(steps: Sequence[Step]) -> Size | None:
    """Return (rows, columns) that `steps` end at, None where the source decides."""
    size: Size | None = None
    for step in steps:
        if isinstance(step, CenterCrop | Resize | Letterbox):
            size = (step.rows, step.columns)
        elif size is not None and isinstance(step, CenterSquare):
            size = (min(size), min(size))
        elif size is not None and isinstance(step, PadSquare):
            size = (max(size), max(size))
        elif isinstance(step, ResizeShort):
            size = None if size is None else _short_size(size, step.side)
    return size
