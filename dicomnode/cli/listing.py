"""Options that several commands share, and how they show a listing."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

Cell = str | int | float | bool | None | datetime

Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Settings file; else $DICOMNODE_CONFIG, else ./dicomnode.toml."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def show_rows(rows: Sequence[Mapping[str, Cell]], *, as_json: bool, title: str) -> None:
    """Print rows as a table, or as a JSON list with the same keys."""
    if as_json:
        print_json(rows)
        return
    if not rows:
        typer.echo(f"{title}: none")
        return
    table = Table(title=title, title_justify="left")
    for key in rows[0]:
        table.add_column(key.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(_text(value) for value in row.values()))
    Console().print(table, markup=False)


def print_json(value: object) -> None:
    """Print JSON; moments in ISO 8601."""
    typer.echo(json.dumps(value, default=_text, indent=2))


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    return str(value)
