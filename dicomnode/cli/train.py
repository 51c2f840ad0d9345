"""`dicomnode train`: a recipe becomes a bundle."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dicomnode.training.fit import Progress

Folder = Annotated[
    Path, typer.Argument(help="a bundle's folder with train.toml and CARD.md", file_okay=False, exists=True)
]
Data = Annotated[
    Path | None, typer.Option(help="folder of the training data; else ../shared/data beside the repository")
]


def train(folder: Folder, data: Data = None) -> None:
    """Train what FOLDER/train.toml says and write the bundle's files."""
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
            bundle = train_bundle(folder.resolve(), data or default_data(), on_load, on_progress)
        except DicomnodeError as exc:
            console.print(f"[red]{exc}")
            raise typer.Exit(1) from exc
    console.print(
        f"{bundle.identity.name} {bundle.identity.version} loads; weights {bundle.identity.weights_digest[:12]}"
    )


class _EpochLines:
    """Prints a line when an epoch is over, so that a log without a terminal shows the course."""

    def __init__(self, console: object) -> None:
        from rich.console import Console

        self.console = console if isinstance(console, Console) else Console()
        self.epoch = 0

    def show(self, progress: "Progress") -> None:
        if progress.epoch > self.epoch:
            self.epoch = progress.epoch
            self.console.print(f"epoch {progress.epoch}: validation loss {progress.validation_loss:.5f}")
