"""`dicomnode status` and `dicomnode study`: where each study stands, from the rows."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from dicomnode import config
from dicomnode.cli.listing import AsJson, Cell, Config, print_json, show_rows
from dicomnode.cli.operator import acted, actor, finish, opened, opened_with_queue
from dicomnode.domain.findings import BundleResult
from dicomnode.domain.lifecycle import CircuitState, State
from dicomnode.errors import ConfigError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from dicomnode.db.session import Database
    from dicomnode.db.tables import Destination, Pause, StudyVersion
    from dicomnode.engine import Queue
    from dicomnode.flow.operate import Done

app = typer.Typer(help="Studies: ls, show, explain, similar, retry, close, reanalyze.", no_args_is_help=True)
Which = Annotated[list[str], typer.Argument(help="Study Instance UIDs (the newest version), or ids of versions.")]
StudyArgument = Annotated[str, typer.Argument(help="Study Instance UID, or the id of a version.")]


def status(config_file: Config = None, as_json: AsJson = False) -> None:
    """Show the running processes, how many study versions stand where, and the last failures."""
    from dicomnode.db import deliveries, pauses, processes, studies
    from dicomnode.db.session import now

    with opened(config.load(config_file)) as database, database.read() as session:
        moment = now(session)
        rows: list[dict[str, Cell]] = [
            {
                "what": f"process {p.role}",
                "value": f"pid {p.pid} on {p.host} since {p.started_at:%Y-%m-%d %H:%M:%S} UTC",
            }
            for p in processes.alive(session, moment)
        ]
        if not rows:
            rows.append({"what": "process", "value": "none is running: `dicomnode serve`"})
        rows += [{"what": "PAUSED", "value": pause_in_words(p)} for p in pauses.listed(session)]
        rows += [
            {"what": f"NOT REACHED: {d.name}", "value": circuit_in_words(d)}
            for d in deliveries.destinations(session)
            if d.state != CircuitState.CLOSED
        ]
        rows += [{"what": f"studies {s}", "value": n} for s, n in studies.counts_by_state(session).items()]
        rows += [
            {"what": f"failed: study version {v.id}", "value": v.reason}
            for v, _ in studies.newest_versions(session, 5, State.FAILED)
        ]
    show_rows(rows, as_json=as_json, title="dicomnode status")


def pause_in_words(pause: "Pause") -> str:
    """Return what is paused, since when, by whom and why."""
    where = f" to {pause.destination}" if pause.destination else ""
    why = f": {pause.reason}" if pause.reason else ""
    return f"{pause.stage}{where} since {pause.since:%Y-%m-%d %H:%M:%S} UTC by {pause.actor}{why}"


def circuit_in_words(destination: "Destination") -> str:
    """Return since when results to a destination are held back, why, and when it is tried again."""
    since = f"since {destination.opened_at:%Y-%m-%d %H:%M:%S} UTC" if destination.opened_at else "now"
    probe = f"; next try {destination.next_probe_at:%H:%M:%S} UTC" if destination.next_probe_at else ""
    return f"{destination.failures} failures in a row, {since}: {destination.last_error}{probe}"


@app.command()
def ls(
    config_file: Config = None,
    as_json: AsJson = False,
    limit: Annotated[int, typer.Option(min=1)] = 50,
    state: Annotated[State | None, typer.Option(help="Only versions in this state.")] = None,
) -> None:
    """List study versions, the last received first."""
    from dicomnode.db import studies

    with opened(config.load(config_file)) as database, database.read() as session:
        rows: list[dict[str, Cell]] = [
            {
                "id": v.id,
                "state": v.state,
                "priority": v.priority,
                "version": v.number,
                "instances": v.instance_count,
                "source": v.source_ae_title,
                "last_instance_at": v.last_instance_at,
                "study_instance_uid": s.study_instance_uid,
                "reason": v.reason,
            }
            for v, s in studies.newest_versions(session, limit, state)
        ]
    show_rows(rows, as_json=as_json, title="studies")


def find_versions(session: "Session", study: str) -> "list[StudyVersion]":
    """Return the versions of a study (its UID, the newest first) or one by its id; raise `ConfigError` without any."""
    from dicomnode.db import studies

    found = studies.version_or_none(session, int(study)) if study.isdigit() else None
    versions = [found] if found else [version for version, _ in studies.versions_of(session, study)]
    if not versions:
        raise ConfigError(f"there is no study {study}; `dicomnode study ls` lists them")
    return versions


@app.command()
def show(
    study: StudyArgument,
    config_file: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show a study: its versions, what was found, what was sent where, and what happened when."""
    with opened(config.load(config_file)) as database, database.read() as session:
        shown = [_version(session, version) for version in find_versions(session, study)]
    if as_json:
        print_json(shown)
        return
    for version in shown:
        typer.echo(f"version {version['version']}: {version['state']} {version['reason']}".rstrip())
        for part in ("findings", "deliveries", "events"):
            show_rows(version[part], as_json=False, title=part)


