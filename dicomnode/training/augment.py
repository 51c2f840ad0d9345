"""Augmentation of a batch of images in 0..1, against the shortcuts of the data: sharpness, JPEG, noise, gain, framing.

Plain torch over whole batches: on two cores several times faster than a transform per image. Every random number comes
from the generator given, so a seed repeats a training.
"""

import io
import math

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Generator, Tensor
from torch.nn import functional

Share = Field(default=0.0, ge=0, le=1)


class Augmentation(BaseModel):
    """How strongly to change a training image; 0 everywhere leaves it as it is."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    rotation_degrees: float = Field(default=0.0, ge=0, le=45)
    scale: float = Field(default=0.0, ge=0, le=0.5, description="zoom between 1 - scale and 1 + scale")
    stretch: float = Field(default=0.0, ge=0, le=0.5, description="width alone, between 1 - stretch and 1 + stretch")
    shift: float = Field(default=0.0, ge=0, le=0.5, description="of the image's side")
    flip: float = Share
    blur: float = Share
    blur_sigma: float = Field(default=1.5, gt=0, le=5, description="largest standard deviation in pixels")
    low_resolution: float = Share
    lowest_side: int = Field(default=28, ge=8, le=1024, description="fewest pixels a side that an image is reduced to")
    jpeg: float = Share
    jpeg_quality: int = Field(default=30, ge=1, le=95, description="lowest quality")
    noise: float = Field(default=0.0, ge=0, le=0.5, description="largest standard deviation")
    gain: float = Field(default=0.0, ge=0, le=0.9, description="contrast between 1 - gain and 1 + gain")
    gamma: float = Field(default=0.0, ge=0, le=1, description="gamma between exp(-gamma) and exp(gamma)")
    erase: float = Share


def augment(batch: Tensor, how: Augmentation, generator: Generator) -> Tensor:
    """Return a changed copy of `batch` (B, 1, H, W), in 0..1."""
    batch = _warp(batch, how, generator)
    batch = _blur(batch, how, generator)
    batch = _reduce(batch, how, generator)
    batch = batch ** torch.exp(_uniform(batch, -how.gamma, how.gamma, generator))
    batch = (batch - 0.5) * _uniform(batch, 1 - how.gain, 1 + how.gain, generator) + 0.5
    batch = batch + _uniform(batch, -how.gain / 3, how.gain / 3, generator)
    batch = _jpeg(batch.clamp(0, 1), how, generator)
    noise = torch.randn(batch.shape, generator=generator) * _uniform(batch, 0, how.noise, generator)
    return _erase((batch + noise).clamp(0, 1), how.erase, generator)


def _uniform(batch: Tensor, low: float, high: float, generator: Generator) -> Tensor:
    """Return a number an image, (B, 1, 1, 1)."""
    return low + (high - low) * torch.rand((len(batch), 1, 1, 1), generator=generator)


def _warp(batch: Tensor, how: Augmentation, generator: Generator) -> Tensor:
    angle = _uniform(batch, -how.rotation_degrees, how.rotation_degrees, generator).flatten() * math.pi / 180
    zoom = _uniform(batch, 1 - how.scale, 1 + how.scale, generator).flatten()
    across = _uniform(batch, 1 - how.stretch, 1 + how.stretch, generator).flatten()
    across = across * (1 - 2 * (_uniform(batch, 0, 1, generator).flatten() < how.flip).float())
    dx = 2 * _uniform(batch, -how.shift, how.shift, generator).flatten()
    dy = 2 * _uniform(batch, -how.shift, how.shift, generator).flatten()
    cosine, sine = zoom * angle.cos(), zoom * angle.sin()
    first = torch.stack([cosine * across, -sine, dx], dim=1)  # (B, 3)
    second = torch.stack([sine * across, cosine, dy], dim=1)  # (B, 3)
    theta = torch.stack([first, second], dim=1)  # (B, 2, 3)
    grid = functional.affine_grid(theta, list(batch.shape), align_corners=False)  # (B, H, W, 2)
    return functional.grid_sample(batch, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _blur(batch: Tensor, how: Augmentation, generator: Generator) -> Tensor:
    sigma = _uniform(batch, 0.3, max(how.blur_sigma, 0.3), generator).flatten()
    chosen = _uniform(batch, 0, 1, generator).flatten() < how.blur
    if not chosen.any():
        return batch
    reach = math.ceil(2.5 * how.blur_sigma)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma[chosen, None]) ** 2)  # (b, K)
    kernel = kernel / kernel.sum(1, keepdim=True)
    some = batch[chosen].transpose(0, 1)  # (1, b, H, W): one group an image
    some = functional.pad(some, (reach,) * 4, mode="replicate")  # (1, b, H+2r, W+2r)
    some = functional.conv2d(some, kernel[:, None, :, None], groups=len(kernel))  # (1, b, H, W+2r)
    some = functional.conv2d(some, kernel[:, None, None, :], groups=len(kernel))  # (1, b, H, W)
    blurred = batch.clone()
    blurred[chosen] = some.transpose(0, 1)  # (b, 1, H, W)
    return blurred


def _reduce(batch: Tensor, how: Augmentation, generator: Generator) -> Tensor:
    """Reduce some images to a side between `lowest_side` and their own (even in its log) and enlarge them again."""
    side = batch.shape[-1]
    chosen = _uniform(batch, 0, 1, generator).flatten() < how.low_resolution
    octaves = math.log(max(side / how.lowest_side, 1))
    sides = side * torch.exp(-octaves * _uniform(batch, 0, 1, generator).flatten())
    if not chosen.any():
        return batch
    out = batch.clone()
    for i in chosen.nonzero().flatten().tolist():
        few = functional.interpolate(batch[i : i + 1], (int(sides[i]),) * 2, mode="bilinear", antialias=True)
        out[i : i + 1] = functional.interpolate(few, (side, side), mode="bilinear")  # (1, 1, H, W)
    return out


def _jpeg(batch: Tensor, how: Augmentation, generator: Generator) -> Tensor:
    chosen = _uniform(batch, 0, 1, generator).flatten() < how.jpeg
    quality = _uniform(batch, how.jpeg_quality, 95, generator).flatten()
    if not chosen.any():
        return batch
    out = batch.clone()
    for i in chosen.nonzero().flatten().tolist():
        buffer = io.BytesIO()
        pixels = (batch[i, 0].numpy() * 255).round().astype(np.uint8)
        Image.fromarray(pixels).save(buffer, format="JPEG", quality=int(quality[i]))
        with Image.open(buffer) as image:
            out[i, 0] = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)
    return out


def _erase(batch: Tensor, share: float, generator: Generator) -> Tensor:
    """Paint a grey rectangle over a part of some images, so that no one corner decides."""
    chosen = _uniform(batch, 0, 1, generator).flatten() < share
    for i in chosen.nonzero().flatten().tolist():
        draw = torch.rand(5, generator=generator).tolist()
        side = batch.shape[-1]
        height, width = (int(side * (0.1 + 0.25 * value)) for value in draw[:2])
        top, left = int(draw[2] * (side - height)), int(draw[3] * (side - width))
        batch[i, :, top : top + height, left : left + width] = draw[4]
    return batch


def mix(images: Tensor, targets: Tensor, alpha: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Return every image (B, 1, H, W) mixed with another one of the batch, and its targets (B, outputs) alike."""
    from monai.transforms.regularization.array import MixUp  # noqa: PLC0415  1 s, needed by few recipes

    mixer = MixUp(len(images), alpha)
    mixer.set_random_state(seed=int(torch.randint(2**31, (), generator=generator)))
    mixed, wanted = mixer(images, targets[:, :, None, None].float())
    return mixed, wanted[:, :, 0, 0]
