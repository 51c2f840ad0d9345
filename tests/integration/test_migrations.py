"""A database of an older release, with rows in it, becomes one of this release."""

import contextlib

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import DateTime, LargeBinary, MetaData, Table, insert, select, text
from sqlalchemy.types import JSON, Boolean, Float, Integer, String

from dicomnode.db import migrate
from dicomnode.db.session import Database
from dicomnode.db.tables import Base
from tests.rows import T0


@pytest.fixture
def old_database(database_url):
    """A database at the first revision with one delivery."""
    with contextlib.closing(Database(database_url)) as database:
        config = migrate._config()
        with database.connection() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "0001")
            for statement in ROWS:
                connection.execute(text(statement))
        yield database


AT = "'2026-01-02 03:04:05+00'"
ROWS = [
    "INSERT INTO study (id, study_instance_uid, patient_name, patient_id, issuer_of_patient_id, patient_birth_date,"
    " patient_sex, patient_age, accession_number, study_date, study_time, study_description,"
    " referring_physician_name, first_received_at)"
    f" VALUES (1, '1.2', '', '', '', '', '', '', '', '', '', '', '', {AT})",
    "INSERT INTO study_version (id, study_id, number, uid, state, state_changed_at, reason, source_ae_title, opened_at,"
    f" last_instance_at, instance_count, run, attempts) VALUES (1, 1, 1, '1.3', 'DELIVERING', {AT}, '', 'CT', {AT},"
    f" {AT}, 1, 1, 1)",
    "INSERT INTO evidence_object (id, version_id, encoder, sop_class_uid, sop_instance_uid, series_instance_uid,"
    " description, path, size_bytes, sha256, created_at)"
    f" VALUES (1, 1, 'sr', '1.4', '1.5', '1.6', '', 'x', 1, 'a', {AT})",
    "INSERT INTO delivery (id, evidence_object_id, destination, state, attempts, created_at, next_at, error)"
    f" VALUES (7, 1, 'pacs', 'waiting', 2, {AT}, {AT}, 'away')",
]


def test_deliveries_of_the_first_release_go_on(old_database):
    migrate.upgrade(old_database)
    with old_database.read() as session:
        (row,) = session.execute(text("SELECT id, state, attempts, error, sent_object_id FROM delivery")).all()
        (known,) = session.execute(text("SELECT name, state FROM destination")).all()
    assert tuple(row) == (7, "waiting", 2, "away", None)
    assert tuple(known) == ("pacs", "closed")


@pytest.mark.parametrize("state", ["uncommitted", "nonsense"])
def test_states_of_a_delivery_are_checked_after_the_upgrade(old_database, state):
    migrate.upgrade(old_database)
    change = text("UPDATE delivery SET state = :state")
    wrong = pytest.raises(Exception, match="ck_delivery_state")
    with wrong if state == "nonsense" else contextlib.nullcontext(), old_database.write() as session:
        session.execute(change, {"state": state})


STATES = {"study_version": "DELIVERING", "delivery": "waiting", "destination": "closed", "drift": "ok"}
KINDS = {Boolean: False, DateTime: T0, Integer: 1, Float: 0.5, LargeBinary: b"x", JSON: {}, String: "x"}


def value(column):
    """Return something that fits a column; every foreign key names the one row of its table."""
    if column.name == "state":
        return STATES.get(column.table.name, "shadow")
    return next(value for kind, value in KINDS.items() if isinstance(column.type, kind))


def fill(connection):
    """Put a row into every empty table, every column of it set but a reference of a table to itself."""
    tables = reflected(connection)
    for table in tables:
        if connection.execute(select(table)).first() is None:
            own = {c.name for c in table.columns for key in c.foreign_keys if key.column.table is table}
            connection.execute(insert(table).values({c.name: value(c) for c in table.columns if c.name not in own}))
    return [table.name for table in tables]


def reflected(connection) -> list[Table]:
    metadata = MetaData()
    metadata.reflect(connection)
    return [table for table in metadata.sorted_tables if table.name != "alembic_version"]


def contents(connection):
    return {table.name: connection.execute(select(table)).mappings().one() for table in reflected(connection)}


def revisions():
    script = ScriptDirectory.from_config(migrate._config())
    return [revision.revision for revision in reversed(list(script.walk_revisions()))]


@pytest.mark.parametrize("steps", [revisions()[1:], ["head"]], ids=["step by step", "in one go"])
def test_rows_of_every_table_outlive_every_revision(database_url, steps):
    config = migrate._config()
    with contextlib.closing(Database(database_url)) as database:
        for step in ["0001", *steps]:
            with database.connection() as connection:
                before = {} if step == "0001" else contents(connection)
                config.attributes["connection"] = connection
                command.upgrade(config, step)
                after = {name: row for name, row in contents_or_none(connection).items() if name in before}
                assert {n: {k: after[n][k] for k in row} for n, row in before.items()} == before
                fill(connection)
        with database.connection() as connection:
            assert set(contents(connection)) == set(Base.metadata.tables)
            assert_sound(connection)


def contents_or_none(connection):
    return {t.name: connection.execute(select(t)).mappings().one_or_none() for t in reflected(connection)}


def assert_sound(connection):
    """No row names one that is gone, and the schema is that of our tables."""
    if connection.dialect.name == "sqlite":
        assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
    context = MigrationContext.configure(connection)
    assert compare_metadata(context, Base.metadata) == []
