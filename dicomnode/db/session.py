"""Connections and transactions, the same on SQLite and PostgreSQL.

SQLite runs in WAL with `synchronous=FULL`; a writing transaction takes its lock at once (`BEGIN IMMEDIATE`), so it
waits at its first statement and never fails half-way.
"""

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, CursorResult, Delete, Update, create_engine, event, func, select
from sqlalchemy.engine import Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.orm import Session, sessionmaker

from dicomnode.errors import ConfigError, DatabaseUnavailable

BUSY_TIMEOUT_MS = 30_000


class Database:
    """One database of the node: opens reading and writing transactions."""

    def __init__(self, url: str, *, pool_size: int = 10) -> None:
        self.url = url
        self._engine = _engine(url, pool_size)
        self._write = sessionmaker(self._engine, expire_on_commit=False)
        self._read = sessionmaker(self._engine.execution_options(reads_only=True), expire_on_commit=False)

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._engine.dialect.name

    @contextlib.contextmanager
    def write(self) -> Iterator[Session]:
        """Give a session; commit at the end, roll back on an error. Raises `DatabaseUnavailable`."""
        with _translated(), self._write.begin() as session:
            yield session

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        """Give a session that does not write. Raises `DatabaseUnavailable`."""
        with _translated(), self._read() as session:
            yield session

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextlib.contextmanager
    def connection(self) -> Iterator[Connection]:
        """Give a connection in a transaction, for migrations."""
        with _translated(), self._engine.begin() as connection:
            yield connection


def now(session: Session) -> datetime:
    """Return the database's clock, so that hosts with wrong clocks agree."""
    if session.get_bind().dialect.name == "sqlite":
        return datetime.now(UTC)
    moment: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
    return moment.astimezone(UTC)


def changed_rows(session: Session, statement: Update | Delete) -> int:
    """Run `statement` and return how many rows it changed: what a compare-and-set asks."""
    result = session.execute(statement)
    assert isinstance(result, CursorResult)  # noqa: S101  an Update or Delete gives no other
    return result.rowcount


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (OperationalError, DBAPIError) as exc:
        if isinstance(exc, OperationalError) or exc.connection_invalidated:
            raise DatabaseUnavailable(f"the database did not answer: {exc.orig}") from exc
        raise


def _engine(url: str, pool_size: int) -> Engine:
    try:
        parsed = make_url(url)
    except ArgumentError as exc:
        raise ConfigError(f"database.url: {exc}") from None
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        if parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    if backend == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
        return create_engine(parsed, pool_size=pool_size, max_overflow=pool_size, pool_pre_ping=True)
    raise ConfigError(f"database.url: {backend} is not supported; use sqlite:///... or postgresql://...")


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={BUSY_TIMEOUT_MS}", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    reads_only = connection.get_execution_options().get("reads_only", False)
    connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")
