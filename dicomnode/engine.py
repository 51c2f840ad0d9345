"""Durable execution: the only module that knows DBOS.

Our rows are the truth; the engine runs steps over them and starts them again after a crash. Two workflows: `study`
(analyze, report) and `deliver` (a round to one destination). Steps are idempotent, so a repeated one is harmless.
Standard: none; DESIGN section 6 lists what was measured of DBOS and why each setting is as it is.
"""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from dbos import DBOS, DBOSClient, DBOSConfig, EnqueueOptions, Serializer, WorkflowSerializationFormat
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

from dicomnode.errors import DatabaseUnavailable, Permanent
from dicomnode.failpoint import failpoint
from dicomnode.log import get_logger

log = get_logger(__name__)
Work = TypeVar("Work")
Outcome = TypeVar("Outcome")

APPLICATION, APPLICATION_VERSION = "dicomnode", "1"
ANALYSIS_QUEUE, DELIVERY_QUEUE = "analysis", "delivery"
STUDY_WORKFLOW, DELIVERY_WORKFLOW = "study", "deliver"
ANALYSIS_POLL_S, DELIVERY_POLL_S = 0.1, 0.25
ROUNDS_A_DESTINATION = 1
PORTABLE = WorkflowSerializationFormat.PORTABLE
FINISHED = ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]
PAGE = 1000
ORDINARY, STAT = 100, 1
"""Priorities on the analysis queue: the smaller number goes first."""
DATABASE_PAUSE_S = 1.0
RECOVERIES = 1_000_000  # our own attempts cap (study_version.attempts) ends a poison study, visibly


@dataclass(frozen=True, slots=True)
class StudySteps:
    """The steps of the study workflow; each takes the id of a study version.

    `analyze` returns whether there is something to report; `give_up` takes the reason in words. `shadow` comes last
    and may fail without harm.
    """

    analyze: Callable[[int], bool]
    report: Callable[[int], None]
    give_up: Callable[[int, str], None]
    shadow: Callable[[int], None] = lambda _: None


class RecordedError(Exception):
    """What a step raised in a process that is gone; its text begins with the name of the class."""


class JSONSerializer(Serializer):
    """JSON instead of DBOS's default, which is pickle in the database."""

    def name(self) -> str:
        """Return the name that stands beside each value."""
        return "dicomnode-json-1"

    def serialize(self, data: Any) -> str:
        """Return `data` as JSON, an exception as its class and message."""
        if isinstance(data, BaseException):
            data = {"__error__": type(data).__name__, "message": str(data)[:2000]}
        return json.dumps(data)

    def deserialize(cls, serialized_data: str) -> Any:  # noqa: N805  named so by DBOS
        """Return what `serialize` was given, an exception as `RecordedError`."""
        data = json.loads(serialized_data)
        if isinstance(data, dict) and "__error__" in data:
            return RecordedError(f"{data['__error__']}: {data['message']}")
        return data


def create_tables(database_url: str) -> None:
    """Create or upgrade the engine's own tables."""
    DBOS.migrate(_url(database_url))


class Queue:
    """Puts work on the engine's queues, inside the transaction that the caller owns."""

    def __init__(self, database_url: str) -> None:
        self._client = DBOSClient(
            system_database_url=_url(database_url), serializer=JSONSerializer(), application_name=APPLICATION
        )

    def add_study(self, session: Session, version_uid: str, version_id: int, run: int) -> None:
        """Enqueue the analysis of a study version; `run` counts how often it was queued."""
        options = _options(STUDY_WORKFLOW, ANALYSIS_QUEUE, _study_id(version_uid, run))
        options["priority"] = ORDINARY
        self._client.enqueue_in_transaction(session, options, version_id)

    def add_round(self, session: Session, destination: str, key: str) -> None:
        """Enqueue a round to a destination, once a `key`; a destination is a partition: a dead one delays no other."""
        options = _options(DELIVERY_WORKFLOW, DELIVERY_QUEUE, f"deliver/{destination}/{key}")
        options["queue_partition_key"] = destination
        self._client.enqueue_in_transaction(session, options, destination)

    def rounds(self, session: Session) -> set[str]:
        """Return the destinations with a round that waits or runs; literals for the same reason as in `holders`."""
        query = f"SELECT DISTINCT queue_partition_key FROM {_table(session)} WHERE queue_name = '{DELIVERY_QUEUE}'"  # noqa: S608
        return set(session.scalars(text(f"{query} AND status IN ('ENQUEUED', 'PENDING')")))

    def set_priority(self, session: Session, version_uid: str, run: int, priority: int) -> bool:
        """Change the place of a queued study, 1 the first; `False` where it is not waiting (any more)."""
        statement = text(
            f"UPDATE {_table(session)} SET priority = :priority WHERE workflow_uuid = :id AND status = 'ENQUEUED'"  # noqa: S608
        )
        changed = session.connection().execute(statement, {"priority": priority, "id": _study_id(version_uid, run)})
        return changed.rowcount == 1

    def remove_finished(self, before: datetime) -> int:
        """Remove the engine's rows of work that ended before `before`; our own rows keep the story. Return how many."""
        removed = 0
        while True:
            found = self._client.list_workflows(
                status=FINISHED,
                completed_before=before.isoformat(),
                limit=PAGE,
                load_input=False,
                load_output=False,
            )
            if not found:
                return removed
            self._client.delete_workflows([workflow.workflow_id for workflow in found])
            removed += len(found)

    def close(self) -> None:
        """Close the connections."""
        self._client.destroy()


