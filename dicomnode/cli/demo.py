"""`dicomnode demo`: the whole hospital in one command."""

import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from dicomnode.cli.listing import AsJson, print_json

BEGAN = time.monotonic()
PLAIN_WIDTH = 200  # of the table where there is no terminal


class PACSKind(StrEnum):
    """Which PACS takes the results."""

    OWN = "own"
    ORTHANC = "orthanc"


def demo(
    pacs: Annotated[PACSKind, typer.Option(help="Our small PACS, or a real Orthanc that is installed.")] = PACSKind.OWN,
    images: Annotated[Path | None, typer.Option(help="Folder of PNG, JPEG or DICOM files to send.")] = None,
    stop_pacs: Annotated[bool, typer.Option("--stop-pacs", help="Take the PACS away and bring it back.")] = False,
    folder: Annotated[Path | None, typer.Option(help="Empty folder for everything; else a temporary one.")] = None,
    quiet_period: Annotated[float, typer.Option(min=0.0, help="Seconds without an image that close a study.")] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Run a modality, a node and a PACS with real DICOM traffic; exit 0 only if the PACS took every report once."""
    from dicomnode import log as logs
    from dicomnode.demo import account, hospital
    from dicomnode.demo.show import Show

    logs.configure(level="ERROR")
    root = folder.resolve() if folder else Path(tempfile.mkdtemp(prefix="dicomnode-demo-"))
    plan = hospital.Plan(root, pacs is PACSKind.ORTHANC, images, stop_pacs, quiet_period)
    console = Console(stderr=as_json)
    if not console.is_terminal:
        console = Console(stderr=as_json, width=PLAIN_WIDTH)
    try:
        with _signals_interrupt(), Show(console) as show:
            outcome = hospital.run(plan, show, BEGAN)
    except KeyboardInterrupt:
        sys.stderr.write(f"interrupted; every process was ended, what was there lies in {root}\n")
        raise typer.Exit(1) from None
    if as_json:
        print_json(account.as_json(outcome, root))
    else:
        show.table(outcome.versions)
        for line in account.in_words(outcome, root):
            show.say(line)
    if outcome.missing:
        raise typer.Exit(1)


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Let the first of the signals that end a program raise `KeyboardInterrupt`; more must not disturb the cleaning."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(*_: object) -> NoReturn:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
