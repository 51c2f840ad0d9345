"""Rows for tests: a study that stands somewhere on its way, without a node."""

from datetime import UTC, datetime

from sqlalchemy import select, update

from dicomnode.db import deliveries, explanations, results, studies
from dicomnode.db.tables import AuditEvent, StudyVersion
from dicomnode.domain.findings import BundleIdentity, BundleResult
from dicomnode.domain.lifecycle import DeliveryState, Event, State
from dicomnode.domain.study import InstanceHeader

T0 = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SENDER = studies.Sender("CT1", "127.0.0.1")
EVENTS = {
    State.QUEUED: (),
    State.ANALYZING: (Event.STARTED,),
    State.REPORTING: (Event.STARTED, Event.ANALYZED),
    State.DELIVERING: (Event.STARTED, Event.ANALYZED, Event.REPORTED),
    State.DONE: (Event.STARTED, Event.ANALYZED, Event.REPORTED, Event.DELIVERED),
    State.SKIPPED: (Event.STARTED, Event.NO_MODEL),
    State.FAILED: (Event.STARTED, Event.GAVE_UP),
}


def header(sop="1.2.3.1", study="1.2.3"):
    return InstanceHeader("1.2.840.10008.5.1.4.1.1.2", sop, "1.2.840.10008.1.2.1", study, "1.2.3.9", {"Modality": "CT"})


def arrive(database, sop="1.2.3.1", digest="a", at=T0, study="1.2.3", path=""):
    """Add an instance; return the id of the version that is open for it."""
    with database.write() as session:
        file = studies.StoredFile(path or f"instances/{sop}{digest}", 10, digest)
        return studies.add_instance(session, header(sop, study), file, SENDER, at)


def stand(database, version_id, state, at=T0, reason="because"):
    """Close a receiving version and walk it to `state`."""
    with database.write() as session:
        assert studies.close(session, studies.version(session, version_id), at, "quiet")
        for event in EVENTS[state]:
            assert studies.advance(session, version_id, event, at, reason)


def deliver(database, version_id, states, at=T0, number=1):
    """Add an object with a delivery in each of `states` (destination -> state); return the ids by destination."""
    file = studies.StoredFile(f"evidence/{version_id}.{number}", 5, "d")
    evidence = results.Evidence("sr", "1.2", f"2.25.{version_id}.{number}", "2.25.2", "AI", file)
    with database.write() as session:
        deliveries.know(session, states)
        rows = results.add_evidence(session, version_id, evidence, list(states), at)
        for row in rows:
            row.state = states[row.destination]
            row.attempts = 3
            if row.state in (DeliveryState.DEAD, DeliveryState.SENT):
                row.settled_at, row.dimse_status = at, 0xA900 if row.state == DeliveryState.DEAD else 0
                row.error = "no" if row.state == DeliveryState.DEAD else ""
        return {row.destination: row.id for row in rows}


def explain(database, version_id, path, at=T0):
    """Add an analysis of a version with an explanation whose map is at `path`."""
    bundle = BundleIdentity("b", "1", "classifier", "B", "d", "w", ())
    kept = explanations.KeptExplanation("b", "mass", "1.2.3.1", "grad-cam", studies.StoredFile(path, 1, "e"), 1, 1, 1.0)
    with database.write() as session:
        results.add_results(session, version_id, (BundleResult(bundle),), None, at, 0.0)
        explanations.add_explanations(session, version_id, [kept])


def fail_in_delivery(database, version_id, at=T0):
    with database.write() as session:
        assert studies.advance(session, version_id, Event.GAVE_UP, at, "1 deliveries were refused or given up")


def version(database, version_id):
    with database.read() as session:
        return studies.version(session, version_id)


def state(database, version_id):
    return State(version(database, version_id).state)


def age(database, version_id, at):
    with database.write() as session:
        session.execute(update(StudyVersion).where(StudyVersion.id == version_id).values(state_changed_at=at))


def audited(database):
    with database.read() as session:
        return [(e.action, e.actor) for e in session.scalars(select(AuditEvent).order_by(AuditEvent.id))]
