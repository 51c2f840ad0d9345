"""Log lines: a fixed event, then fields; patient keys are dropped and peer text cannot forge a line.

`configure` is called once by a process; every module then has `log = get_logger(__name__)`.
"""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, cast

import structlog

PATIENT_KEYS = frozenset(
    {
        "patient_name", "patient_id", "patient_birth_date", "accession_number", "other_patient_ids",
        "PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "OtherPatientIDs",
    }
)  # fmt: skip
MAX_TEXT = 500


def _drop_patient_keys(_logger: Any, _name: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key in PATIENT_KEYS & fields.keys():
        fields[key] = "(dropped)"
    return fields


def _escape(_logger: Any, _name: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Cut long text and escape control characters: what a peer sends must not look like a log line of ours."""
    for key, value in fields.items():
        if isinstance(value, str) and key != "exception":
            text = value if len(value) <= MAX_TEXT else value[:MAX_TEXT] + "..."
            fields[key] = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return fields


def configure(*, level: str = "INFO", as_json: bool = False) -> None:
    """Write log lines of this process to standard error, as text or as one JSON object a line."""
    tail: list[Any] = (
        [structlog.processors.JSONRenderer()] if as_json else [structlog.dev.ConsoleRenderer(colors=False)]
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _drop_patient_keys,
            _escape,
            *tail,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=lambda *_: structlog.WriteLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, force=True)
    for library in ("pydicom", "pynetdicom", "highdicom"):  # their warnings quote values: birth dates, names
        logging.getLogger(library).setLevel(logging.ERROR)


def get_logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """Return the logger of a module."""
    return cast("structlog.typing.FilteringBoundLogger", structlog.get_logger(module=name.removeprefix("dicomnode.")))
