"""What a clock that was set back leaves in the rows: moments that are still to come, which somebody waits for."""

from datetime import datetime, timedelta

from sqlalchemy import update
from sqlalchemy.orm import Session

from dicomnode.db.session import changed_rows
from dicomnode.db.tables import Delivery, Destination, Heartbeat, StudyVersion
from dicomnode.domain.lifecycle import DeliveryState, State


def bring_back(session: Session, at: datetime, longest_wait: timedelta) -> int:
    """Move moments of the future to now: last instances, starts of processes, next attempts, probes; return how many.

    A next attempt or probe may lie in the future, but not further than the `longest_wait`.
    """
    late = Delivery.state == DeliveryState.WAITING, Delivery.next_at > at + longest_wait
    unprobed = Destination.next_probe_at > at + longest_wait
    receiving = StudyVersion.state == State.RECEIVING, StudyVersion.last_instance_at > at
    return (
        changed_rows(session, update(StudyVersion).where(*receiving).values(last_instance_at=at))
        + changed_rows(session, update(Delivery).where(*late).values(next_at=at + longest_wait))
        + changed_rows(session, update(Destination).where(unprobed).values(next_probe_at=at + longest_wait))
        + changed_rows(session, update(Heartbeat).where(Heartbeat.started_at > at).values(started_at=at))
        + changed_rows(session, update(Heartbeat).where(Heartbeat.seen_at > at).values(seen_at=at))
    )