class Engine:
    """The engine in this process: `launch`, then it takes work from its queue until `stop`."""

    def __init__(self, database_url: str, executor_id: str) -> None:
        self.executor_id = executor_id
        DBOS(
            config=DBOSConfig(
                name=APPLICATION,
                system_database_url=_url(database_url),
                executor_id=executor_id,
                application_version=APPLICATION_VERSION,
                serializer=JSONSerializer(),
                log_level="ERROR",
            )
        )

    def run_studies(self, steps: StudySteps, *, concurrency: int) -> None:
        """Take study versions from the queue, at most `concurrency` at once."""
        _register_study(steps)
        self._launch(ANALYSIS_QUEUE)
        DBOS.register_queue(ANALYSIS_QUEUE, worker_concurrency=concurrency, polling_interval_sec=ANALYSIS_POLL_S)

    def run_deliveries(self, deliver: Callable[[str], None], *, concurrency: int) -> None:
        """Take rounds from the queue, at most `concurrency` at once; `deliver` takes the name of a destination."""
        _register_delivery(deliver)
        self._launch(DELIVERY_QUEUE)
        DBOS.register_queue(
            DELIVERY_QUEUE,
            worker_concurrency=concurrency,
            partition_concurrency=ROUNDS_A_DESTINATION,
            polling_interval_sec=DELIVERY_POLL_S,
        )

    def holders(self, session: Session) -> set[str]:
        """Return the processes that have running work.

        The status is a literal: with a parameter SQLite cannot use the engine's partial index and reads every workflow.
        """
        query = (
            f"SELECT DISTINCT executor_id FROM {_table(session)} WHERE status = 'PENDING' AND executor_id IS NOT NULL"  # noqa: S608
        )
        return set(session.scalars(text(query)))

    def take_over(self, lost: Iterable[str]) -> int:
        """Give the running work of `lost` processes back to its queue; return how many workflows."""
        executors = sorted(lost)
        if not executors:
            return 0
        failpoint("takeover.found")
        workflows = len(DBOS._recover_pending_workflows(executors))
        failpoint("takeover.done")
        log.warning("took over work of lost processes", workflows=workflows)
        return workflows

    def stop(self, *, wait_s: int) -> None:
        """Take no more work, wait for the running steps up to `wait_s`, leave the rest to others."""
        DBOS.destroy(destroy_registry=True, workflow_completion_timeout_sec=wait_s)

    def _launch(self, queue: str) -> None:
        DBOS.listen_queues([queue])
        DBOS.launch()


def _options(workflow: str, queue: str, workflow_id: str) -> EnqueueOptions:
    return {
        "workflow_name": workflow,
        "queue_name": queue,
        "workflow_id": workflow_id,
        "serialization_type": PORTABLE,
    }


def _table(session: Session) -> str:
    return "workflow_status" if session.get_bind().dialect.name == "sqlite" else "dbos.workflow_status"


def _study_id(version_uid: str, run: int) -> str:
    return f"study/{version_uid}/{run}"


def _patiently(step: Callable[[Work], Outcome], work: Work) -> Outcome:
    """Return what `step` returns, however long the database is away: that is no attempt, nothing else could run."""
    while True:
        try:
            return step(work)
        except DatabaseUnavailable as exc:
            log.warning("a step waits for the database", error=str(exc))
            time.sleep(DATABASE_PAUSE_S)


def _may_succeed_later(error: BaseException) -> bool:
    return not isinstance(error, Permanent)


def _register_study(steps: StudySteps) -> None:
    # DBOS marks the function that it is given: a bound method cannot be marked, so each step is a function here
    @DBOS.step(retries_allowed=True, interval_seconds=1.0, max_attempts=5, should_retry=_may_succeed_later)
    def analyze(version_id: int) -> bool:
        return _patiently(steps.analyze, version_id)

    @DBOS.step(retries_allowed=True, interval_seconds=1.0, max_attempts=5, should_retry=_may_succeed_later)
    def report(version_id: int) -> None:
        _patiently(steps.report, version_id)

    @DBOS.step(retries_allowed=True, interval_seconds=1.0, max_attempts=12)
    def give_up(version_id: int, reason: str) -> None:
        _patiently(lambda version: steps.give_up(version, reason), version_id)

    @DBOS.workflow(name=STUDY_WORKFLOW, max_recovery_attempts=RECOVERIES, serialization_type=PORTABLE)
    def study(version_id: int) -> str:
        try:
            if analyze(version_id):
                report(version_id)
        except Exception as exc:
            log.exception("study version failed", version=version_id)
            give_up(version_id, _in_words(exc))
            return "failed"
        try:  # no step: it leaves rows of its own, and most studies have no shadow that is worth another write
            steps.shadow(version_id)
        except Exception:
            log.exception("shadow failed", version=version_id)
        return "done"


def _register_delivery(deliver_step: Callable[[str], None]) -> None:
    @DBOS.step(retries_allowed=True, interval_seconds=1.0, max_attempts=12)
    def serve(destination: str) -> None:
        _patiently(deliver_step, destination)

    @DBOS.workflow(name=DELIVERY_WORKFLOW, max_recovery_attempts=RECOVERIES, serialization_type=PORTABLE)
    def deliver(destination: str) -> None:
        serve(destination)


def _in_words(error: BaseException) -> str:
    """Return the last real reason: DBOS wraps what a step raised."""
    inner = getattr(error, "errors", None)
    if isinstance(inner, list) and inner:
        error = inner[-1]
    if isinstance(error, RecordedError):
        return str(error)
    return f"{type(error).__name__}: {error}"[:2000]


def _url(database_url: str) -> str:
    url = make_url(database_url)
    if url.get_backend_name() == "postgresql":
        url = url.set(drivername="postgresql")
    return url.render_as_string(hide_password=False)
