"""`dicomnode train`: a recipe becomes a bundle."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from dicomnode.training.fit import Progress

Folder = Annotated[
    Path, typer.Argument(help="a bundle's folder with train.toml and CARD.md", file_okay=False, exists=True)
]
Data = Annotated[
    Path | None, typer.Option(help="folder of the training data; else ../shared/data beside the repository")
]
Out = Annotated[
    Path | None,
    typer.Option(help="write the bundle into this folder of models, not where its recipe is", file_okay=False),
]
Seed = Annotated[int | None, typer.Option(help="another seed than the recipe's, for the spread; needs --out", min=0)]


def train(folder: Folder, data: Data = None, out: Out = None, seed: Seed = None) -> None:
    """Train what FOLDER/train.toml says and write the bundle's files; a killed training goes on where it was."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as ProgressBar

    from dicomnode.errors import DicomnodeError
    from dicomnode.training.train import default_data, train_bundle

    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with ProgressBar(*columns, console=console) as bar:
        reading = bar.add_task("reading", total=None)
        training = bar.add_task("training", total=None)
        epochs = _EpochLines(console)

        def on_load(done: int, total: int) -> None:
            bar.update(reading, completed=done, total=total)

        def on_progress(progress: "Progress") -> None:
            epochs.show(progress)
            text = f"epoch {progress.epoch + 1}, loss {progress.training_loss:.4f}"
            bar.update(training, completed=progress.step, total=progress.steps, description=text)

        try:
            bundle = train_bundle(
                folder.resolve(), data or default_data(), on_load, on_progress, models=out and out.resolve(), seed=seed
            )
        except DicomnodeError as exc:
            console.print(f"[red]{exc}")
            raise typer.Exit(1) from exc
    console.print(
        f"{bundle.identity.name} {bundle.identity.version} loads; weights {bundle.identity.weights_digest[:12]}"
    )


class _EpochLines:
    """Prints a line when an epoch is over, so that a log without a terminal shows the course."""

    def __init__(self, console: "Console") -> None:
        self.console = console
        self.epoch = 0

    def show(self, progress: "Progress") -> None:
        if progress.epoch > self.epoch and not math.isnan(progress.validation_loss):
            self.epoch = progress.epoch
            self.console.print(f"epoch {progress.epoch}: validation loss {progress.validation_loss:.5f}")
