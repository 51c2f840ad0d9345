"""The roles of the node, one process each: receive, analyze, deliver.

Here the parts are wired: what a role needs is made once and given to its steps.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import uuid
from collections.abc import Iterator
from enum import StrEnum

from dicomnode import failpoint, spool
from dicomnode import log as logs
from dicomnode.config import Settings
from dicomnode.db import migrate, processes
from dicomnode.db.session import Database, now
from dicomnode.domain.findings import WhenUnusual
from dicomnode.errors import ConfigError, Transient

log = logs.get_logger(__name__)
HEARTBEAT_S = 2.0
DATABASE_PAUSE_S = 0.5
STOP_WAIT_S = 15
DELIVERIES_AT_ONCE = 8


class Role(StrEnum):
    """What a process does."""

    RECEIVE = "receive"
    ANALYZE = "analyze"
    DELIVER = "deliver"


def new_executor_id() -> str:
    """Return an identity that no other process has, now or later."""
    return f"{socket.gethostname()[:64]}-{os.getpid()}-{uuid.uuid4().hex[:12]}"


def run(role: Role, settings: Settings, executor_id: str, *, supervised: bool) -> None:
    """Run a role until SIGTERM, SIGINT or, if `supervised`, the end of the supervisor."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if supervised:
        threading.Thread(target=_stop_with_supervisor, args=(stop,), daemon=True).start()
    failpoint.arm(os.environ.get(failpoint.VARIABLE, ""))
    database = Database(settings.database_url)
    try:
        if not _wait_for_database(database, stop):
            return
        spool.prepare(settings.node.data_dir)
        # alive until its work has stopped: nobody else takes what still runs
        with _heartbeat(database, role, executor_id) as ready, _ROLES[role](settings, database, executor_id):
            ready.set()
            log.info("role ready", role=str(role), pid=os.getpid())
            stop.wait()
            log.info("role stops", role=str(role))
    finally:
        database.close()


def _wait_for_database(database: Database, stop: threading.Event) -> bool:
    """Return whether the database is there and as new as we are; `False` where `stop` came first."""
    while not stop.is_set():
        try:
            require_newest_schema(database)
        except Transient as exc:
            log.warning("role waits for the database", error=str(exc))
            stop.wait(DATABASE_PAUSE_S)
        else:
            return True
    return False


def require_newest_schema(database: Database) -> None:
    """Raise `ConfigError` if the database is not at the revision that this release needs."""
    found, newest = migrate.current(database), migrate.newest()
    if found != newest:
        raise ConfigError(
            f"the database is at revision {found or 'none'}, {newest} is needed: run `dicomnode db upgrade`"
        )


@contextlib.contextmanager
def _receive(settings: Settings, database: Database, _executor_id: str) -> Iterator[None]:
    from dicomnode.flow.commit import Commitments
    from dicomnode.flow.receive import Reception
    from dicomnode.flow.vouch import Vouching
    from dicomnode.network.commitment_scp import CommitmentSCP
    from dicomnode.network.scp import StorageSCP

    root = settings.node.data_dir
    reception = Reception(database, root, settings.receiver)
    vouching = Vouching(database, root, settings.peers)
    commitment = CommitmentSCP(settings.node.ae_title, settings.peers, settings.delivery, vouching.judge)
    scp = StorageSCP(
        settings.receiver,
        settings.node.ae_title,
        settings.peers,
        on_store=reception.store,
        on_rejected=reception.rejected,
        on_commitment=Commitments(database, settings.delivery).settle,
        on_n_action=commitment.on_n_action,
    )
    scp.start()
    try:
        yield
    finally:
        scp.stop()


@contextlib.contextmanager
def _analyze(settings: Settings, database: Database, executor_id: str) -> Iterator[None]:
    from dicomnode import evidence
    from dicomnode.engine import Engine, Queue, StudySteps
    from dicomnode.flow import bundles
    from dicomnode.flow.analyze import Analysis, give_up
    from dicomnode.flow.report import Report
    from dicomnode.flow.shadow import Shadow

    root = settings.node.data_dir
    evidence.warm_up()
    queue = Queue(settings.database_url)
    in_use = bundles.BundlesInUse(bundles.open_set(database, settings))
    with contextlib.closing(queue), contextlib.closing(in_use):
        when_unusual = WhenUnusual(settings.results.when_unusual)
        analysis = Analysis(database, root, queue, in_use, settings.analysis, when_unusual)
        report = Report(database, root, queue, settings)
        shadow = Shadow(database, root, in_use)
        steps = StudySteps(
            analysis.analyze, report.report, lambda version, why: give_up(database, version, why), shadow.look
        )
        engine = Engine(settings.database_url, executor_id)
        engine.run_studies(steps, concurrency=2 * settings.analysis.batch_images)
        stop = threading.Event()
        follower = threading.Thread(target=bundles.follow, args=(database, settings, in_use, stop), name="bundles")
        follower.start()
        try:
            yield
        finally:
            analysis.stop()
            stop.set()
            follower.join()
            engine.stop(wait_s=STOP_WAIT_S)


@contextlib.contextmanager
def _deliver(settings: Settings, database: Database, executor_id: str) -> Iterator[None]:
    from dicomnode.engine import Engine, Queue
    from dicomnode.flow import ask, housekeeping
    from dicomnode.flow.deliver import Deliveries
    from dicomnode.flow.sweep import run_forever

    root = settings.node.data_dir
    queue = Queue(settings.database_url)
    with contextlib.closing(queue):
        engine = Engine(settings.database_url, executor_id)
        deliveries = Deliveries(database, root, settings, executor_id)
        at_once = DELIVERIES_AT_ONCE + len(settings.destinations)
        engine.run_deliveries(deliveries.deliver, concurrency=at_once)
        stop = threading.Event()
        sweeper = threading.Thread(target=run_forever, args=(database, queue, engine, settings, stop))
        keeper = threading.Thread(target=housekeeping.run_forever, args=(database, settings, stop))
        asker = threading.Thread(target=ask.run_forever, args=(ask.Source(database, queue, settings), settings, stop))
        threads = (sweeper, keeper, asker)
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()
            engine.stop(wait_s=STOP_WAIT_S)


_ROLES = {Role.RECEIVE: _receive, Role.ANALYZE: _analyze, Role.DELIVER: _deliver}


@contextlib.contextmanager
def _heartbeat(database: Database, role: Role, executor_id: str) -> Iterator[threading.Event]:
    """Give an event; from when it is set until the end of the block the process is known to be alive."""
    ready, stop = threading.Event(), threading.Event()

    def beat() -> None:
        ready.wait()
        while not stop.is_set():
            try:
                with database.write() as session:
                    processes.beat(
                        session,
                        executor_id=executor_id,
                        role=role,
                        host=socket.gethostname(),
                        pid=os.getpid(),
                        at=now(session),
                    )
            except Transient as exc:
                log.warning("heartbeat waits", error=str(exc))
            failpoint.failpoint("heartbeat.written")
            stop.wait(HEARTBEAT_S)

    thread = threading.Thread(target=beat, name="heartbeat")
    thread.start()
    try:
        yield ready
    finally:
        stop.set()
        ready.set()
        thread.join()
        with contextlib.suppress(Transient), database.write() as session:
            processes.forget(session, executor_id)


def _stop_with_supervisor(stop: threading.Event) -> None:
    """Our standard input is the supervisor's: it ends when the supervisor does, however it ended."""
    sys.stdin.buffer.read()
    stop.set()
