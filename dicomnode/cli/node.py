"""`dicomnode init`, `serve`, `check`: set a node up, run it, see whether it can work."""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from dicomnode import config
from dicomnode.cli import database as schema
from dicomnode.cli.listing import AsJson, Config, show_rows
from dicomnode.cli.roles import Role
from dicomnode.cli.template import TEMPLATE
from dicomnode.errors import ConfigError, DicomnodeError

OK, WRONG, NOTE = "ok", "WRONG", "note"


def init(
    folder: Annotated[Path, typer.Argument(help="Folder for the settings and the data.")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Replace the settings file that is there.")] = False,
) -> None:
    """Write a commented dicomnode.toml and create the database."""
    file = folder / config.FILE_NAME
    if file.exists() and not force:
        raise ConfigError(f"{file} exists; --force replaces it")
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(TEMPLATE, encoding="utf-8")
    settings = config.load(file)
    schema.prepare(settings)
    typer.echo(f"wrote {file}")
    typer.echo(f"created the database {settings.database_url}")
    typer.echo("next: name your modalities and your PACS in [peers], then `dicomnode check` and `dicomnode serve`")


def serve(
    config_file: Config = None,
    role: Annotated[Role | None, typer.Option(help="Run one role only, in this process.")] = None,
    executor_id: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Run the node: receive, analyze and deliver until SIGTERM."""
    from dicomnode import log as logs
    from dicomnode.cli import roles, supervisor

    settings = config.load(config_file)
    logs.configure(level=settings.log.level, as_json=settings.log.as_json)
    if role is not None:
        roles.run(role, settings, executor_id or roles.new_executor_id(), supervised=bool(executor_id))
        return
    if settings.database_url.startswith("sqlite"):
        schema.prepare(settings)
    supervisor.supervise(settings, config_file)


def check(config_file: Config = None, as_json: AsJson = False) -> None:
    """Check settings, database, disk, bundles and peers; say in words what to change; exit 1 if something is wrong."""
    settings = config.load(config_file)
    rows = [{"what": "settings", "state": OK, "detail": "understood"}]
    for what, look in _CHECKS.items():
        try:
            rows += [{"what": what, "state": state, "detail": detail} for state, detail in look(settings)]
        except DicomnodeError as exc:
            rows.append({"what": what, "state": WRONG, "detail": str(exc)})
    show_rows(rows, as_json=as_json, title="dicomnode check")
    if any(row["state"] == WRONG for row in rows):
        raise typer.Exit(1)


def _database(settings: config.Settings) -> Iterator[tuple[str, str]]:
    from dicomnode.cli.roles import require_newest_schema
    from dicomnode.db.session import Database

    with contextlib.closing(Database(settings.database_url)) as database:
        require_newest_schema(database)
        yield OK, f"{database.dialect}, newest revision"


def _disk(settings: config.Settings) -> Iterator[tuple[str, str]]:
    root = settings.node.data_dir
    if not root.is_dir():
        yield WRONG, f"{root} is no folder: `dicomnode init`, or set node.data_dir"
        return
    free = shutil.disk_usage(root).free
    wanted = settings.receiver.min_free_bytes
    state = OK if free > wanted else WRONG
    yield state, f"{free >> 20} MiB free in {root}, C-STORE answers 0xA700 below {wanted >> 20} MiB"


def _bundles(settings: config.Settings) -> Iterator[tuple[str, str]]:
    from dicomnode.cli.model_state import standings_of
    from dicomnode.flow.bundles import load_set

    loaded = load_set(settings, standings_of(settings))
    for state, those in (("active", loaded.active), ("shadow", loaded.shadows)):
        for bundle in those:
            name = f"{bundle.identity.name} {bundle.identity.version}"
            yield OK, f"{name} is {state} and reproduces its reference cases ({bundle.backend})"
    if not loaded.active:
        yield NOTE, "no bundle is active: every study is skipped; see models.active and `dicomnode model promote`"
    yield from ((WRONG, reason) for reason in (*loaded.refused, *loaded.refused_shadows))


def _sources(settings: config.Settings) -> Iterator[tuple[str, str]]:
    senders = [p.ae_title for p in settings.peers.values() if p.sends]
    if senders:
        yield OK, f"{', '.join(senders)} may store here"
    elif settings.receiver.accept_unknown_peers:
        yield NOTE, "anybody may store here (receiver.accept_unknown_peers)"
    else:
        yield WRONG, "nobody may store here: add [peers.NAME] with ae_title and sends = true"


def _destinations(settings: config.Settings) -> Iterator[tuple[str, str]]:
    from dicomnode.network import scu, stow

    if not settings.destinations:
        yield WRONG, "results go nowhere: add [peers.NAME] with ae_title, host, port and destination = true"
    for name, peer in settings.destinations.items():
        try:
            if peer.stow_url:
                ms, whom = stow.probe(peer, settings.delivery), peer.stow_url
            else:
                ms, whom = scu.echo(peer, settings.node.ae_title, settings.delivery).ms, peer.ae_title
        except DicomnodeError as exc:
            yield WRONG, f"{name}: {exc}"
            continue
        yield OK, f"{name}: {whom} answered in {ms:.0f} ms"


_CHECKS: dict[str, Callable[[config.Settings], Iterator[tuple[str, str]]]] = {
    "database": _database,
    "disk": _disk,
    "bundles": _bundles,
    "sources": _sources,
    "destinations": _destinations,
}
