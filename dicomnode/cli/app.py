"""The commands by name; each loads what it needs when it is called."""

import typer

from dicomnode import __version__
from dicomnode.cli import database, delivery, drift, insight, model, node, peers, queue, rules, studies, train
from dicomnode.cli.demo import demo
from dicomnode.cli.evaluate import evaluate

app = typer.Typer(
    name="dicomnode",
    help="A node beside the PACS: receives studies, analyzes them, answers with DICOM Structured Reports.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"dicomnode {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    """Options of the command itself."""


app.command()(node.init)
app.command()(node.serve)
app.command()(demo)
app.command()(node.check)
app.command()(studies.status)
app.command()(peers.echo)
app.command()(peers.send)
app.command()(train.train)
app.command()(drift.drift)
studies.app.command()(insight.explain)
studies.app.command()(insight.similar)
app.command()(evaluate)
app.add_typer(studies.app, name="study")
app.add_typer(queue.app, name="queue")
app.add_typer(delivery.app, name="delivery")
app.add_typer(rules.app, name="rules")
app.add_typer(model.app, name="model")
app.add_typer(database.app, name="db")
