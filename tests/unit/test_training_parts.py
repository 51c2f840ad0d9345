"""The parts of a training: augmentation, the undone squash, the files it writes."""

import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomnode.errors import ConfigError
from dicomnode.training.augment import Augmentation, augment
from dicomnode.training.data import unsquash
from dicomnode.training.writer import to_toml, write_card


def test_augmentation_repeats_by_its_seed_and_stays_in_range() -> None:
    how = Augmentation(
        rotation_degrees=9,
        scale=0.2,
        stretch=0.2,
        shift=0.1,
        flip=0.5,
        blur=0.7,
        jpeg=0.7,
        noise=0.2,
        gain=0.5,
        erase=0.7,
    )
    batch = torch.rand(9, 1, 40, 40, generator=torch.Generator().manual_seed(1))
    original = batch.clone()
    first, second = (augment(batch, how, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(batch, original)
    assert not torch.equal(first, batch)
    assert first.min() >= 0
    assert first.max() <= 1


def test_no_augmentation_leaves_the_image() -> None:
    batch = torch.rand(3, 1, 40, 40)
    torch.testing.assert_close(augment(batch, Augmentation(), torch.Generator()), batch, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("aspect", "shape"), [(1.5, (224, 336)), (0.5, (448, 224))])
def test_undoing_the_squash_shrinks_no_side(aspect: float, shape: tuple[int, int]) -> None:
    assert unsquash(np.zeros((224, 224), np.float32), aspect).shape == shape


def test_a_card_without_marks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no line `<!-- figures -->`"):
        write_card(tmp_path, "figures")


VALUES = st.recursive(
    st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50)
@given(st.dictionaries(st.text(), VALUES, max_size=4))
def test_what_is_written_as_toml_is_read_again(values: dict[str, object]) -> None:
    assert tomllib.loads(to_toml(values)) == values
