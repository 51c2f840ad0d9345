"""Deliver: what is due for one destination goes there over one association; each object is settled by itself (T6).

A remote fault never raises: the wait before the next attempt stands in the rows. One process at a time serves a
destination, and one association carries its objects, so a dead peer delays no other.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from sqlalchemy.orm import Session

from dicomnode.config import DeliverySettings, PeerSettings, Settings
from dicomnode.db import audit, deliveries, pauses, processes
from dicomnode.db.deliveries import Attempt, Due
from dicomnode.db.session import Database, now
from dicomnode.db.tables import Destination
from dicomnode.domain.lifecycle import CircuitState, DeliveryState, Stage
from dicomnode.domain.patience import Action, Limits, back_off
from dicomnode.engine import Queue
from dicomnode.errors import DatabaseUnavailable, NothingAccepted, PeerRefused, PeerUnavailable, UnreadableObject
from dicomnode.failpoint import failpoint
from dicomnode.flow.choose import Accepting, Choice
from dicomnode.flow.commit import Commitments
from dicomnode.flow.finish import finish_version
from dicomnode.log import get_logger
from dicomnode.metrics import DELIVERY_ATTEMPTS
from dicomnode.network import scu, stow
from dicomnode.network.commitment import STORAGE_COMMITMENT, on_event_report
from dicomnode.network.scu import Item, SendResult, read_item
from dicomnode.network.status import Outcome

log = get_logger(__name__)
PROBE_LEASE_S = 120.0
DATABASE_PATIENCE_S, DATABASE_PAUSE_S = 600.0, 0.5
IMPLICIT_VR_LITTLE_ENDIAN = scu.IMPLICIT_VR_LITTLE_ENDIAN


class Link(Accepting, Protocol):
    """An open way to a peer: an association, or a session of HTTP."""

    def store(self, item: Item) -> SendResult:
        """Send an object and return what became of it; never raises."""


@dataclass(frozen=True, slots=True)
class _Round:
    """What one association to a destination is for. `probe` says that it has been away."""

    destination: str
    peer: PeerSettings
    is_probe: bool
    due: tuple[Due, ...]


class Deliveries:
    """The deliver step with what it needs: rows, the spool at `root`, the destinations; `executor_id` is who we are."""

    def __init__(self, database: Database, root: Path, settings: Settings, executor_id: str) -> None:
        self._database = database
        self._root = root
        self._settings = settings
        self._executor_id = executor_id
        self._choice = Choice(database, root)
        self._commitments = Commitments(database, settings.delivery)
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def deliver(self, destination: str) -> None:
        """Send all that is due for a destination, association after association, until nothing is due or it fails."""
        with self._locks[destination]:
            while (what := self._begin(destination)) is not None:
                try:
                    goes_on = self._serve(what)
                finally:
                    with self._database.write() as session:
                        deliveries.release(session, destination, self._executor_id)
                if not goes_on:
                    return

    def _begin(self, destination: str) -> _Round | None:
        """Take the destination and return what to do there; `None` where nothing is, or another process does it."""
        with self._database.write() as session:
            moment = now(session)
            living = [process.executor_id for process in processes.alive(session, moment)]
            row = deliveries.serve(session, destination, self._executor_id, living, moment)
            if row is None:
                return None
            found = self._work(session, row, moment)
            if found is None:
                deliveries.release(session, destination, self._executor_id)
            return found

    def _work(self, session: Session, row: Destination, moment: datetime) -> _Round | None:
        if pauses.is_paused(session, Stage.DELIVER, row.name):
            return None
        circuit, peer = deliveries.circuit(row), self._settings.peers.get(row.name)
        action = circuit.action(moment)
        if action is Action.WAIT:
            deliveries.park(session, row.name, circuit.last_error, circuit.next_probe_at or moment)
            return None
        due = deliveries.due(session, row.name, moment, self._settings.delivery.objects_an_association)
        if peer is None:
            self._no_answer(session, row, due, f"there is no [peers.{row.name}] in the settings (any more)")
            return None
        if action is Action.PROBE:
            deliveries.set_circuit(row, circuit.probing(moment, PROBE_LEASE_S))
            return _Round(row.name, peer, is_probe=True, due=())
        if not peer.commitment:
            self._commitments.waive(session, row.name, moment)
        asks = deliveries.uncommitted(session, row.name, moment, 1)
        return _Round(row.name, peer, is_probe=False, due=tuple(due)) if due or asks else None

    def _serve(self, what: _Round) -> bool:
        """Do what a round is for; return whether there may be more to do at once."""
        failpoint("deliver.read")
        try:
            if what.is_probe:
                self._probe(what)
                return True
            with self._open(what) as link:
                answered = self._send(link, what)
                if answered and isinstance(link, scu.Line) and what.peer.commitment:
                    self._commitments.ask(link, what.destination)
                return answered
        except NothingAccepted as exc:
            if not what.due:
                self._failed(what, str(exc))
            for due in what.due:
                self._settle(due, _without_answer(due, Outcome.REFUSED, str(exc)), what.peer)
            return bool(what.due)
        except (PeerUnavailable, PeerRefused) as exc:
            self._failed(what, str(exc))
            return False

    def _open(self, what: _Round) -> AbstractContextManager[Link]:
        peer, settings = what.peer, self._settings.delivery
        if peer.stow_url:
            return stow.connect(peer, settings)
        contexts = []
        for due in what.due:
            try:
                contexts.append(read_item(self._root / due.content.path).context)
            except (UnreadableObject, OSError):
                continue  # said where it is sent
        if not peer.commitment:
            return scu.connect(peer, self._settings.node.ae_title, settings, contexts)
        contexts.append((STORAGE_COMMITMENT, IMPLICIT_VR_LITTLE_ENDIAN))
        handlers = [on_event_report(self._commitments.settle)]
        return scu.connect(peer, self._settings.node.ae_title, settings, contexts, handlers)

    def _probe(self, what: _Round) -> None:
        """Ask a peer that was away whether it is back; then all that waits for it is due at once."""
        if what.peer.stow_url:
            stow.probe(what.peer, self._settings.delivery)
        else:
            scu.echo(what.peer, self._settings.node.ae_title, self._settings.delivery)
        with self._database.write() as session:
            moment = now(session)
            row = deliveries.lock(session, what.destination)
            if row is None or row.served_by != self._executor_id:
                return
            deliveries.set_circuit(row, deliveries.circuit(row).reached())
            woken = deliveries.wake(session, what.destination, moment)
            audit.record(session, "destination back", at=moment, destination=what.destination, deliveries=woken)
        log.info("destination back", destination=what.destination, deliveries=woken)

    def _send(self, link: Link, what: _Round) -> bool:
        """Send each object and settle it as its answer comes; return whether the peer answered for all of them."""
        chosen = self._choice.choose(link, what.destination, what.due)
        for position, due in enumerate(chosen):
            with self._database.read() as session:
                if not deliveries.is_served_by(session, what.destination, self._executor_id):
                    log.warning("destination taken over by another process", destination=what.destination)
                    return False
            result = self._store(link, due)
            failpoint("deliver.sent")
            if result.outcome is Outcome.UNAVAILABLE:
                self._failed(what, result.comment, result, chosen[position:])
                return False
            self._settle(due, result, what.peer)
        return True

    def _store(self, link: Link, due: Due) -> SendResult:
        path = self._root / due.content.path
        try:
            item = read_item(path)
        except UnreadableObject as exc:
            return _without_answer(due, Outcome.REFUSED, f"unreadable: {exc}")
        except OSError as exc:
            return _without_answer(due, Outcome.RETRY, f"the file cannot be read: {exc.strerror}")
        return link.store(item)

    def _settle(self, due: Due, result: SendResult, peer: PeerSettings) -> None:
        """Write what the peer said of one object; what it accepted is not sent twice because the database is away."""
        DELIVERY_ATTEMPTS.labels(due.destination, result.outcome.value).inc()
        ends_at = time.monotonic() + DATABASE_PATIENCE_S
        while True:
            try:
                return self._write_answer(due, result, peer)
            except DatabaseUnavailable as exc:
                if time.monotonic() > ends_at:
                    raise
                log.warning("the answer of a destination waits for the database", error=str(exc))
                time.sleep(DATABASE_PAUSE_S)

    def _write_answer(self, due: Due, result: SendResult, peer: PeerSettings) -> None:
        """Write what the peer said of one object, in a transaction of its own."""
        settings = self._settings.delivery
        with self._database.write() as session:
            moment = now(session)
            row = deliveries.lock(session, due.destination)
            state = _next_state(due, result.outcome, moment, settings, peer)
            wait = timedelta(0)
            if state is DeliveryState.WAITING:
                seed = f"delivery {due.delivery_id}"
                wait = back_off(settings.first_retry_s, settings.max_retry_s, due.attempts + 1, seed)
            if not _write(session, due, state, result, moment, moment + wait):
                return
            if row is not None and (result.status is not None or result.http_status is not None):
                deliveries.set_circuit(row, deliveries.circuit(row).answered())
                row.busy_at = moment if row.served_by == self._executor_id else row.busy_at
            finish_version(session, due.version_id, moment)
            failpoint("settle.written")
        failpoint("settle.committed")
        _tell(due, state, result.comment)

    def _failed(
        self, what: _Round, error: str, result: SendResult | None = None, left: Sequence[Due] | None = None
    ) -> None:
        """Write that the peer does not answer: for what was to be sent now, and for its circuit."""
        with self._database.write() as session:
            row = deliveries.lock(session, what.destination)
            if row is not None and row.served_by == self._executor_id:
                self._no_answer(session, row, what.due if left is None else left, error, result)

    def _no_answer(
        self, session: Session, row: Destination, due: Sequence[Due], error: str, result: SendResult | None = None
    ) -> None:
        settings, moment, before = self._settings.delivery, now(session), deliveries.circuit(row)
        circuit = before.failed(moment, error, limits(settings), 0.0 if result is None else result.wait_s)
        deliveries.set_circuit(row, circuit)
        next_at = circuit.next_probe_at or moment
        touched = set()
        for position, one in enumerate(due):
            DELIVERY_ATTEMPTS.labels(row.name, Outcome.UNAVAILABLE.value).inc()
            said = result if result is not None and position == 0 else _without_answer(one, Outcome.UNAVAILABLE, error)
            state = _next_state(one, Outcome.UNAVAILABLE, moment, settings, None)
            if _write(session, one, state, said, moment, next_at):
                touched.add(one.version_id)
        deliveries.park(session, row.name, error, next_at)
        days = settings.give_up_after_days
        touched.update(deliveries.give_up(session, row.name, moment - timedelta(days=days), moment, days))
        if circuit.state is CircuitState.OPEN and before.state is CircuitState.CLOSED:
            audit.record(session, "destination away", at=moment, destination=row.name, error=error)
        for version_id in sorted(touched):
            finish_version(session, version_id, moment)
        log.warning(
            "destination does not answer",
            destination=row.name,
            error=error,
            failures=circuit.failures,
            circuit=str(circuit.state),
            next_at=next_at.isoformat(),
        )


def limits(settings: DeliverySettings) -> Limits:
    """Return the limits of every circuit."""
    return Limits(settings.circuit_failures, settings.first_retry_s, settings.max_retry_s, settings.longest_probe_s)


def order_rounds(database: Database, queue: Queue) -> int:
    """Order a round to each destination that has something to do now and none on the queue; return how many."""
    with database.read() as session:
        if not set(deliveries.to_serve(session, now(session))) - queue.rounds(session):
            return 0
    with database.write() as session:
        moment = now(session)
        found = [name for name in deliveries.to_serve(session, moment) if deliveries.lock(session, name)]
        ordered = queue.rounds(session)  # read under the locks: another process may sweep too
        names = [name for name in found if name not in ordered]
        for name in names:
            queue.add_round(session, name, f"sweep/{moment.isoformat()}")
        failpoint("rounds.ordered")
    failpoint("rounds.committed")
    return len(names)


def _without_answer(due: Due, outcome: Outcome, comment: str) -> SendResult:
    content = due.content
    return SendResult(Path(content.path), content.sop_class_uid, content.sop_instance_uid, None, outcome, comment, 0.0)


def _next_state(
    due: Due, outcome: Outcome, moment: datetime, settings: DeliverySettings, peer: PeerSettings | None
) -> DeliveryState:
    if outcome.is_accepted:
        return DeliveryState.UNCOMMITTED if peer is not None and peer.commitment else DeliveryState.SENT
    is_too_old = moment - due.created_at > timedelta(days=settings.give_up_after_days)
    return DeliveryState.DEAD if outcome is Outcome.REFUSED or is_too_old else DeliveryState.WAITING


def _write(
    session: Session, due: Due, state: DeliveryState, result: SendResult, moment: datetime, next_at: datetime
) -> bool:
    """Write an attempt, and an audit row where something was decided; `False` where another settled it meanwhile."""
    attempt = Attempt(
        state=state,
        outcome=result.outcome.value,
        next_at=next_at,
        sop_instance_uid=due.content.sop_instance_uid,
        duration_ms=result.ms,
        dimse_status=result.status,
        http_status=result.http_status,
        error=result.comment,
    )
    if not deliveries.settle(session, due, attempt, moment):
        return False
    if state is not DeliveryState.WAITING:
        audit.record(
            session,
            f"delivery {state}",
            at=moment,
            version_id=due.version_id,
            destination=due.destination,
            sop_instance_uid=due.content.sop_instance_uid,
            attempt=due.attempts + 1,
            dimse_status=None if result.status is None else f"0x{result.status:04X}",
            http_status=result.http_status,
            error=result.comment,
        )
    return True


def _tell(due: Due, state: DeliveryState, error: str) -> None:
    tell = log.warning if state in (DeliveryState.WAITING, DeliveryState.DEAD) else log.info
    tell(
        f"delivery {state}", version=due.version_id, destination=due.destination, error=error, attempt=due.attempts + 1
    )
