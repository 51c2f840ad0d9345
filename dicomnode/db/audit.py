"""Audit rows: who or what did something; written in the transaction of what they tell of."""

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicomnode.db.tables import AuditEvent, Peer

NODE = "node"
JSONValue = str | int | float | bool | None | list[str]


def record(
    session: Session,
    action: str,
    *,
    at: datetime,
    actor: str = NODE,
    version_id: int | None = None,
    **detail: JSONValue,
) -> None:
    """Add an audit row."""
    session.add(AuditEvent(at=at, actor=actor[:64], action=action, version_id=version_id, detail=detail))


def events_of(session: Session, version_id: int) -> list[AuditEvent]:
    """Return the audit rows of a study version, oldest first."""
    query = select(AuditEvent).where(AuditEvent.version_id == version_id).order_by(AuditEvent.id)
    return list(session.scalars(query))


def peer_rejected(session: Session, *, ae_title: str, address: str, reason: str, at: datetime) -> None:
    """Remember that an association was rejected, one row a peer and address however often it calls."""
    peer = session.scalars(
        select(Peer).where(Peer.ae_title == ae_title[:64], Peer.address == address[:64])
    ).one_or_none()
    if peer is None:
        peer = Peer(ae_title=ae_title[:64], address=address[:64], first_seen_at=at, last_seen_at=at, rejections=0)
        session.add(peer)
    peer.last_seen_at = at
    peer.rejections += 1
    peer.last_rejection = reason[:1024]
