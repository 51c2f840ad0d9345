"""`dicomnode queue`: what waits where, dead letters, pause and resume, retry in bulk."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dicomnode import config
from dicomnode.cli.listing import AsJson, Cell, Config, show_rows
from dicomnode.cli.operator import Since, acted, actor, finish, moment, opened, opened_with_queue
from dicomnode.domain.lifecycle import DeliveryState, Stage, State

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from dicomnode.db.deadletters import DeadLetter, FailedStage

app = typer.Typer(help="Queues: ls, pause, resume, retry.", no_args_is_help=True)
MANY = 10_000
_DELIVERY_COLUMNS = (
    ("waiting", DeliveryState.WAITING),
    ("running", DeliveryState.DUE),
    ("uncommitted", DeliveryState.UNCOMMITTED),
    ("failed", DeliveryState.DEAD),
)
_COLUMNS = ("stage", "destination", "waiting", "running", "uncommitted", "failed", "next_try")
WhichStage = Annotated[Stage, typer.Argument(help="What to pause or resume.")]
Destination = Annotated[str, typer.Option("--destination", "-d", help="Only deliveries to this [peers.NAME].")]


@app.command()
def ls(
    config_file: Config = None,
    as_json: AsJson = False,
    failed: Annotated[bool, typer.Option("--failed", help="List the dead letters instead.")] = False,
    since: Since = "",
    limit: Annotated[int, typer.Option(min=1, help="Of the dead letters.")] = 50,
) -> None:
    """List what waits and runs in each stage and what is paused; with --failed the dead letters and why."""
    from dicomnode.db import deadletters
    from dicomnode.db.session import now

    settings = config.load(config_file)
    with opened(settings) as database, database.read() as session:
        if failed:
            letters = deadletters.dead_letters(session, limit=limit, since=moment(since, now(session)))
            rows = [_letter(letter) for letter in letters]
        else:
            rows = _queues(session, settings)
    show_rows(rows, as_json=as_json, title="dead letters" if failed else "queues")


def _queues(session: "Session", settings: config.Settings) -> list[dict[str, Cell]]:
    from dicomnode.cli.studies import pause_in_words
    from dicomnode.db import deadletters, pauses, studies

    counts = studies.counts_by_state(session)
    paused = {(p.stage, p.destination): pause_in_words(p) for p in pauses.listed(session)}
    rows: list[dict[str, Cell]] = [
        {"stage": Stage.RECEIVE},
        {"stage": Stage.CLOSE, "waiting": counts[State.RECEIVING]},
        {
            "stage": Stage.ANALYZE,
            "waiting": counts[State.QUEUED],
            "running": counts[State.ANALYZING] + counts[State.REPORTING],
            "failed": counts[State.FAILED],
        },
    ]
    unsettled = deadletters.unsettled_by_destination(session)
    for name in sorted({*settings.destinations, *unsettled}):
        states = unsettled.get(name, {})
        row: dict[str, Cell] = {"stage": Stage.DELIVER, "destination": name}
        for column, state in _DELIVERY_COLUMNS:
            row[column] = states[state][0] if state in states else 0
        row["next_try"] = states[DeliveryState.WAITING][1] if DeliveryState.WAITING in states else None
        rows.append(row)
    empty: dict[str, Cell] = dict.fromkeys(_COLUMNS)
    everywhere = paused.get((Stage.DELIVER, ""), "")
    return [
        empty
        | row
        | {
            "stage": str(row["stage"]),
            "paused": paused.get((str(row["stage"]), str(row.get("destination") or "")))
            or (everywhere if row["stage"] == Stage.DELIVER else ""),
        }
        for row in rows
    ]


def _letter(letter: "DeadLetter") -> dict[str, Cell]:
    from dicomnode.network.status import describe

    return {
        "version": letter.version_id,
        "stage": letter.stage,
        "destination": letter.destination,
        "delivery": letter.delivery_id,
        "reason": in_plain_words(letter.reason),
        "status": None if letter.dimse_status is None else describe(letter.dimse_status),
        "tries": letter.tries,
        "failed_at": letter.failed_at,
        "next_try": letter.next_at or "never",
        "study_instance_uid": letter.study_instance_uid,
    }


def in_plain_words(reason: str) -> str:
    """Return why something failed as an operator reads it: the name of an error of ours becomes its sentence."""
    from dicomnode import errors

    name, colon, text = reason.partition(": ")
    error = getattr(errors, name, None) if name.isidentifier() else None
    if colon and isinstance(error, type) and issubclass(error, Exception):
        return f"{(error.__doc__ or name).splitlines()[0].rstrip('.')}: {text}"
    if colon and name.endswith(("Error", "Exception")):
        return f"An error that nobody expected ({name}): {text}"
    return reason


@app.command()
def pause(
    stage: WhichStage,
    config_file: Config = None,
    destination: Destination = "",
    reason: Annotated[str, typer.Option(help="Why, for the next shift.")] = "",
) -> None:
    """Let nothing new start in a stage; what runs ends. Holds over restarts and on every host until `resume`."""
    from dicomnode.flow import operate

    settings = _checked(config_file, stage, destination)
    with opened(settings) as database:
        is_new = operate.pause(database, stage, destination, actor(), reason)
    typer.echo(f"{_named(stage, destination)} is paused{'' if is_new else ' already'}")


@app.command()
def resume(stage: WhichStage, config_file: Config = None, destination: Destination = "") -> None:
    """End a pause."""
    from dicomnode.flow import operate

    settings = _checked(config_file, stage, destination)
    with opened(settings) as database:
        was_paused = operate.resume(database, stage, destination, actor())
    typer.echo(f"{_named(stage, destination)} {'goes on' if was_paused else 'was not paused'}")


def _checked(config_file: Path | None, stage: Stage, destination: str) -> config.Settings:
    settings = config.load(config_file)
    if destination and stage is not Stage.DELIVER:
        raise typer.BadParameter(f"--destination goes with deliver, not with {stage}")
    if destination and destination not in settings.destinations:
        known = ", ".join(sorted(settings.destinations)) or "none"
        raise typer.BadParameter(f"there is no destination {destination!r}; known are {known}")
    return settings


def _named(stage: Stage, destination: str) -> str:
    return f"{stage} to {destination}" if destination else str(stage)


@app.command()
def retry(
    config_file: Config = None,
    as_json: AsJson = False,
    failed: Annotated[bool, typer.Option("--failed", help="Dead letters too, not only what waits.")] = False,
    since: Since = "",
    stage: Annotated[Stage | None, typer.Option(help="analyze or deliver; else both.")] = None,
    destination: Destination = "",
) -> None:
    """End the back-off of waiting deliveries; with --failed let every dead letter go on instead."""
    from dicomnode.db import deadletters
    from dicomnode.db.session import now
    from dicomnode.flow import operate

    if stage in (Stage.RECEIVE, Stage.CLOSE):
        raise typer.BadParameter(f"--stage {stage}: only analyze and deliver have something to retry")
    settings = config.load(config_file)
    if not failed:
        with opened(settings) as database:
            count = operate.send_now(database, actor(), destination=destination)
        show_rows([{"what": "waiting deliveries", "started": count}], as_json=as_json, title="retry")
        return
    with opened_with_queue(config_file) as (database, queue):
        with database.read() as session:
            letters = deadletters.dead_letters(
                session, limit=MANY, since=moment(since, now(session)), stages=_stages(stage)
            )
        versions = {v.version_id: v for v in letters if not destination or v.destination == destination}
        rows = [acted(f"study version {v}", operate.retry(database, queue, v, actor())) for v in versions]
    finish(rows, as_json=as_json, title="retry")


def _stages(stage: Stage | None) -> "tuple[FailedStage, ...]":
    if stage is Stage.DELIVER:
        return ("deliver",)
    return ("analyze", "report") if stage is Stage.ANALYZE else ("analyze", "report", "deliver")
