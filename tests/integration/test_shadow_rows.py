"""What shadows leave in the rows, on both databases: stored, never doubled, never among the results."""

from datetime import UTC, datetime

from alembic import command
from sqlalchemy import select, text

from dicomnode.db import bundles, migrate, results, studies
from dicomnode.db.session import Database
from dicomnode.db.tables import Analysis
from dicomnode.domain.agreement import Pair
from dicomnode.domain.findings import BundleIdentity, BundleResult, Code, Finding, Priority
from dicomnode.domain.study import InstanceHeader

T0 = datetime(2026, 1, 2, tzinfo=UTC)


def version(database, number):
    study = f"1.2.{number}"
    header = InstanceHeader("1.2.840.10008.5.1.4.1.1.2", f"{study}.1", "1.2.840.10008.1.2.1", study, f"{study}.9", {})
    with database.write() as session:
        sender = studies.Sender("X", "127.0.0.1")
        return studies.add_instance(session, header, studies.StoredFile(f"f{number}", 1, "d"), sender, T0)


def result(name, probability, digest="d"):
    identity = BundleIdentity(name, "1.0.0", "classifier", "Title", digest, "w")
    pneumonia = Code("233604007", "SCT", "Pneumonia")
    finding = Finding("Pneumonia", pneumonia, None, probability, 0.5, Priority.URGENT, "1.1")
    return BundleResult(identity, findings=(finding,), assessed=("1.1",))


def look(session, version_id, found):
    assert results.begin_shadow(session, version_id, found.bundle, T0)
    assert results.finish_shadow(session, version_id, found, T0, 0.1, "eager")


def test_a_shadow_begins_once_and_its_result_is_no_result_of_the_study(database):
    version_id, active, shadow = version(database, 1), result("active", 0.2), result("shadow", 0.9)
    with database.write() as session:
        results.add_results(session, version_id, (active,), Priority.ROUTINE, T0, 0.1, {"active": "onnxruntime"})
        assert results.begin_shadow(session, version_id, shadow.bundle, T0)
    with database.write() as session:  # the process died in between: never again for this version
        assert not results.begin_shadow(session, version_id, shadow.bundle, T0)
        query = select(Analysis.not_applicable).where(Analysis.bundle_name == "shadow")
        assert session.scalars(query).one() == results.UNFINISHED
        assert results.finish_shadow(session, version_id, shadow, T0, 0.1, "eager")
    with database.read() as session:
        assert results.results_of(session, version_id) == (active,)
        rows = session.execute(select(Analysis.bundle_name, Analysis.is_shadow, Analysis.backend)).all()
        assert studies.version(session, version_id).priority == "routine"
    assert sorted(map(tuple, rows)) == [("active", False, "onnxruntime"), ("shadow", True, "eager")]


def test_a_shadow_whose_study_runs_anew_writes_nothing(database):
    version_id, active, shadow = version(database, 1), result("active", 0.2), result("shadow", 0.9)
    with database.write() as session:
        assert results.begin_shadow(session, version_id, shadow.bundle, T0)
        results.add_results(session, version_id, (active,), Priority.ROUTINE, T0, 0.1)
        assert not results.finish_shadow(session, version_id, shadow, T0, 0.1, "eager")
        assert session.scalars(select(Analysis.bundle_name)).all() == ["active"]


def test_pairs_are_of_one_study_version_and_of_the_newest_digests(database):
    versions = [version(database, number) for number in range(1, 5)]
    with database.write() as session:
        for number, version_id in enumerate(versions):
            active = result("active", 0.1 * number)
            results.add_results(session, version_id, (active,), Priority.ROUTINE, T0, 0.1)
            if number:
                look(session, version_id, result("shadow", 0.9, "old" if number == 1 else "new"))
        session.execute(text("UPDATE study_version SET state = 'SUPERSEDED' WHERE id = :id"), {"id": versions[3]})
    with database.read() as session:
        assert bundles.pairs(session, "shadow", "active") == [Pair(versions[2], "Pneumonia", 0.9, True, 0.2, False)]
        assert bundles.pairs(session, "shadow", "nothing") == []


def test_analyses_of_the_release_before_stay_and_are_no_shadows(database_url):
    database = Database(database_url)
    config = migrate._config()
    with database.connection() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for statement in OLD_ROWS:
            connection.exec_driver_sql(statement)
    migrate.upgrade(database)
    with database.read() as session:
        (analysis,) = session.scalars(select(Analysis))
        assert (analysis.bundle_name, analysis.is_shadow, analysis.backend) == ("old", False, "")
        assert session.execute(text("SELECT count(*) FROM prediction")).scalar() == 1
    database.close()


OLD_ROWS = (
    "INSERT INTO study (id, study_instance_uid, patient_name, patient_id, issuer_of_patient_id, patient_birth_date, "
    "patient_sex, patient_age, accession_number, study_date, study_time, study_description, "
    "referring_physician_name, first_received_at) "
    "VALUES (1, '1.2', '', '', '', '', '', '', '', '', '', '', '', '2026-01-02 00:00:00')",
    "INSERT INTO study_version (id, study_id, number, uid, state, state_changed_at, reason, source_ae_title, "
    "opened_at, last_instance_at, instance_count, run, attempts) VALUES (1, 1, 1, '2.25.1', 'DONE', "
    "'2026-01-02 00:00:00', '', 'X', '2026-01-02 00:00:00', '2026-01-02 00:00:00', 1, 1, 1)",
    "INSERT INTO analysis (id, version_id, position, bundle_name, bundle_version, bundle_kind, bundle_title, "
    "bundle_digest, weights_digest, parameters, assessed, not_applicable, finished_at, seconds) VALUES "
    "(1, 1, 0, 'old', '1', 'classifier', 'T', 'd', 'w', '[]', '[]', '', '2026-01-02 00:00:00', 0.1)",
    "INSERT INTO prediction (id, analysis_id, sop_instance_uid, label, value, threshold) "
    "VALUES (1, 1, '1.1', 'P', 0.5, 0.5)",
)
