"""What we rely on of the durable-execution library, on both databases."""

import contextlib

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import event, text

from dicomnode import engine
from dicomnode.db import migrate
from dicomnode.db.session import Database
from dicomnode.db.tables import Base
from dicomnode.errors import Transient, UnreadableImage
from tests.hospital import wait_for


@pytest.fixture
def database(database_url):
    database = Database(database_url)
    migrate.upgrade(database)
    engine.create_tables(database_url)
    yield database
    database.close()


@pytest.fixture
def queue(database):
    with contextlib.closing(engine.Queue(database.url)) as queue:
        yield queue


class Worker:
    """An engine in this process whose steps note what they were given."""

    def __init__(
        self,
        url,
        executor_id="worker-1",
        analyze=lambda version_id: True,
        concurrency=4,
        shadow=lambda version_id: None,
    ):
        self.analyzed, self.reported, self.given_up = [], [], []
        self._analyze, self._concurrency, self._shadow = analyze, concurrency, shadow
        self.engine = engine.Engine(url, executor_id)

    def __enter__(self):
        self.engine.run_studies(
            engine.StudySteps(
                self.analyze, self.reported.append, lambda v, why: self.given_up.append((v, why)), self._shadow
            ),
            concurrency=self._concurrency,
        )
        return self

    def __exit__(self, *_exc):
        self.engine.stop(wait_s=2)

    def analyze(self, version_id):
        self.analyzed.append(version_id)
        return self._analyze(version_id)


def workflows(database):
    table = "workflow_status" if database.dialect == "sqlite" else "dbos.workflow_status"
    with database.read() as session:
        return session.execute(text(f"SELECT workflow_uuid, status, serialization FROM {table}")).all()


def test_study_is_analyzed_and_reported_once_it_is_committed(database, queue):
    with Worker(database.url) as worker:
        with database.write() as session:
            queue.add_study(session, "2.25.1", 1, 1)
        wait_for(lambda: worker.reported == [1])
    assert worker.analyzed == [1]


def test_a_shadow_that_fails_harms_no_study(database, queue):
    looked = []

    def shadow(version_id):
        looked.append(version_id)
        raise MemoryError("a shadow of 40 GB")

    with Worker(database.url, shadow=shadow) as worker:
        with database.write() as session:
            queue.add_study(session, "2.25.1", 1, 1)
        wait_for(lambda: [w.status for w in workflows(database)] == ["SUCCESS"])
    assert (worker.reported, worker.given_up, looked) == ([1], [], [1])


def test_rolled_back_transaction_enqueues_nothing(database, queue):
    with pytest.raises(ZeroDivisionError), database.write() as session:
        queue.add_study(session, "2.25.1", 1 // 0 if queue.add_study(session, "2.25.2", 2, 1) is None else 1, 1)
    assert workflows(database) == []


def test_nothing_is_reported_where_no_model_applies(database, queue):
    with Worker(database.url, analyze=lambda version_id: False) as worker:
        with database.write() as session:
            queue.add_study(session, "2.25.1", 1, 1)
        wait_for(lambda: [row.status for row in workflows(database)] == ["SUCCESS"])
    assert worker.reported == []


def test_permanent_error_is_given_up_at_once_with_its_reason(database, queue):
    def analyze(_version_id):
        raise UnreadableImage("pixel data ends early")

    with Worker(database.url, analyze=analyze) as worker:
        with database.write() as session:
            queue.add_study(session, "2.25.1", 1, 1)
        wait_for(lambda: worker.given_up)
    assert worker.analyzed == [1]
    assert worker.given_up == [(1, "UnreadableImage: pixel data ends early")]


def test_transient_error_is_tried_again(database, queue):
    failures = [Transient("the database is away")]

    def analyze(_version_id):
        if failures:
            raise failures.pop()
        return True

    with Worker(database.url, analyze=analyze) as worker:
        with database.write() as session:
            queue.add_study(session, "2.25.1", 1, 1)
        wait_for(lambda: worker.reported == [1])
    assert worker.analyzed == [1, 1]
    assert worker.given_up == []


def test_work_of_a_lost_process_is_taken_over_and_of_a_live_one_is_not(database, queue):
    with database.write() as session:
        queue.add_study(session, "2.25.1", 1, 1)
    table = "workflow_status" if database.dialect == "sqlite" else "dbos.workflow_status"
    with database.write() as session:
        session.execute(text(f"UPDATE {table} SET status = 'PENDING', executor_id = 'lost', application_version = '1'"))
    with Worker(database.url) as worker:
        with database.read() as session:
            assert worker.engine.holders(session) == {"lost"}
        assert worker.engine.take_over([]) == 0
        assert worker.engine.take_over(["lost"]) == 1
        wait_for(lambda: worker.reported == [1])


def test_looking_for_running_work_reads_no_workflow_that_is_done(tmp_path):
    """With a parameter for the status SQLite would read every workflow that ever was, twice a second."""
    url = f"sqlite:///{tmp_path}/rows.sqlite"
    engine.create_tables(url)
    with contextlib.closing(Database(url)) as database:
        statements = []
        event.listen(database._engine, "before_cursor_execute", lambda _c, _u, sql, *_: statements.append(sql))
        with database.read() as session:
            engine.Engine.holders(None, session)
            plan = session.execute(text(f"EXPLAIN QUERY PLAN {statements[-1]}")).all()
    assert "idx_workflow_status_pending" in str(plan)


def test_rounds_that_wait_or_run_are_known_and_looked_up_by_the_index(database, queue):
    with database.write() as session:
        queue.add_round(session, "pacs", "1")
        queue.add_study(session, "2.25.1", 1, 1)
    with database.read() as session:
        assert queue.rounds(session) == {"pacs"}
        if database.dialect == "sqlite":
            query = "SELECT DISTINCT queue_partition_key FROM workflow_status WHERE queue_name = 'delivery'"
            plan = session.execute(text(f"EXPLAIN QUERY PLAN {query} AND status IN ('ENQUEUED', 'PENDING')")).all()
            assert "USING" in str(plan)
            assert "queue_name=?" in str(plan)


def test_error_that_a_dead_process_recorded_keeps_its_name():
    json = engine.JSONSerializer()
    recorded = json.deserialize(json.serialize(UnreadableImage("pixel data ends early")))
    assert engine._in_words(recorded) == "UnreadableImage: pixel data ends early"


def test_nothing_in_the_engine_is_pickled(database, queue):
    with Worker(database.url) as worker:
        with database.write() as session:
            queue.add_study(session, "2.25.1", 1, 1)
            queue.add_round(session, "pacs", "1")
        wait_for(lambda: worker.reported == [1])
    assert {row.serialization for row in workflows(database)} == {"portable_json"}


def test_migrations_leave_the_tables_as_declared_beside_the_engines(database):
    with database.connection() as connection:
        options = {"include_name": lambda name, kind, _parents: kind != "table" or name in Base.metadata.tables}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, Base.metadata) == []
    assert migrate.current(database) == migrate.newest()
