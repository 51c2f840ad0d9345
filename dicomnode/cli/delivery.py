"""`dicomnode delivery`: what went where, what waits, what was refused; and once more by hand."""

from typing import Annotated

import typer

from dicomnode import config
from dicomnode.cli.listing import AsJson, Cell, Config, show_rows
from dicomnode.cli.operator import acted, actor, finish, opened
from dicomnode.domain.lifecycle import DeliveryState

app = typer.Typer(help="Deliveries: ls, resend.", no_args_is_help=True)


@app.command()
def ls(
    config_file: Config = None,
    as_json: AsJson = False,
    state: Annotated[DeliveryState | None, typer.Option(help="Only deliveries in this state.")] = None,
    dead: Annotated[bool, typer.Option("--dead", help="Only what was refused or given up.")] = False,
    destination: Annotated[str, typer.Option("--destination", "-d", help="Only to this [peers.NAME].")] = "",
    limit: Annotated[int, typer.Option(min=1)] = 50,
) -> None:
    """List deliveries, the newest first: state, what the destination answered, tries, next try."""
    from dicomnode.db import deadletters
    from dicomnode.network.status import describe

    wanted = DeliveryState.DEAD if dead else state
    with opened(config.load(config_file)) as database, database.read() as session:
        rows: list[dict[str, Cell]] = [
            {
                "id": delivery.id,
                "version": version.id,
                "object": evidence.description,
                "destination": delivery.destination,
                "state": delivery.state,
                "status": None if delivery.dimse_status is None else describe(delivery.dimse_status),
                "tries": delivery.attempts,
                "next_try": delivery.next_at if delivery.state == DeliveryState.WAITING else None,
                "settled_at": delivery.settled_at,
                "error": delivery.error,
            }
            for delivery, evidence, version in deadletters.deliveries(
                session, state=wanted, destination=destination, limit=limit
            )
        ]
    show_rows(rows, as_json=as_json, title="deliveries")


@app.command()
def resend(
    ids: Annotated[list[int], typer.Argument(help="Ids as `dicomnode delivery ls` shows them.")],
    config_file: Config = None,
    as_json: AsJson = False,
) -> None:
    """Deliver again: the same bytes to the same destination, also what was accepted before."""
    from dicomnode.flow import operate

    with opened(config.load(config_file)) as database:
        rows = [acted(f"delivery {delivery_id}", operate.resend(database, delivery_id, actor())) for delivery_id in ids]
    finish(rows, as_json=as_json, title="resend")