@app.command()
def retry(which: Which, config_file: Config = None, as_json: AsJson = False) -> None:
    """Let failed studies go on: what failed in delivery is delivered again, everything else is analyzed again."""
    from dicomnode.flow import operate

    _act(which, config_file, lambda d, q, v, _uid: operate.retry(d, q, v.id, actor()), as_json, "retry")


@app.command("close")
def close_now(which: Which, config_file: Config = None, as_json: AsJson = False) -> None:
    """Close studies that are still receiving, without waiting for their quiet period."""
    from dicomnode.flow import operate

    _act(which, config_file, lambda d, q, v, _uid: operate.close_now(d, q, v.id, actor()), as_json, "close")


@app.command()
def reanalyze(which: Which, config_file: Config = None, as_json: AsJson = False) -> None:
    """Analyze studies again: a new version of all images, whose report names the one before."""
    from dicomnode.flow import operate

    _act(which, config_file, lambda d, q, _v, uid: operate.reanalyze(d, q, uid, actor()), as_json, "reanalyze")


def _act(
    which: list[str],
    config_file: Path | None,
    act: "Callable[[Database, Queue, StudyVersion, str], Done]",
    as_json: bool,
    title: str,
) -> None:
    """Act on the newest version of each study; an unknown one stops before anything is done."""
    from dicomnode.db import studies

    with opened_with_queue(config_file) as (database, queue):
        with database.read() as session:
            versions = [_newest(session, study) for study in which]
            uids = [studies.study_of(session, version).study_instance_uid for version in versions]
        rows = [
            acted(f"study version {version.id}", act(database, queue, version, uid))
            for version, uid in zip(versions, uids, strict=True)
        ]
    finish(rows, as_json=as_json, title=title)


def _newest(session: "Session", study: str) -> "StudyVersion":
    from dicomnode.db import studies

    known = studies.version_or_none(session, int(study)) if study.isdigit() else None
    newest = known or next((version for version, _ in studies.versions_of(session, study)), None)
    if newest is None:
        raise ConfigError(f"there is no study {study}; `dicomnode study ls` lists them")
    return newest


class _Shown(TypedDict):
    id: int
    version: int
    state: str
    reason: str
    priority: str | None
    instances: int
    findings: list[dict[str, Cell]]
    deliveries: list[dict[str, Cell]]
    events: list[dict[str, Cell]]


def _version(session: "Session", version: "StudyVersion") -> _Shown:
    from dicomnode.db import audit, results

    return {
        "id": version.id,
        "version": version.number,
        "state": version.state,
        "reason": version.reason,
        "priority": version.priority,
        "instances": version.instance_count,
        "findings": [row for result in results.results_of(session, version.id) for row in _findings(result)],
        "deliveries": [
            {
                "id": delivery.id,
                "object": evidence.description,
                "destination": delivery.destination,
                "state": delivery.state,
                "attempts": delivery.attempts,
                "status": None if delivery.dimse_status is None else f"0x{delivery.dimse_status:04X}",
                "error": delivery.error,
                "settled_at": delivery.settled_at,
                "sop_instance_uid": evidence.sop_instance_uid,
            }
            for delivery, evidence in results.deliveries_of(session, version.id)
        ],
        "events": [
            {
                "at": event.at,
                "what": event.action,
                "actor": event.actor,
                "detail": ", ".join(f"{key} {value}" for key, value in event.detail.items() if value),
            }
            for event in audit.events_of(session, version.id)
        ],
    }


def _findings(result: BundleResult) -> Iterator[dict[str, Cell]]:
    bundle = f"{result.bundle.name} {result.bundle.version}"
    for finding in result.findings:
        says = "suspected" if finding.is_suspected else "not suspected"
        says += ", image unlike the training images" if finding.is_from_unusual else ""
        yield _finding(bundle, finding.label, finding.probability, finding.threshold, says)
    for finding in result.withheld:
        says = "not assessed: image unlike the training images"
        yield _finding(bundle, finding.label, finding.probability, finding.threshold, says)
    if result.anomaly is not None:
        says = "unlike the training images" if result.anomaly.is_unusual else "like the training images"
        yield _finding(bundle, result.anomaly.label, result.anomaly.score, result.anomaly.threshold, says)
    if result.not_applicable:
        yield _finding(bundle, "", None, None, f"not applicable: {result.not_applicable}")


def _finding(bundle: str, label: str, value: float | None, threshold: float | None, says: str) -> dict[str, Cell]:
    return {"bundle": bundle, "label": label, "value": value, "threshold": threshold, "says": says}
