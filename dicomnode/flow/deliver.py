"""Deliver: one attempt to send one evidence object to one destination, and what became of it (T6).

A remote fault never raises: the wait before the next attempt stands in the row.
"""

from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy.orm import Session

from dicomnode.config import PeerSettings, Settings
from dicomnode.db import audit, results, studies
from dicomnode.db.results import DueDelivery
from dicomnode.db.session import Database, now
from dicomnode.domain.lifecycle import DeliveryState, Event
from dicomnode.errors import PeerRefused, PeerUnavailable
from dicomnode.failpoint import failpoint
from dicomnode.log import get_logger
from dicomnode.metrics import DELIVERY_ATTEMPTS
from dicomnode.network.scu import SendResult, send
from dicomnode.network.status import Outcome

log = get_logger(__name__)


class Deliveries:
    """The deliver step with what it needs: rows, the spool at `root`, the destinations."""

    def __init__(self, database: Database, root: Path, settings: Settings) -> None:
        self._database = database
        self._root = root
        self._settings = settings

    def deliver(self, delivery_id: int) -> None:
        """Send what is due and settle it; a delivery that is not due any more is left alone."""
        with self._database.read() as session:
            due = results.due_delivery(session, delivery_id)
        if due is None:
            return
        failpoint("deliver.read")
        outcome, status, error = self._attempt(due)
        failpoint("deliver.sent")
        DELIVERY_ATTEMPTS.labels(due.destination, str(outcome)).inc()
        self._settle(due, outcome, status, error)

    def _attempt(self, due: DueDelivery) -> tuple[Outcome, int | None, str]:
        peer = self._settings.peers.get(due.destination)
        if peer is None:
            return Outcome.RETRY, None, f"there is no [peers.{due.destination}] in the settings (any more)"
        try:
            result = self._send(peer, due)
        except (PeerUnavailable, PeerRefused) as exc:
            return Outcome.RETRY, None, str(exc)
        return result.outcome, result.status, result.comment

    def _send(self, peer: PeerSettings, due: DueDelivery) -> SendResult:
        path = self._root / due.path
        (result,) = send(peer, self._settings.node.ae_title, [path], self._settings.delivery)
        return result

    def _settle(self, due: DueDelivery, outcome: Outcome, status: int | None, error: str) -> None:
        with self._database.write() as session:
            moment = now(session)
            state, wait = self._next(due, outcome, moment)
            if not results.settle_delivery(session, due, state, at=moment, dimse_status=status, error=error, wait=wait):
                return
            audit.record(
                session,
                f"delivery {state}",
                at=moment,
                version_id=due.version_id,
                destination=due.destination,
                sop_instance_uid=due.sop_instance_uid,
                attempt=due.attempts + 1,
                dimse_status=None if status is None else f"0x{status:04X}",
                error=error,
            )
            finish_version(session, due.version_id, moment)
            failpoint("settle.written")
        failpoint("settle.committed")
        text = log.info if state.is_settled else log.warning
        text(
            f"delivery {state}",
            version=due.version_id,
            destination=due.destination,
            error=error,
            attempt=due.attempts + 1,
        )

    def _next(self, due: DueDelivery, outcome: Outcome, moment: datetime) -> tuple[DeliveryState, timedelta]:
        if outcome is Outcome.ACCEPTED:
            return DeliveryState.SENT, timedelta(0)
        patience = timedelta(days=self._settings.delivery.give_up_after_days)
        if outcome is Outcome.REFUSED or moment - due.created_at > patience:
            return DeliveryState.DEAD, timedelta(0)
        return DeliveryState.WAITING, back_off(self._settings, due.attempts)


def back_off(settings: Settings, attempts: int) -> timedelta:
    """Return the wait after `attempts` failed attempts: doubling from the first, up to the longest."""
    doubled = settings.delivery.first_retry_s * 2 ** min(attempts, 30)
    return timedelta(seconds=min(doubled, settings.delivery.max_retry_s))


def finish_version(session: Session, version_id: int, moment: datetime) -> None:
    """Move a version on when all its deliveries are settled, one way or the other.

    The study is locked first: of two deliveries that settle at once the later one must see the other.
    """
    studies.lock(session, version_id)
    counts = results.delivery_counts(session, version_id)
    if counts.get(DeliveryState.DUE) or counts.get(DeliveryState.WAITING):
        return
    if dead := counts.get(DeliveryState.DEAD):
        studies.advance(session, version_id, Event.GAVE_UP, moment, f"{dead} deliveries were refused or given up")
    else:
        studies.advance(session, version_id, Event.DELIVERED, moment)
    newer = studies.superseding(session, version_id)
    if newer is not None:
        studies.supersede_older(session, newer.study_id, newer.number, moment)
