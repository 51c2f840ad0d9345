"""`dicomnode drift`: how far the scores of each source are from the reference of each bundle, from the rows."""

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from dicomnode import config
from dicomnode.cli.listing import AsJson, Cell, Config, show_rows
from dicomnode.cli.operator import opened

if TYPE_CHECKING:
    from dicomnode.db.tables import Drift


def drift(
    config_file: Config = None,
    as_json: AsJson = False,
    days: Annotated[int, typer.Option(min=0, help="Show the windows of the last so many whole days instead.")] = 0,
) -> None:
    """Show drift: population stability index and flag rate by source and bundle; the last images of each."""
    from dicomnode.db import drift as rows
    from dicomnode.db.session import now

    settings = config.load(config_file).drift
    with opened(config.load(config_file)) as database, database.read() as session:
        moment = now(session)
        if days:
            found = rows.days(session, moment - timedelta(days=days))
        else:
            found = rows.newest(session, moment - timedelta(days=settings.window_days))
        shown = [_row(row) for row in found]
    show_rows(shown, as_json=as_json, title="drift")


def _row(row: "Drift") -> dict[str, Cell]:
    return {
        "state": row.state,
        "source": row.source_ae_title,
        "bundle": f"{row.bundle_name} {row.bundle_version}",
        "label": row.label,
        "images": row.n,
        "psi": _rounded(row.psi),
        "flag_rate": _rounded(row.flag_rate),
        "lower": _rounded(row.lower),
        "upper": _rounded(row.upper),
        "from": row.window_start,
        "to": row.window_end,
        "measured_at": row.at,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
