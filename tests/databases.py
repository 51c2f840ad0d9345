"""Databases for tests: made new, dropped afterwards."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy import make_url

from tests.needs import missing

POSTGRES_VARIABLE = "DICOMNODE_TEST_POSTGRES_URL"


@contextmanager
def new_postgresql_database() -> Iterator[str]:
    """Give the SQLAlchemy URL of a new database, dropped afterwards with all its connections."""
    text = os.environ.get(POSTGRES_VARIABLE)
    if not text:
        missing(f"{POSTGRES_VARIABLE} is not set")
    url = make_url(text)
    conninfo = url.set(drivername="postgresql").render_as_string(hide_password=False)
    name = f"dicomnode_test_{uuid.uuid4().hex[:12]}"
    try:
        with psycopg.connect(conninfo, autocommit=True, connect_timeout=5) as server:
            server.execute(f'CREATE DATABASE "{name}"')
    except psycopg.OperationalError as exc:
        missing(f"PostgreSQL at {url.host}:{url.port} ({POSTGRES_VARIABLE}) does not answer: {exc}")
    try:
        yield url.set(database=name).render_as_string(hide_password=False)
    finally:
        with psycopg.connect(conninfo, autocommit=True, connect_timeout=5) as server:
            server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
