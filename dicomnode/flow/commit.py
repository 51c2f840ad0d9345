"""Commit: a destination that can is asked to keep what it was sent; delivered then means committed.

Without an answer it is asked again, under a new transaction, with growing waits.
"""

import time
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from dicomnode.config import DeliverySettings
from dicomnode.db import audit, deliveries
from dicomnode.db.session import Database, now
from dicomnode.db.tables import Delivery
from dicomnode.domain.lifecycle import DeliveryState
from dicomnode.domain.patience import back_off
from dicomnode.flow.finish import finish_version
from dicomnode.log import get_logger
from dicomnode.network.commitment import Commitment, ask, new_transaction_uid
from dicomnode.network.scu import Line
from dicomnode.network.status import Outcome, classify_commitment_failure, describe

log = get_logger(__name__)
INSTANCES_A_REQUEST = 200
LOOK_EVERY_S = 0.05


class Commitments:
    """Asks for storage commitment and settles the answers."""

    def __init__(self, database: Database, settings: DeliverySettings) -> None:
        self._database = database
        self._settings = settings

    def ask(self, line: Line, destination: str) -> None:
        """Ask for what the destination has not committed to, on an open association; wait a moment for the answer.

        The request is a row before it is sent: its answer may come at once, to another process.
        """
        transaction_uid = new_transaction_uid()
        with self._database.write() as session:
            moment = now(session)
            found = deliveries.uncommitted(session, destination, moment, INSTANCES_A_REQUEST)
            if not found:
                return
            deliveries.add_commitment(session, transaction_uid, destination, len(found), moment)
            for delivery, _content in found:
                delivery.transaction_uid = transaction_uid
                delivery.commitment_requests += 1
                delivery.next_at = moment + self._patience(delivery)
                delivery.error = "sent; the answer to the request for storage commitment is awaited"
        references = [(content.sop_class_uid, content.sop_instance_uid) for _, content in found]
        if why := ask(line.association, transaction_uid, references, line.next_message_id()):
            log.warning("no storage commitment", destination=destination, instances=len(found), error=why)
            with self._database.write() as session:
                deliveries.note_uncommitted(session, transaction_uid, why)
        else:
            self._wait(transaction_uid)

    def waive(self, session: Session, destination: str, moment: datetime) -> None:
        """Let what was sent be enough where the settings do not ask for commitment any more."""
        for delivery, content in deliveries.uncommitted(session, destination, moment, INSTANCES_A_REQUEST):
            delivery.state, delivery.settled_at, delivery.error = DeliveryState.SENT, moment, ""
            version_id = deliveries.version_of(session, content.object_id)
            _record(session, delivery, version_id, content.sop_instance_uid, moment)
            finish_version(session, version_id, moment)

    def _patience(self, delivery: Delivery) -> timedelta:
        first_s = self._settings.commitment_timeout_s
        longest_s = max(first_s, self._settings.max_retry_s)
        return back_off(2 * first_s, 2 * longest_s, delivery.commitment_requests, f"commitment {delivery.id}")

    def _wait(self, transaction_uid: str) -> None:
        """Keep the association for a moment: some peers answer on it."""
        ends_at = time.monotonic() + self._settings.commitment_wait_s
        while time.monotonic() < ends_at:
            with self._database.read() as session:
                asked = deliveries.commitment(session, transaction_uid)
                if asked is None or asked.answered_at is not None:
                    return
            time.sleep(LOOK_EVERY_S)

    def settle(self, result: Commitment) -> bool:
        """Write the answer of a destination; `False` where nobody asked under this transaction."""
        with self._database.write() as session:
            moment = now(session)
            asked = deliveries.commitment(session, result.transaction_uid)
            if asked is None:
                log.warning("result of a storage commitment that was not asked for")
                return False
            asked.answered_at = moment
            versions = set()
            for uid in result.committed:
                versions.add(_committed(session, asked.destination, uid, moment))
            for uid, reason in result.failed.items():
                versions.add(
                    self._not_committed(session, result.transaction_uid, asked.destination, uid, reason, moment)
                )
            for version_id in sorted(version for version in versions if version is not None):
                finish_version(session, version_id, moment)
        log.info(
            "storage commitment answered",
            destination=asked.destination,
            committed=len(result.committed),
            failed=len(result.failed),
        )
        return True

    def _not_committed(
        self, session: Session, transaction_uid: str, destination: str, uid: str, reason: int, moment: datetime
    ) -> int | None:
        """Let an object that is not kept be sent again, or be dead; an answer to an older request says nothing."""
        found = deliveries.uncommitted_instance(session, destination, uid)
        if found is None or found[0].transaction_uid != transaction_uid:
            return None
        delivery, version_id = found
        delivery.error = f"not committed: {describe(reason)}"
        if classify_commitment_failure(reason) is Outcome.RETRY:
            settings, seed = self._settings, f"delivery {delivery.id}"
            delivery.state = DeliveryState.WAITING
            delivery.next_at = moment + back_off(
                settings.first_retry_s, settings.max_retry_s, delivery.commitment_requests, seed
            )
        else:
            delivery.state, delivery.settled_at = DeliveryState.DEAD, moment
        _record(session, delivery, version_id, uid, moment)
        return version_id


def _committed(session: Session, destination: str, uid: str, moment: datetime) -> int | None:
    found = deliveries.uncommitted_instance(session, destination, uid)
    if found is None:
        return None
    delivery, version_id = found
    delivery.state, delivery.settled_at, delivery.error = DeliveryState.COMMITTED, moment, ""
    _record(session, delivery, version_id, uid, moment)
    return version_id


def _record(session: Session, delivery: Delivery, version_id: int, uid: str, moment: datetime) -> None:
    audit.record(
        session,
        f"delivery {delivery.state}",
        at=moment,
        version_id=version_id,
        destination=delivery.destination,
        sop_instance_uid=uid,
        transaction_uid=delivery.transaction_uid,
        error=delivery.error,
    )
    session.flush()
