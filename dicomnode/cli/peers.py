"""`dicomnode echo` and `dicomnode send`: talk to another application entity by hand."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from dicomnode import config
from dicomnode.cli.listing import AsJson, Cell, Config, show_rows
from dicomnode.errors import ConfigError

PeerName = Annotated[str, typer.Argument(help="Name of a [peers.NAME] table, or AETITLE@host:port.")]


def _peer(settings: config.Settings, name: str) -> config.PeerSettings:
    if name in settings.peers:
        return settings.peers[name]
    ae_title, at, address = name.partition("@")
    host, colon, port = address.rpartition(":")
    if at and colon and port.isdigit():
        return config.PeerSettings(ae_title=ae_title, host=host, port=int(port))
    known = ", ".join(sorted(settings.peers)) or "none"
    raise ConfigError(f"there is no [peers.{name}]; known are {known}; AETITLE@host:port works too")


def echo(peer: PeerName, config_file: Config = None, as_json: AsJson = False) -> None:
    """Send a C-ECHO; show which of our result objects the peer would accept."""
    from dicomnode.network import scu

    settings = config.load(config_file)
    result = scu.echo(_peer(settings, peer), settings.node.ae_title, settings.delivery)
    rows: list[dict[str, Cell]] = [{"what": "C-ECHO", "answer": f"Success in {result.ms:.0f} ms"}]
    rows += [{"what": name, "answer": "accepted" if ok else "refused"} for name, ok in result.accepts.items()]
    show_rows(rows, as_json=as_json, title=peer)


def send(
    peer: PeerName,
    paths: Annotated[list[Path], typer.Argument(help="DICOM files, or folders of them.", exists=True)],
    config_file: Config = None,
    as_json: AsJson = False,
) -> None:
    """Send files by C-STORE; exit 3 if some were not accepted, 1 if none was."""
    from dicomnode.network import scu

    settings = config.load(config_file)
    files = [
        file
        for path in paths
        for file in (sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path])
    ]
    counts: Counter[tuple[str, str]] = Counter()
    with Progress(transient=True) as progress:
        task = progress.add_task("C-STORE", total=len(files))
        for result in scu.send(_peer(settings, peer), settings.node.ae_title, files, settings.delivery):
            progress.advance(task)
            status = "no answer" if result.status is None else f"0x{result.status:04X}"
            counts[status, result.comment] += 1
    rows: list[dict[str, Cell]] = [
        {"status": status, "comment": comment, "objects": count} for (status, comment), count in sorted(counts.items())
    ]
    show_rows(rows, as_json=as_json, title=f"{len(files)} objects to {peer}")
    accepted = sum(count for (status, _), count in counts.items() if status == "0x0000" or status.startswith("0xB"))
    if accepted < len(files):
        raise typer.Exit(3 if accepted else 1)
