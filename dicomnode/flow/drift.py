"""Drift: once an hour, the scores of each source are compared with the reference of the bundle that gave them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from dicomnode.config import DriftSettings
from dicomnode.db import audit, drift
from dicomnode.db.drift import DAY, RECENT, Scores, Stream
from dicomnode.db.session import Database, now
from dicomnode.db.tables import Drift
from dicomnode.domain.drift import DriftState, Limits, Measurement, Reference, measure
from dicomnode.log import get_logger
from dicomnode.metrics import DRIFT_PSI, FLAG_RATE

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Window:
    """A measured window, and the state before it."""

    stream: Stream
    label: str
    period: str
    span: tuple[datetime, datetime]
    found: Measurement
    before: DriftState

    @property
    def is_change(self) -> bool:
        """Whether an operator hears of it: single days are points of a chart, not events."""
        return self.period == RECENT and self.found.state is not self.before


def remember_references(database: Database, references: Sequence[tuple[Reference, ...]]) -> None:
    """Keep the references of loaded bundles as rows: drift is measured where none is loaded, and later.

    Two processes that start at once may both find one missing; the second then reads what the first wrote.
    """
    wanted = [reference for bundle in references for reference in bundle]
    for _ in range(2):
        try:
            with database.write() as session:
                drift.remember_references(session, wanted)
        except IntegrityError:
            continue
        return


class DriftWatch:
    """Measures drift when it is due by the database's clock; several processes may watch the same rows."""

    def __init__(self, database: Database, settings: DriftSettings) -> None:
        self._database = database
        self._settings = settings
        self._last_at: datetime | None = None

    def measure_if_due(self) -> None:
        """Measure if the last measurement, here or by another process, is `drift.interval_s` ago."""
        interval = timedelta(seconds=self._settings.interval_s)
        with self._database.read() as session:
            moment = now(session)
            if self._last_at is None:
                self._last_at = drift.last_measured_at(session)
                publish(drift.newest(session, self._since(moment)))
        if self._last_at is None or moment - self._last_at >= interval:
            measure_drift(self._database, self._settings)
            self._last_at = moment

    def _since(self, moment: datetime) -> datetime:
        return moment - timedelta(days=self._settings.window_days)


def measure_drift(database: Database, settings: DriftSettings) -> int:
    """Measure every source and bundle, keep the new windows as rows, publish the gauges; return how many were new.

    A change of state is an audit row and a line in the log, once.
    """
    with database.read() as session:
        moment = now(session)
        since = moment - timedelta(days=settings.window_days)
        windows = [
            window for stream in drift.streams(session, since) for window in _measure(session, stream, settings, moment)
        ]
    if windows:
        with database.write() as session:
            drift.lock(session)
            last = drift.last_measured_at(session)
            if last is not None and last >= moment:
                windows = []  # another process was faster
            for window in windows:
                _keep(session, window, moment)
    with database.read() as session:
        publish(drift.newest(session, since))
    for window in windows:
        if window.is_change:
            say = log.info if window.found.state is DriftState.OK else log.warning
            say("drift state changed", source=window.stream.source_ae_title, **_detail(window))
    return len(windows)


def _measure(session: Session, stream: Stream, settings: DriftSettings, moment: datetime) -> Iterator[_Window]:
    """Yield the windows of a source and bundle that are not measured yet."""
    since = moment - timedelta(days=settings.window_days)
    today = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    limits = Limits(settings.watch_psi, settings.alarm_psi, settings.minimum_images)
    for reference in drift.references_of(session, stream.bundle_digest):
        label = reference.label
        last = drift.last_recent(session, stream, label)
        before = DriftState.OK if last is None else DriftState(last.state)
        recent = drift.recent_scores(session, stream, label, since, settings.window_images)
        if recent is not None:
            found = _against(reference, recent, limits)
            if last is None or (last.window_end, last.n, last.psi, last.flag_rate) != _figures(recent, found):
                yield _Window(stream, label, RECENT, (recent.start, recent.end), found, before)
        yesterday = (today - timedelta(days=1), today)
        if not drift.has_day(session, stream, label, today):
            day = drift.day_scores(session, stream, label, *yesterday)
            if day is not None:
                yield _Window(stream, label, DAY, yesterday, _against(reference, day, limits), before)


def _against(reference: Reference, scores: Scores, limits: Limits) -> Measurement:
    return measure(scores.values, scores.flagged, reference.quantiles, reference.flag_rate, limits)


def _figures(scores: Scores, found: Measurement) -> tuple[datetime, int, float | None, float]:
    return scores.end, found.n, found.psi, found.flag_rate


def _keep(session: Session, window: _Window, moment: datetime) -> None:
    drift.add_measurement(session, window.stream, window.label, window.period, window.span, window.found, moment)
    if window.is_change:
        audit.record(
            session,
            f"drift {window.found.state}",
            at=moment,
            actor=audit.NODE,
            version_id=None,
            source=window.stream.source_ae_title,
            **_detail(window),
        )


def _detail(window: _Window) -> dict[str, str | int | float | None]:
    found = window.found
    return {
        "bundle": f"{window.stream.bundle_name} {window.stream.bundle_version}",
        "label": window.label,
        "state": str(found.state),
        "before": str(window.before),
        "images": found.n,
        "psi": None if found.psi is None else round(found.psi, 4),
        "flag_rate": round(found.flag_rate, 4),
        "upper": None if found.upper is None else round(found.upper, 4),
    }


def publish(rows: Sequence[Drift]) -> None:
    """Set the gauges to `rows` and forget the others."""
    DRIFT_PSI.clear()
    FLAG_RATE.clear()
    for row in rows:
        labels = (row.source_ae_title, row.bundle_name, row.label)
        FLAG_RATE.labels(*labels).set(row.flag_rate)
        if row.psi is not None:
            DRIFT_PSI.labels(*labels).set(row.psi)
