"""The steps from display values to a tensor, each against what it promises."""

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from dicomnode.errors import BundleError
from dicomnode.inference.manifest import parse
from dicomnode.inference.preprocess import Step, output_size, prepare
from dicomnode.training.writer import to_toml
from tests.bundles import manifest_values

STEPS: TypeAdapter[tuple[Step, ...]] = TypeAdapter(tuple[Step, ...])


def steps(*values: dict[str, Any]) -> tuple[Step, ...]:
    return STEPS.validate_python(values)


def tall() -> np.ndarray[Any, np.dtype[np.float32]]:
    """40 rows by 20 columns, each pixel another value."""
    return (np.arange(800, dtype=np.float32) / 800).reshape(40, 20)


@pytest.mark.parametrize(
    ("step", "size"),
    [
        ({"step": "center_square"}, (20, 20)),
        ({"step": "center_crop", "rows": 16, "columns": 32}, (16, 32)),
        ({"step": "pad_square"}, (40, 40)),
        ({"step": "resize", "rows": 8, "columns": 12}, (8, 12)),
        ({"step": "resize_short", "side": 10}, (20, 10)),
        ({"step": "letterbox", "rows": 16, "columns": 24}, (16, 24)),
    ],
    ids=lambda value: value["step"] if isinstance(value, dict) else "",
)
def test_a_step_gives_its_size(step: dict[str, Any], size: tuple[int, int]) -> None:
    assert prepare(tall(), steps(step))[0].shape == size


def test_pad_square_keeps_every_pixel_in_the_middle() -> None:
    padded = prepare(tall(), steps({"step": "pad_square", "fill": -1.0}))[0].numpy()
    np.testing.assert_array_equal(padded[:, 10:30], tall())
    assert (padded[:, :10] == -1).all()
    assert (padded[:, 30:] == -1).all()


def test_letterbox_keeps_the_aspect_ratio() -> None:
    boxed = prepare(np.ones((40, 20), np.float32), steps({"step": "letterbox", "rows": 16, "columns": 16}))[0]
    assert boxed[:, 4:12].min() > 0.999
    assert boxed[:, :4].max() == boxed[:, 12:].max() == 0


def test_resize_short_and_center_crop_do_what_torchvision_does() -> None:
    cropped = prepare(
        tall(), steps({"step": "resize_short", "side": 16}, {"step": "center_crop", "rows": 8, "columns": 8})
    )
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(tall())[None, None], (32, 16), mode="bilinear", antialias=True
    )
    torch.testing.assert_close(cropped, resized[0, :, 12:20, 4:12])


def test_scale_and_normalize_give_each_channel_its_range() -> None:
    made = steps(
        {"step": "scale", "maximum": 255.0},
        {"step": "normalize", "mean": [100.0, 0.0, 50.0], "std": [10.0, 1.0, 2.0]},
    )
    tensor = prepare(tall(), made, channels=3)
    torch.testing.assert_close(tensor[0], (torch.from_numpy(tall()) * 255 - 100) / 10)
    torch.testing.assert_close(tensor[1], torch.from_numpy(tall()) * 255)
    torch.testing.assert_close(tensor[2], (torch.from_numpy(tall()) * 255 - 50) / 2)


@pytest.mark.parametrize(
    ("values", "size"),
    [
        ([{"step": "resize_short", "side": 64}], None),
        ([{"step": "resize_short", "side": 64}, {"step": "center_crop", "rows": 32, "columns": 32}], (32, 32)),
        ([{"step": "resize", "rows": 32, "columns": 64}, {"step": "pad_square"}], (64, 64)),
        ([{"step": "resize", "rows": 32, "columns": 64}, {"step": "center_square"}], (32, 32)),
        ([{"step": "resize", "rows": 32, "columns": 64}, {"step": "resize_short", "side": 16}], (16, 32)),
    ],
    ids=["source decides", "crop", "padded", "square", "short side"],
)
def test_the_size_is_known_before_an_image_is(values: list[dict[str, Any]], size: tuple[int, int] | None) -> None:
    assert output_size(steps(*values)) == size


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ([{"step": "normalize", "mean": [0.5, 0.5], "std": [1.0, 1.0]}], "normalize has 2 means, the tensor has 1"),
        ([{"step": "normalize", "mean": [0.5], "std": [0.0]}], "greater than 0"),
        ([{"step": "normalize", "mean": [0.5], "std": [1.0, 1.0]}], "1 means and 2 standard deviations"),
        ([{"step": "normalize", "mean": [0.5], "std": [1.0]}, {"step": "scale", "maximum": 1.0}], "is the last one"),
        ([{"step": "scale", "minimum": 1.0, "maximum": 1.0}], "is not above"),
        ([{"step": "letterbox", "rows": 32, "columns": 32, "colour": 1}], "Extra inputs"),
    ],
    ids=["means", "std 0", "unequal", "not last", "empty range", "unknown key"],
)
def test_steps_that_mean_nothing_are_refused(extra: list[dict[str, Any]], reason: str) -> None:
    values = manifest_values("small", "classifier")
    values["preprocessing"]["steps"] += extra
    values["files"] = {"weights.safetensors": "0" * 64, "reference/gradient.safetensors": "0" * 64}
    with pytest.raises(BundleError, match=reason):
        parse(to_toml(values).encode(), "small: bundle.toml")
