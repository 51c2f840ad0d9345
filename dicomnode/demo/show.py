"""The demo on a terminal: a live table there, plain lines of what changed anywhere else."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dicomnode.demo.watch import ObjectLine, VersionLine
from dicomnode.domain.lifecycle import DeliveryState

COLUMNS = ("study", "images", "state", "urgency", "findings", "anomaly", "PACS")


@dataclass(frozen=True, slots=True)
class Row:
    """What is shown of a version: its cells from `images` to `anomaly`, and what became of its objects."""

    name: str
    facts: tuple[str, ...]
    objects: tuple[str, ...]


class Show:
    """Shows versions while they move. Use it as a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._names: Mapping[str, str] = {}
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._said: dict[tuple[str, int], Row] = {}

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def begin(self, names: Mapping[str, str]) -> None:
        """Take the names of the studies by their UIDs."""
        self._names = names

    def update(self, versions: Sequence[VersionLine]) -> None:
        """Show how the versions stand now, if anything changed."""
        rows = {(v.study_instance_uid, v.number): self._row(v) for v in versions}
        if rows == self._said:
            return
        if self._live is not None:
            self._live.update(_table(rows.values()), refresh=True)
        else:
            for key, row in rows.items():
                self._say_news(row, self._said.get(key))
        self._said = rows

    def table(self, versions: Sequence[VersionLine]) -> None:
        """Print the table once, where no live one stands already."""
        if self._live is None:
            self._console.print(_table(self._row(version) for version in versions))

    def _say_news(self, row: Row, before: Row | None) -> None:
        news = [cell for cell in row.facts if cell and (before is None or cell not in before.facts)]
        news += [words for words in row.objects if before is None or words not in before.objects]
        if news:
            self.say(f"{row.name}: {', '.join(news)}")

    def say(self, words: str) -> None:
        """Print a line above the table."""
        self._console.print(words, markup=False, highlight=False, soft_wrap=True)

    def _row(self, version: VersionLine) -> Row:
        state = str(version.state)
        return Row(
            f"{self._names[version.study_instance_uid]}, version {version.number}",
            (
                f"{version.images} {'image' if version.images == 1 else 'images'}",
                f"{state}: {version.reason}" if version.reason and version.rests else state,
                version.urgency,
                version.findings,
                version.anomaly,
            ),
            tuple(
                f"{', '.join(line.description for line in lines)}: {words}"
                for words, lines in groupby(version.objects, object_in_words)
            ),
        )


def object_in_words(line: ObjectLine) -> str:
    """Return where a result object stands, by the row and by the PACS."""
    status = "" if line.dimse_status is None else f" 0x{line.dimse_status:04X}"
    if line.delivery.is_settled and not line.accepted:
        return f"sent{status}, not seen in the PACS"
    if line.delivery.is_settled:
        times = "" if line.accepted == 1 else f" {line.accepted} times"
        return f"accepted{times}{status} after {line.seconds:.1f} s"
    if line.delivery is DeliveryState.DEAD:
        return f"given up, {_attempts(line)}: {line.error}"
    return f"waiting, {_attempts(line)}: {line.error}" if line.attempts else "on its way"


def _attempts(line: ObjectLine) -> str:
    return "tried once" if line.attempts == 1 else f"tried {line.attempts} times"


def _table(rows: Iterable[Row]) -> Table:
    table = Table(expand=True)
    for column in COLUMNS:
        table.add_column(column, overflow="fold")
    for row in rows:
        cells = (row.name, *row.facts, "\n".join(row.objects))
        table.add_row(*(Text(cell) for cell in cells))
    return table
