"""`dicomnode evaluate`: what a bundle reaches on labelled images."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dicomnode import config
from dicomnode.cli.listing import Config
from dicomnode.cli.model import bundle_folder
from dicomnode.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from dicomnode.training.evaluate import Evaluation

WIDE = 160  # characters of a table in a file
Figures = Mapping[str, Any]

Data = Annotated[
    Path | None,
    typer.Option(help="a folder with a folder of images a class, or that of the training data; else ../shared/data"),
]
Sets = Annotated[list[str] | None, typer.Option("--set", help="only this set; may be given several times")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="write the figures as JSON to this file", dir_okay=False)]
HtmlFile = Annotated[Path | None, typer.Option("--html", help="write a report page to this file", dir_okay=False)]


def evaluate(
    bundle: Annotated[str, typer.Argument(help="a bundle's name or folder")],
    data: Data = None,
    sets: Sets = None,
    json_file: JsonFile = None,
    html_file: HtmlFile = None,
    config_file: Config = None,
) -> None:
    """Run BUNDLE as it serves over labelled images; print figures with 95 % intervals, floors and subgroups."""
    from rich.console import Console

    from dicomnode.inference.bundle import load
    from dicomnode.training.evaluate import evaluate_bundle, results
    from dicomnode.training.train import default_data

    write_report = _report_writer() if html_file is not None else None
    loaded = load(bundle_folder(bundle, config.load(config_file)))
    root = data or default_data()
    found = _with_progress(lambda on_step: evaluate_bundle(loaded, root, sets or (), on_step))
    console = Console()
    _show(console if console.is_terminal else Console(width=WIDE), found)
    if json_file is not None:
        _write(json_file, json.dumps(results(found), indent=1) + "\n")
    if html_file is not None and write_report is not None:
        _write(html_file, write_report(found))


def _report_writer() -> "Callable[[Evaluation], str]":
    try:
        from dicomnode.training.report import report
    except ImportError as exc:
        raise ConfigError(f"--html needs {exc.name}: pip install 'dicomnode[training]'") from exc
    return report


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"{file}: cannot be written: {exc.strerror}") from exc
    typer.echo(f"written: {file}")


def _with_progress(work: "Callable[[Callable[[int, int], None]], Evaluation]") -> "Evaluation":
    """Do `work` with a bar on a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading and scoring", total=None)
        return work(lambda done, total: bar.update(task, completed=done, total=total))


def _show(console: "Console", found: "Evaluation") -> None:
    identity = found.bundle.identity
    console.print(f"{identity.name} {identity.version}, digest {identity.digest[:12]}", markup=False)
    console.print("95 % bootstrap intervals by patient; a subgroup's figure of fewer than 10 images is 'too few'.\n")
    for reason, count in found.refused.items():
        console.print(f"refused: {count} file(s): {reason}", markup=False)
    if identity.kind == "anomaly":
        _show_anomaly(console, found.figures["test"])
        return
    for name, table in found.figures.items():
        _show_set(console, name, table)


def _show_set(console: "Console", name: str, table: Figures) -> None:
    from dicomnode.training.card import count_text, figure_text

    count = count_text(table)
    rows = [(metric, figure_text(figure)) for metric, figure in table["metrics"].items()]
    title = f"{name}: {count} images{' (positive)' if 'positives' in table else ''} of {table['patients']} patients"
    console.print(_table(title, ("figure", "value [95 % interval]"), rows), markup=False)
    classes = table.get("classes", {})
    if classes:
        columns = list(next(iter(classes.values()))["metrics"])
        parts = [
            (label, part["images"], *(figure_text(part["metrics"][c]) for c in columns))
            for label, part in classes.items()
        ]
        console.print(_table("each class against the rest", ("class", "images", *columns), parts), markup=False)
    points = [
        (label, f"{point['threshold']:.4f}", *(figure_text(point[c]) for c in POINT)) for label, point in _points(table)
    ]
    console.print(_table("operating points", ("class", "from", *POINT), points), markup=False)
    console.print(
        _table("confusion", ("is, answered as", *table["confusion"]["names"]), _confusion(table)), markup=False
    )
    console.print(
        _table("what needs no anatomy, and a linear model", ("beside it", "value"), _beside(table)), markup=False
    )
    groups = table["subgroups"]
    if groups:
        columns = list(next(iter(groups.values()))["metrics"])
        parts = [
            (group, count_text(part), *(figure_text(part["metrics"][c]) for c in columns))
            for group, part in groups.items()
        ]
        console.print(_table("subgroups", ("subgroup", "images", *columns), parts), markup=False)


POINT = ("sensitivity", "specificity", "PPV", "NPV")


def _points(table: Figures) -> Iterator[tuple[str, Figures]]:
    yield from table["operating points"].items()


def _confusion(table: Figures) -> list[tuple[object, ...]]:
    names, rows = table["confusion"]["names"], table["confusion"]["rows"]
    return [(name, *row) for name, row in zip(names, rows, strict=True)]


def _beside(table: Figures) -> list[tuple[object, ...]]:
    from dicomnode.training.card import figure_text

    floors = [(name, f"{value:.3f}") for name, value in table["floors"].items()]
    baseline = table.get("baseline")
    if baseline is None:
        return [*floors, ("linear baseline", "no baseline in this bundle")]
    return [*floors, *((f"linear baseline, {name}", figure_text(figure)) for name, figure in baseline.items())]


def _show_anomaly(console: "Console", table: Figures) -> None:
    from dicomnode.training.card import figure_text, share_text

    genuine = share_text(table["genuine flagged"], table["genuine flagged interval"])
    console.print(f"genuine: {table['images']} images of {table['patients']} patients, flagged {genuine}")
    if "pneumonia by the score, AUC" in table:
        console.print(f"the score does not find disease: AUC {table['pneumonia by the score, AUC']:.3f}")
    rows = [
        (
            name,
            row["images"],
            figure_text({"value": row["AUC"], "interval": row["AUC interval"]}),
            share_text(row["flagged"], row["flagged interval"]),
            f"{row['AUC of sharpness alone']:.3f}",
        )
        for name, row in table["wrong inputs"].items()
    ]
    columns = ("wrong input", "images", "AUC against genuine", "flagged", "AUC of sharpness alone")
    console.print(_table("wrong inputs", columns, rows), markup=False)
    groups = [
        (name, part["images"], "too few" if part["flagged"] is None else share_text(**part["flagged"]))
        for name, part in table["subgroups"].items()
    ]
    if groups:
        console.print(_table("genuine images by subgroup", ("subgroup", "images", "flagged"), groups), markup=False)


def _table(title: str, columns: tuple[str, ...], rows: "list[tuple[Any, ...]]") -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(Text(column))
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    return table
