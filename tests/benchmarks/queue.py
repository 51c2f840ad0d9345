"""What a full queue costs: claim, sweep, counts and memory with N queued studies and N waiting deliveries.

python -m tests.benchmarks.queue [--studies 100000] [--postgresql URL of an empty database [--filled]] [--explain]
"""

import argparse
import contextlib
import resource
import statistics
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dbos._dbos import _get_dbos_instance
from sqlalchemy import event, func, insert, select, text

from dicomnode import engine
from dicomnode.config import Settings
from dicomnode.db import deadletters, deliveries, intake, migrate, pauses, processes, results, retention, studies
from dicomnode.db.session import Database, now
from dicomnode.db.tables import AuditEvent, Delivery, EvidenceObject, Study, StudyVersion
from dicomnode.domain.lifecycle import DeliveryState, Stage, State
from dicomnode.domain.study import version_uid
from dicomnode.flow.close import close_quiet_studies
from dicomnode.flow.deliver import order_rounds

CHUNK = 5000
NOW = datetime.now(UTC)


def main() -> None:
    """Fill a database and print what each question costs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=100_000)
    parser.add_argument("--postgresql", default="", help="URL of an empty database; else SQLite")
    parser.add_argument("--filled", action="store_true", help="the database is full already")
    parser.add_argument("--drain-s", type=float, default=10)
    parser.add_argument("--explain", action="store_true", help="print the plan of each statement, once")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = arguments.postgresql or f"sqlite:///{folder}/rows.sqlite"
        with contextlib.closing(Database(url)) as database:
            migrate.upgrade(database)
            engine.create_tables(url)
            if not arguments.filled:
                fill(database, url, arguments.studies)
            with database.read() as session:
                print(f"{database.dialect}, {studies.counts_by_state(session)[State.QUEUED]} queued studies")
            print(f"memory before {peak_mib():.0f} MiB")
            questions(database, url, Path(folder), explain=arguments.explain)
            print(f"memory after  {peak_mib():.0f} MiB")
            drain(database, url, arguments.drain_s)
            print(f"memory after the worker {peak_mib():.0f} MiB")


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def fill(database: Database, url: str, count: int) -> None:
    """Add `count` queued studies (with their engine rows), and as many delivered ones that wait for a dead PACS."""
    for start in range(0, count, CHUNK):
        with database.write() as session:
            fill_studies(session, range(start, min(start + CHUNK, count)))
    with contextlib.closing(engine.Queue(url)) as queue, database.write() as session:
        queue.add_study(session, "0", 1, 1)
        tables = queue._client._sys_db.tables
        multiply(session, tables.workflow_status, count, created_at="t.created_at + n.n")
        multiply(session, tables.workflow_input, count)
    if database.dialect == "postgresql":
        with database.write() as session:
            session.execute(text("ANALYZE"))


def multiply(session, table, count, **changed) -> None:
    """Copy the row of the workflow study/0/1 for studies 1 to `count` - 1."""
    name = table.name if session.get_bind().dialect.name == "sqlite" else f"dbos.{table.name}"
    changed["workflow_uuid"] = "'study/' || n.n || '/1'"
    columns = [column.name for column in table.columns if column.computed is None]
    values = ", ".join(changed.get(column, f"t.{column}") for column in columns)
    numbers = f"WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {count - 1})"
    rows = f"{numbers} SELECT {values} FROM {name} t, n WHERE t.workflow_uuid = 'study/0/1'"
    session.execute(text(f"INSERT INTO {name} ({', '.join(columns)}) {rows}"))


def fill_studies(session, numbers) -> None:
    at = [NOW - timedelta(days=3) + timedelta(seconds=n / 10) for n in numbers]
    uids = [f"1.2.3.{n}" for n in numbers]
    session.execute(
        insert(Study),
        [
            {"id": n + 1, "study_instance_uid": u, "first_received_at": a}
            for n, u, a in zip(numbers, uids, at, strict=True)
        ],
    )
    versions = [
        {
            "id": 2 * n + number,
            "study_id": n + 1,
            "number": number,
            "uid": version_uid(u, number),
            "state": State.QUEUED if number == 1 else State.DELIVERING,
            "state_changed_at": a,
            "source_ae_title": "CT",
            "opened_at": a,
            "last_instance_at": a,
            "closed_at": a,
            "instance_count": 1,
            "run": 1,
        }
        for n, u, a in zip(numbers, uids, at, strict=True)
        for number in (1, 2)
    ]
    session.execute(insert(StudyVersion), versions)
    session.execute(
        insert(EvidenceObject),
        [
            {
                "id": n + 1,
                "version_id": 2 * n + 2,
                "encoder": "sr",
                "sop_class_uid": "1.2",
                "sop_instance_uid": f"2.25.{n}",
                "series_instance_uid": "2.25.1",
                "path": f"evidence/{n}",
                "size_bytes": 1,
                "sha256": "x",
                "created_at": a,
            }
            for n, a in zip(numbers, at, strict=True)
        ],
    )
    deliveries.know(session, [f"pacs{n}" for n in range(3)])
    session.execute(
        insert(Delivery),
        [
            {
                "id": n + 1,
                "evidence_object_id": n + 1,
                "destination": f"pacs{n % 3}",
                "state": DeliveryState.WAITING,
                "attempts": 5,
                "created_at": a,
                "next_at": NOW + timedelta(days=1, seconds=n),
            }
            for n, a in zip(numbers, at, strict=True)
        ],
    )
    session.execute(
        insert(AuditEvent),
        [
            {"at": v["opened_at"], "actor": "node", "action": "QUIET", "version_id": v["id"], "detail": {}}
            for v in versions
        ],
    )


def questions(database: Database, url: str, root: Path, *, explain: bool) -> None:
    settings = Settings()
    if explain:
        explain_statements(database)
    with contextlib.closing(engine.Queue(url)) as queue:
        with database.write() as session:
            processes.beat(session, executor_id="r", role="receive", host="h", pid=1, at=NOW - timedelta(hours=1))
            processes.beat(session, executor_id="r", role="receive", host="h", pid=1, at=now(session))
        ask("sweep: close what is quiet (nothing is)", lambda: close_quiet_studies(database, queue, settings))
        lost = engine.Engine.__new__(engine.Engine)
        ask("sweep: which processes hold work", lambda: read(database, lost.holders))
        ask("sweep: destinations that have something to do (none has)", lambda: order_rounds(database, queue))
    reads = {
        "receiver: is the queue full (once a second)": lambda s: intake.queued_count(s, 100_000),
        "receiver: is this study known": studies_known,
        "step: is it paused": lambda s: pauses.is_paused(s, Stage.ANALYZE),
        "status: versions by state": studies.counts_by_state,
        "study ls: the newest 50": lambda s: studies.newest_versions(s, 50),
        "queue ls: deliveries by destination": deadletters.unsettled_by_destination,
        "queue ls --failed": lambda s: deadletters.dead_letters(s, limit=50),
        "delivery ls --dead": lambda s: deadletters.deliveries(s, state=DeliveryState.DEAD, limit=50),
        "purge: which studies may go (none may)": lambda s: retention.purgeable_studies(
            s, NOW - timedelta(days=30), 100
        ),
        "purge: which may go for space (none may)": lambda s: retention.purgeable_studies(s, NOW, 1),
        "purge: which results may go (none may)": lambda s: retention.studies_with_old_evidence(s, NOW, 100),
        "deliveries of a version": lambda s: results.deliveries_of(s, 2),
    }
    for name, question in reads.items():
        ask(name, lambda question=question: read(database, question))


def read(database, question):
    with database.read() as session:
        return question(session)


def studies_known(session):
    return intake.is_known_study(session, "1.2.3.77777")


def ask(name, question, times=15):
    """Print median and longest of some runs after a first that warms caches, and the CPU of this thread."""
    question()
    seconds, cpu = [], []
    for _ in range(times):
        began, cpu_began = time.perf_counter(), time.thread_time()
        question()
        seconds.append(time.perf_counter() - began)
        cpu.append(time.thread_time() - cpu_began)
    show(seconds, cpu, name)


def show(seconds, cpu, name):
    print(
        f"{1000 * statistics.median(seconds):9.2f} ms (longest {1000 * max(seconds):8.2f}; "
        f"CPU here {1000 * statistics.median(cpu):7.2f}) {name}",
        flush=True,
    )


def explain_statements(database: Database) -> None:
    seen = set()
    prefix = "EXPLAIN QUERY PLAN " if database.dialect == "sqlite" else "EXPLAIN "

    def show(connection, cursor, statement, parameters, context, executemany):
        if statement in seen or not statement.startswith("SELECT"):
            return
        seen.add(statement)
        cursor.execute(prefix + statement, parameters)
        print(" ".join(statement.split())[:150])
        for row in cursor.fetchall():
            print("    ", row[-1])

    event.listen(database._engine, "before_cursor_execute", show)


def drain(database: Database, url: str, seconds: float) -> None:
    """Let one worker with steps that do nothing take studies for a while; print how many, and what a claim costs."""
    done = threading.Semaphore(0)
    steps = engine.StudySteps(lambda _v: done.release() or False, lambda _v: None, lambda _v, _why: None)
    worker = engine.Engine(url, "benchmark")
    worker.run_studies(steps, concurrency=16)
    sys_db = _get_dbos_instance()._sys_db
    claim, claims, cpu = sys_db.start_queued_workflows, [], []

    def timed(*arguments, **options):
        began, cpu_began = time.perf_counter(), time.thread_time()
        try:
            return claim(*arguments, **options)
        finally:
            claims.append(time.perf_counter() - began)
            cpu.append(time.thread_time() - cpu_began)

    sys_db.start_queued_workflows = timed
    time.sleep(seconds)
    count = done._value
    worker.stop(wait_s=5)
    with database.read() as session:
        table = "workflow_status" if database.dialect == "sqlite" else "dbos.workflow_status"
        left = session.execute(text(f"SELECT count(*) FROM {table} WHERE status = 'ENQUEUED'")).scalar()
        assert session.scalar(select(func.count()).select_from(Study))
    show(claims, cpu, "claim of up to 16 studies, while they run")
    print(f"{count / seconds:9.1f} studies a second pass the engine with steps that do nothing; {left} are left")


if __name__ == "__main__":
    main()
