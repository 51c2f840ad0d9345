"""Alembic's entry: runs in the connection that `dicomnode.db.migrate` gives, and sees our tables only."""

from alembic import context
from sqlalchemy.schema import SchemaItem

from dicomnode.db.tables import Base


def include_name(name: str | None, kind: str, _parents: dict[str, str | None]) -> bool:
    """The durable-execution library keeps tables in the same SQLite file: they are not ours to drop."""
    return kind != "table" or name in Base.metadata.tables


def include_object(item: SchemaItem, name: str | None, kind: str, reflected: bool, _compare: SchemaItem | None) -> bool:
    return not (kind == "table" and reflected and name not in Base.metadata.tables)


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    include_name=include_name,
    include_object=include_object,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
