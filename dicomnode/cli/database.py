"""`dicomnode db`: the schema of the database."""

import typer

from dicomnode import config
from dicomnode.cli.listing import Config

app = typer.Typer(help="The database: upgrade, current.", no_args_is_help=True)


def prepare(settings: config.Settings) -> None:
    """Bring our tables and the engine's to the newest revision."""
    from dicomnode import engine
    from dicomnode.db import migrate
    from dicomnode.db.session import Database

    database = Database(settings.database_url)
    try:
        migrate.upgrade(database)
    finally:
        database.close()
    engine.create_tables(settings.database_url)


@app.command()
def upgrade(config_file: Config = None) -> None:
    """Create the tables, or bring them to the newest revision."""
    from dicomnode.db import migrate

    prepare(config.load(config_file))
    typer.echo(f"database is at revision {migrate.newest()}")


@app.command()
def current(config_file: Config = None) -> None:
    """Print the revision of the database; exit 1 if it is not the newest."""
    from dicomnode.db import migrate
    from dicomnode.db.session import Database

    database = Database(config.load(config_file).database_url)
    try:
        found, newest = migrate.current(database), migrate.newest()
    finally:
        database.close()
    typer.echo(f"database: {found or 'empty'}, newest: {newest}")
    if found != newest:
        typer.echo("run `dicomnode db upgrade`")
        raise typer.Exit(1)
