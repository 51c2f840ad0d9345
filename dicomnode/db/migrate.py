"""Schema of our tables: brought to the newest revision by Alembic, from empty or from an older release."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

import dicomnode
from dicomnode.db.session import Database


def migrations_directory() -> Path:
    """Return the folder of the revisions: inside an installed package, else beside it in the repository."""
    package = Path(dicomnode.__file__).parent
    inside = package / "_migrations"
    return inside if inside.is_dir() else package.parent / "migrations"


def upgrade(database: Database) -> None:
    """Bring the schema to the newest revision; does nothing where it is."""
    config = _config()
    with database.connection() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(20261124)")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def current(database: Database) -> str | None:
    """Return the revision that the database has, `None` where it is empty."""
    with database.connection() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def newest() -> str | None:
    """Return the newest revision that this release knows."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_directory()))
    config.set_main_option("path_separator", "os")
    return config
