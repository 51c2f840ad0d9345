"""`dicomnode model shadow|promote|retire|rollback|agreement`: where a bundle stands, moved by an operator."""

import contextlib
import getpass
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dicomnode import config
from dicomnode.cli.listing import AsJson, Config, print_json, show_rows
from dicomnode.domain.lifecycle import BundleState
from dicomnode.errors import ConfigError

if TYPE_CHECKING:
    from dicomnode.db.bundles import Standing
    from dicomnode.db.session import Database
    from dicomnode.domain.agreement import Agreement
    from dicomnode.flow.bundles import Operator

Reason = Annotated[str, typer.Option(help="Why: kept in the row and its audit.")]
SOON = "a running node follows within seconds"


def shadow(
    name: str,
    beside: Annotated[str, typer.Option(help="The active bundle that it is compared with.")] = "",
    reason: Reason = "",
    config_file: Config = None,
) -> None:
    """Let the bundle NAME look at every study; what it says is stored and influences nothing."""
    with _operator(config_file) as operator:
        operator.shadow(name, beside, reason)
    typer.echo(f"{name} is in the shadow; {SOON}; `dicomnode model agreement {name}` reports")


def promote(
    name: str,
    replaces: Annotated[
        str, typer.Option(help="The active bundle that is retired; else the one that the shadow stood beside.")
    ] = "",
    reason: Reason = "",
    config_file: Config = None,
) -> None:
    """Make the bundle NAME active; its digest of now is the one that the node accepts."""
    with _operator(config_file) as operator:
        other = operator.promote(name, replaces, reason)
    typer.echo(f"{name} is active{f' in the place of {other}' if other else ''}; {SOON}")


def retire(name: str, reason: Reason = "", config_file: Config = None) -> None:
    """Take the bundle NAME out of use."""
    with _operator(config_file) as operator:
        operator.retire(name, reason)
    typer.echo(f"{name} is retired; {SOON}")


def rollback(name: str, reason: Reason = "", config_file: Config = None) -> None:
    """Retire the active bundle NAME and make the one that it replaced active again."""
    with _operator(config_file) as operator:
        before = operator.roll_back(name, reason)
    typer.echo(f"{before} is active again, {name} is retired; {SOON}")


def agreement(
    name: Annotated[str, typer.Argument(metavar="SHADOW")],
    other: Annotated[str, typer.Option("--with", help="The other bundle; else the one that it stands beside.")] = "",
    worst: Annotated[int, typer.Option(min=0, help="How many of the most different studies.")] = 5,
    config_file: Config = None,
    as_json: AsJson = False,
) -> None:
    """Report how far the bundle SHADOW agrees with an active one on the studies that both saw."""
    from dicomnode.db import bundles
    from dicomnode.domain.agreement import agreements

    settings = config.load(config_file)
    with _database(settings) as database, database.read() as session:
        compared = other or _compared_with(name, bundles.standings(session))
        found = agreements(bundles.pairs(session, name, compared), worst)
    if as_json:
        print_json([{"bundle": name, "with": compared, **asdict(one)} for one in found])
        return
    show_rows([_row(one) for one in found], as_json=False, title=f"{name} and {compared}: values are {name} less other")
    for one in found:
        ids = ", ".join(map(str, one.most_different))
        typer.echo(f"{one.label}: most different study versions {ids} (`dicomnode study show ID`)")


def standings_of(settings: config.Settings) -> "dict[str, Standing]":
    """Return where the bundles stand; nothing where there is no database yet."""
    url = settings.database_url
    if url.startswith("sqlite") and not Path(url.removeprefix("sqlite:///")).is_file():
        return {}
    from dicomnode.db import bundles

    with _database(settings) as database, database.read() as session:
        return bundles.standings(session)


@contextlib.contextmanager
def _database(settings: config.Settings) -> "Iterator[Database]":
    from dicomnode.cli.roles import require_newest_schema
    from dicomnode.db.session import Database

    with contextlib.closing(Database(settings.database_url)) as database:
        require_newest_schema(database)
        yield database


@contextlib.contextmanager
def _operator(config_file: Path | None) -> "Iterator[Operator]":
    from dicomnode.flow.bundles import Operator

    settings = config.load(config_file)
    with _database(settings) as database:
        yield Operator(database, settings, actor=f"cli:{getpass.getuser()}")


def _compared_with(name: str, standings: "dict[str, Standing]") -> str:
    standing = standings.get(name)
    if standing is None or standing.state is not BundleState.SHADOW or not standing.replaces:
        raise ConfigError(f"{name} stands beside no bundle: name the other one with --with")
    return standing.replaces


def _row(one: "Agreement") -> dict[str, str | int]:
    return {
        "class": one.label,
        "studies": one.studies,
        "both_positive": one.both_positive,
        "both_negative": one.both_negative,
        "only_shadow": one.only_first,
        "only_other": one.only_second,
        "agreement": f"{one.agreement:.1%}",
        "kappa": "none" if one.kappa is None else f"{one.kappa:.3f}",
        "mean_difference": f"{one.mean_difference:+.4f}",
        "middle_95_%": f"{one.low:+.4f} to {one.high:+.4f}",
    }
