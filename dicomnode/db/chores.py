"""Chores: housekeeping that one process of all hosts does at a time."""

from datetime import datetime, timedelta

from sqlalchemy import or_, update
from sqlalchemy.orm import Session

from dicomnode.db.session import changed_rows
from dicomnode.db.tables import Chore


def claim(session: Session, name: str, at: datetime, every: timedelta) -> bool:
    """Return whether this process does the chore now: nobody began it since `every` ago.

    Two that claim a new chore at once meet as an `IntegrityError`. A beginning in the future (the clock was set back)
    does not count.
    """
    is_due = or_(Chore.began_at <= at - every, Chore.began_at > at)
    mine = update(Chore).where(Chore.name == name, is_due).values(began_at=at, ended_at=None)
    if changed_rows(session, mine):
        return True
    if session.get(Chore, name) is not None:
        return False
    session.add(Chore(name=name, began_at=at))
    session.flush()
    return True


def end(session: Session, name: str, at: datetime) -> None:
    """Write that a chore is done."""
    session.execute(update(Chore).where(Chore.name == name).values(ended_at=at))
