"""`dicomnode rules`: what this node would do with a file."""

import ipaddress
from pathlib import Path
from typing import Annotated

import typer

from dicomnode import config
from dicomnode.cli.listing import AsJson, Config, show_rows

app = typer.Typer(help="Rules: test.", no_args_is_help=True)


@app.command("test")
def examine_file(
    file: Annotated[Path, typer.Argument(help="A DICOM file.", exists=True, dir_okay=False)],
    sender: Annotated[str, typer.Option("--from", help="AE title that sends it; else the first that may.")] = "",
    address: Annotated[str, typer.Option(help="Address that it is sent from; else one that may.")] = "",
    config_file: Config = None,
    as_json: AsJson = False,
) -> None:
    """Say whether FILE would be accepted, which bundles would look at it, where results would go, and why."""
    from dicomnode.flow import rules

    settings = config.load(config_file)
    senders = [peer.ae_title for peer in settings.peers.values() if peer.sends]
    asked = sender or (senders[0] if senders else "ANYBODY")
    rows = [
        {"question": ruling.question, "answer": "yes" if ruling.goes_on else "no", "why": ruling.why}
        for ruling in rules.examine(file, settings, asked, address or _address(settings, asked))
    ]
    show_rows(rows, as_json=as_json, title=str(file))


def _address(settings: config.Settings, ae_title: str) -> str:
    """Return an address that an AE title may send from."""
    networks = [net for peer in settings.peers.values() if peer.ae_title == ae_title for net in peer.addresses]
    return str(ipaddress.ip_network(networks[0], strict=False)[0]) if networks else "127.0.0.1"
