"""A database of an older release, with rows in it, becomes one of this release."""

import contextlib

import pytest
from alembic import command
from sqlalchemy import text

from dicomnode.db import migrate
from dicomnode.db.session import Database


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
