"""Options that several commands share, and how they show a listing."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

SHORT, WIDE = 20, 200  # characters: a column that is never broken, a table for a file
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
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    filled = [key for key in rows[0] if any(row[key] not in (None, "") for row in rows)]
    for key in filled:
        is_short = all(len(_text(row[key])) <= SHORT for row in rows)
        table.add_column(key.replace("_", " "), overflow="fold", no_wrap=is_short)
    for row in rows:
        table.add_row(*(_text(row[key]) for key in filled))
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDE)
    console.print(table, markup=False)


def print_json(value: object) -> None:
    """Print JSON; moments in ISO 8601."""
    typer.echo(json.dumps(value, default=_json, indent=2))


def _json(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%SZ}"
    return str(value)
