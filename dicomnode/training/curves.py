"""The course of a training as a picture: losses and learning rate by epoch."""

from importlib.util import find_spec
from pathlib import Path

from dicomnode.errors import ConfigError
from dicomnode.training.fit import History

CURVES_NAME = "curves.png"


def check_matplotlib() -> None:
    """Raise `ConfigError` where matplotlib is missing: better before hours of training than after."""
    if find_spec("matplotlib") is None:
        raise ConfigError("training draws its curves with matplotlib: pip install 'dicomnode[training]'")


def write_curves(folder: Path, history: History) -> None:
    """Write `curves.png`: training and validation loss above, learning rate below."""
    from matplotlib.figure import Figure  # noqa: PLC0415  an optional package

    epochs = range(1, len(history.validation_losses) + 1)
    figure = Figure(figsize=(7, 5), layout="constrained")
    losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    losses.plot(epochs, history.training_losses, marker=".", label="training")
    losses.plot(epochs, history.validation_losses, marker=".", label="validation")
    best = min(range(len(epochs)), key=lambda i: history.validation_losses[i])
    losses.axvline(best + 1, color="grey", linestyle=":", label="kept")
    losses.set_ylabel("loss")
    losses.set_yscale("log")
    losses.legend()
    rates.plot(epochs, history.learning_rates, marker=".")
    rates.set_ylabel("learning rate")
    rates.set_xlabel("epoch")
    figure.savefig(folder / CURVES_NAME, dpi=80, metadata={"Software": None})
