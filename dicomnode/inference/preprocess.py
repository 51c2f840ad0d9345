"""Image to network input: the steps of a manifest in order, one home used by training and serving."""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch.nn import functional

from dicomnode.inference.display import FloatArray as FloatArray  # noqa: PLC0414  it is imported from here


class _Step(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class CenterSquare(_Step):
    """Keep the largest square in the middle."""

    step: Literal["center_square"]


class Resize(_Step):
    """Resize to `rows` x `columns`, bilinear; with `antialias` every source pixel counts when it shrinks."""

    step: Literal["resize"]
    rows: int = Field(ge=8, le=1024)
    columns: int = Field(ge=8, le=1024)
    antialias: bool = True


class ClipPercentile(_Step):
    """Map the `low` and `high` percentile of the image to 0 and 1 and clip; a constant image becomes 0."""

    step: Literal["clip_percentile"]
    low: float = Field(ge=0, lt=50)
    high: float = Field(gt=50, le=100)


Step = Annotated[CenterSquare | Resize | ClipPercentile, Field(discriminator="step")]


def prepare(image: FloatArray, steps: Sequence[Step]) -> torch.Tensor:
    """Return `image`, (rows, columns) in 0..1, after `steps` as a float32 tensor (1, rows, columns)."""
    for step in steps:
        if isinstance(step, CenterSquare):
            image = center_square(image)
        elif isinstance(step, Resize):
            image = resize(image, step.rows, step.columns, antialias=step.antialias)
        else:
            image = clip_percentile(image, step.low, step.high)
    return torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))[None]  # (1, rows, columns)


def center_square(image: FloatArray) -> FloatArray:
    """Return the largest square in the middle of `image`, (side, side)."""
    rows, columns = image.shape
    side = min(rows, columns)
    top, left = (rows - side) // 2, (columns - side) // 2
    return image[top : top + side, left : left + side]


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


def output_size(steps: Sequence[Step]) -> tuple[int, int] | None:
    """Return (rows, columns) that `steps` end at, None where the source decides."""
    sizes = [(step.rows, step.columns) for step in steps if isinstance(step, Resize)]
    return sizes[-1] if sizes else None
