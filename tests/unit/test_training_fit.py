"""The training loop: a killed training goes on to the very same weights, and what it refuses."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dicomnode.errors import ConfigError
from dicomnode.inference.networks import build
from dicomnode.training import checkpoint
from dicomnode.training.augment import Augmentation, mix
from dicomnode.training.classifier import _loss
from dicomnode.training.data import ImageSet
from dicomnode.training.fit import Checkpoint, Fitted, Progress, fit, outputs
from dicomnode.training.recipe import Fit

EPOCHS = 4
RECIPE = Fit(epochs=EPOCHS, batch=4, learning_rate=0.01, average_decay=0.5, seed=3)
HOW = Augmentation(noise=0.1, flip=0.5)


class Killed(Exception):
    pass


def images(squashed: bool = False) -> ImageSet:
    pixels = torch.rand(12, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    labels = np.arange(12) % 2
    return ImageSet(pixels, labels, labels.astype(np.str_), {}, 1 - pixels if squashed else None)


def train(kept: Checkpoint | None = None, kill_at: int = 0, recipe: Fit = RECIPE) -> Fitted:
    """Train a network with dropout and batch normalization; die at step `kill_at`."""

    def on_progress(progress: Progress) -> None:
        if progress.step == kill_at:
            raise Killed

    torch.manual_seed(recipe.seed)
    network = build("residual_cnn", {"outputs": 1, "stem": 4, "channels": (4,), "dropout": 0.5})
    data = images()
    targets = torch.from_numpy(data.labels)[:, None].float()
    loss = _loss(recipe.loss, "sigmoid")

    def validate(network: nn.Module) -> float:
        return float(loss(lambda x: outputs(network, x), data.images, targets))  # type: ignore[arg-type]

    return fit(
        network,
        data,
        targets,
        loss,
        validate,
        recipe=recipe,
        augmentation=HOW,
        on_progress=on_progress,
        kept=kept,
    )


def weights(fitted: Fitted) -> dict[str, Tensor]:
    return fitted.network.state_dict()


@pytest.mark.parametrize("schedule", ["one_cycle", "constant"])
@pytest.mark.parametrize("kill_at", [4, 8, 11])
def test_a_killed_training_ends_at_the_same_weights(tmp_path: Path, kill_at: int, schedule: str) -> None:
    recipe = RECIPE.model_copy(update={"schedule": schedule})
    whole = train(recipe=recipe)
    kept = Checkpoint(tmp_path / "checkpoint.safetensors", "key")
    with pytest.raises(Killed):
        train(kept, kill_at=kill_at, recipe=recipe)
    torch.rand(5)  # a new process has another state
    resumed = train(kept, recipe=recipe)
    assert resumed.history.validation_losses == whole.history.validation_losses
    assert resumed.history.learning_rates == whole.history.learning_rates
    assert all(torch.equal(tensor, weights(resumed)[name]) for name, tensor in weights(whole).items())


def test_a_checkpoint_of_another_recipe_is_ignored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "checkpoint.safetensors"
    train(Checkpoint(file, "one recipe"))
    assert checkpoint.load(file, "another") is None
    said = capsys.readouterr()
    assert "of another recipe or other data" in said.out + said.err


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 a pickle", struct.pack("<Q", 2) + b"{}"])
def test_a_damaged_checkpoint_is_ignored(tmp_path: Path, damage: bytes) -> None:
    file = tmp_path / "checkpoint.safetensors"
    file.write_bytes(damage)
    assert checkpoint.load(file, "key") is None


def test_a_checkpoint_is_tensors_and_json(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.safetensors"
    train(Checkpoint(file, "key"))
    data = file.read_bytes()
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    assert json.loads(header["__metadata__"]["facts"])["schedule"]["last_epoch"] == 3 * EPOCHS


def test_a_finished_training_leaves_nothing(tmp_path: Path) -> None:
    file = checkpoint.place(tmp_path / "models/rings")
    train(Checkpoint(file, "key"))
    assert file.is_file()
    checkpoint.remove(file)
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.parametrize(
    "change", [{"precision": "bfloat16"}, {"loss": "focal"}, {"mixup": 0.4}, {"optimizer": "adam"}], ids=str
)
def test_an_option_changes_the_training(change: dict[str, object]) -> None:
    changed = weights(train(recipe=RECIPE.model_copy(update=change)))
    assert not all(torch.equal(tensor, changed[name]) for name, tensor in weights(train()).items())


def test_mixing_mixes_images_and_targets_alike() -> None:
    pixels = torch.arange(4.0)[:, None, None, None].expand(4, 1, 2, 2)
    mixed, targets = mix(pixels, torch.arange(4.0)[:, None], 1.0, torch.Generator().manual_seed(2))
    torch.testing.assert_close(mixed[:, 0, 0, :1], targets)
    assert not torch.equal(mixed, pixels)


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"fit\.batch is 64, there are 12 training images"):
        train(recipe=RECIPE.model_copy(update={"batch": 64}))


def test_a_training_that_diverges_is_stopped() -> None:
    with pytest.raises(ConfigError, match=r"make fit\.learning_rate smaller"):
        train(recipe=RECIPE.model_copy(update={"learning_rate": 1e30, "schedule": "constant"}))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said() -> None:
    with pytest.raises(ConfigError, match="torch sees no GPU here"):
        train(recipe=RECIPE.model_copy(update={"device": "cuda"}))


def test_patience_ends_a_training_early() -> None:
    fitted = train(recipe=RECIPE.model_copy(update={"epochs": 60, "patience": 1, "learning_rate": 0.3}))
    losses = fitted.history.validation_losses
    assert len(losses) < 60
    assert len(losses) - losses.index(min(losses)) == 2


def test_a_short_training_forgets_the_weights_it_began_with() -> None:
    fitted = train(recipe=RECIPE.model_copy(update={"average_decay": 0.999}))
    raw = train(recipe=RECIPE.model_copy(update={"average_decay": 0.0}))
    slow, last = (next(iter(weights(f).values())) for f in (fitted, raw))
    torch.manual_seed(RECIPE.seed)
    first = next(build("residual_cnn", {"outputs": 1, "stem": 4, "channels": (4,), "dropout": 0.5}).parameters())
    assert (slow - first).norm() > 0.5 * (last - first).norm()
