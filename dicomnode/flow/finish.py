"""Finish: a study version is done when all its deliveries are settled, one way or the other."""

from datetime import datetime

from sqlalchemy.orm import Session

from dicomnode.db import results, studies
from dicomnode.domain.lifecycle import DeliveryState, Event


def finish_version(session: Session, version_id: int, moment: datetime) -> None:
    """Move a version on when all its deliveries are settled, one way or the other.

    The study is locked first: of two deliveries that settle at once the later one must see the other.
    """
    studies.lock(session, version_id)
    counts = results.delivery_counts(session, version_id)
    if any(count for state, count in counts.items() if state.is_open):
        return
    if dead := counts.get(DeliveryState.DEAD):
        studies.advance(session, version_id, Event.GAVE_UP, moment, f"{dead} deliveries were refused or given up")
    else:
        studies.advance(session, version_id, Event.DELIVERED, moment)
    newer = studies.superseding(session, version_id)
    if newer is not None:
        studies.supersede_older(session, newer.study_id, newer.number, moment)
