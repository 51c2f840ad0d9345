"""Where each bundle stands, as append-only rows with audit: the newest row of a name holds."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicomnode.db import audit
from dicomnode.db.tables import Analysis, BundleStanding, FindingRow, StudyVersion
from dicomnode.domain.agreement import Pair
from dicomnode.domain.lifecycle import BundleState, State


@dataclass(frozen=True, slots=True)
class Standing:
    """The newest row of a bundle: `digest` is that of the folder that was looked at then."""

    name: str
    version: str
    digest: str
    state: BundleState
    replaces: str
    since: datetime
    actor: str
    reason: str


def move(session: Session, standing: Standing) -> None:
    """Add a row with its audit row."""
    session.add(
        BundleStanding(
            at=standing.since,
            actor=standing.actor[:64],
            name=standing.name,
            version=standing.version,
            digest=standing.digest,
            state=standing.state,
            replaces=standing.replaces,
            reason=standing.reason,
        )
    )
    audit.record(
        session,
        f"bundle {standing.state}",
        at=standing.since,
        actor=standing.actor,
        bundle=standing.name,
        version=standing.version,
        digest=standing.digest,
        replaces=standing.replaces,
        reason=standing.reason,
    )
    session.flush()


def standings(session: Session) -> dict[str, Standing]:
    """Return where the bundles stand that were ever moved, by name, those moved first coming first."""
    newest = select(func.max(BundleStanding.id)).group_by(BundleStanding.name)
    rows = session.scalars(select(BundleStanding).where(BundleStanding.id.in_(newest)).order_by(BundleStanding.id))
    return {row.name: _standing(row) for row in rows}


def last_move(session: Session) -> int:
    """Return a number that grows with every move; 0 before the first."""
    return session.scalars(select(func.max(BundleStanding.id))).one() or 0


def history(session: Session, name: str) -> list[Standing]:
    """Return every move of a bundle, oldest first."""
    query = select(BundleStanding).where(BundleStanding.name == name).order_by(BundleStanding.id)
    return [_standing(row) for row in session.scalars(query)]


def pairs(session: Session, shadow: str, active: str) -> list[Pair]:
    """Return what two bundles said of the same study versions, label by label; only their newest digests count.

    A version that a newer one superseded is left out: its study would count twice.
    """
    mine, theirs = select(Analysis).subquery("mine"), select(Analysis).subquery("theirs")
    said, answered = select(FindingRow).subquery("said"), select(FindingRow).subquery("answered")
    query = (
        select(mine.c.version_id, said.c.label, said.c.value, said.c.is_positive)
        .add_columns(answered.c.value.label("other_value"), answered.c.is_positive.label("other_is_positive"))
        .join(theirs, theirs.c.version_id == mine.c.version_id)
        .join(StudyVersion, StudyVersion.id == mine.c.version_id)
        .join(said, said.c.analysis_id == mine.c.id)
        .join(answered, (answered.c.analysis_id == theirs.c.id) & (answered.c.label == said.c.label))
        .where(mine.c.bundle_name == shadow, mine.c.is_shadow, mine.c.bundle_digest == _digest(session, shadow))
        .where(theirs.c.bundle_name == active, theirs.c.bundle_digest == _digest(session, active))
        .where(StudyVersion.state != State.SUPERSEDED)
        .order_by(mine.c.version_id)
    )
    return [Pair(*row) for row in session.execute(query)]


def _digest(session: Session, name: str) -> str:
    """Return the digest that a bundle's newest analysis was made with."""
    query = select(Analysis.bundle_digest).where(Analysis.bundle_name == name).order_by(Analysis.id.desc()).limit(1)
    return session.scalars(query).one_or_none() or ""


def _standing(row: BundleStanding) -> Standing:
    return Standing(
        name=row.name,
        version=row.version,
        digest=row.digest,
        state=BundleState(row.state),
        replaces=row.replaces,
        since=row.at,
        actor=row.actor,
        reason=row.reason,
    )
