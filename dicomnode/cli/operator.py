"""What the commands of an administrator share: the database, who acts, how an act on many things ends."""

import contextlib
import getpass
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dicomnode import config
from dicomnode.cli.listing import Cell, show_rows

if TYPE_CHECKING:
    from dicomnode.db.session import Database
    from dicomnode.engine import Queue
    from dicomnode.flow.operate import Done

PARTIAL = 3
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
Since = Annotated[str, typer.Option(help="Only what failed since then: 90m, 2h, 3d, or 2026-01-31T08:00.")]


@contextlib.contextmanager
def opened(settings: config.Settings) -> "Iterator[Database]":
    """Give the database of a node, which may be running; its schema must be the newest."""
    from dicomnode import log as logs
    from dicomnode.cli.roles import require_newest_schema
    from dicomnode.db.session import Database

    logs.configure(level="WARNING")  # to standard error: standard output is the answer
    with contextlib.closing(Database(settings.database_url, pool_size=1)) as database:
        require_newest_schema(database)
        yield database


@contextlib.contextmanager
def opened_with_queue(config_file: Path | None) -> "Iterator[tuple[Database, Queue]]":
    """Give the database and the engine's queues."""
    from dicomnode.engine import Queue

    settings = config.load(config_file)
    with opened(settings) as database, contextlib.closing(Queue(settings.database_url)) as queue:
        yield database, queue


def actor() -> str:
    """Return who acts: the user of the operating system, also behind `sudo` when that is known."""
    return f"operator {getpass.getuser()}"


def moment(text: str, now: datetime) -> datetime | None:
    """Return the moment that `--since` names, `None` for an empty one."""
    if not text:
        return None
    ago = re.fullmatch(r"(\d+)([smhd])", text)
    if ago:
        return now - timedelta(**{UNITS[ago[2]]: int(ago[1])})
    try:
        named = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither 90m, 2h, 3d nor a moment like 2026-01-31T08:00") from None
    return named if named.tzinfo else named.replace(tzinfo=UTC)


def finish(rows: Sequence[dict[str, Cell]], *, as_json: bool, title: str) -> None:
    """Show what became of each thing; exit 3 if only some were done, 1 if none was."""
    show_rows(rows, as_json=as_json, title=title)
    done = sum(row["done"] is True for row in rows)
    if done < len(rows):
        raise typer.Exit(PARTIAL if done else 1)


def acted(thing: str, done: "Done") -> dict[str, Cell]:
    """Return the row of one act."""
    return {"what": thing, "done": done.is_done, "detail": done.said}
