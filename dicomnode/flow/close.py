"""Close: a study without a new instance for its quiet period is complete; its version is frozen and queued (T2).

It closes earlier where someone knows: an operator, the sender by a storage commitment request, or the count of its
instances at the source (`flow.ask`).
"""

from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from dicomnode.config import Settings
from dicomnode.db import audit, pauses, processes, studies
from dicomnode.db.session import Database, now
from dicomnode.db.tables import StudyVersion
from dicomnode.domain.lifecycle import Stage, State
from dicomnode.engine import Queue
from dicomnode.failpoint import failpoint
from dicomnode.log import get_logger

log = get_logger(__name__)


def close_quiet_studies(database: Database, queue: Queue, settings: Settings) -> int:
    """Close and queue what is quiet; return how many versions.

    A study is quiet only if a receiver was listening all the time: after a restart the period starts again.
    """
    with database.read() as session:
        moment = now(session)
        if processes.receiving_since(session, moment) is None or not _candidates(session, settings, moment):
            return 0
    with database.write() as session:
        moment = now(session)
        listening = processes.receiving_since(session, moment)
        if listening is None or pauses.is_paused(session, Stage.CLOSE):
            return 0
        quiet = [v for v in _candidates(session, settings, moment) if _is_quiet(v, settings, listening, moment)]
        if quiet:
            failpoint("close.chosen")
        closed = sum(_close(session, queue, version, moment, _quiet_for(settings, version)) for version in quiet)
    if closed:
        failpoint("close.committed")
    return closed


def force_close(
    database: Database, queue: Queue, version_id: int, actor: str, reason: str = "closed by operator"
) -> bool:
    """Close and queue a receiving version although it may not be quiet; `False` where it cannot be closed now.

    That is: it is not receiving, or an older version of the study is being analyzed or reported.
    """
    with database.write() as session:
        version = studies.version(session, version_id)
        if version.state != State.RECEIVING:
            return False
        closed = _close(session, queue, version, now(session), reason, actor=actor)
    if closed:
        failpoint("close.committed")
    return closed


def _candidates(session: Session, settings: Settings, moment: datetime) -> list[StudyVersion]:
    periods = [p.quiet_period_s for p in settings.peers.values() if p.quiet_period_s is not None]
    shortest = min([settings.study.quiet_period_s, *periods])
    return studies.quiet_versions(session, moment - timedelta(seconds=shortest))


def _is_quiet(version: StudyVersion, settings: Settings, listening: datetime, moment: datetime) -> bool:
    period = timedelta(seconds=settings.quiet_period_s(version.source_ae_title))
    return max(version.last_instance_at, listening) + period <= moment


def _quiet_for(settings: Settings, version: StudyVersion) -> str:
    return f"no instance for {settings.quiet_period_s(version.source_ae_title):g} s"


def _close(
    session: Session, queue: Queue, version: StudyVersion, moment: datetime, reason: str, *, actor: str = audit.NODE
) -> bool:
    if not studies.close(session, version, moment, reason, actor=actor):
        return False
    enqueue(session, queue, version)
    return True


def enqueue(session: Session, queue: Queue, version: StudyVersion) -> None:
    """Put a version that was closed in this transaction on the engine's queue."""
    failpoint("close.closed")
    session.refresh(version)
    queue.add_study(session, version.uid, version.id, version.run)
    failpoint("close.enqueued")
    log.info("study closed", version=version.id, number=version.number, instances=version.instance_count)
