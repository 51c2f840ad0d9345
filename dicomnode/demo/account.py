"""The end of the demo in words and as JSON: where the results lie, one of them as text, what to try next."""

from collections.abc import Iterator
from pathlib import Path

from pydicom import dcmread

from dicomnode.config import FILE_NAME
from dicomnode.demo import sr_text
from dicomnode.demo.hospital import Outcome
from dicomnode.demo.watch import ObjectLine, VersionLine

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]


def in_words(outcome: Outcome, folder: Path) -> Iterator[str]:
    """Yield the lines that stand after the table."""
    yield "Results in the PACS:"
    for name, version in _named(outcome):
        for line in version.objects:
            yield f"  {name}, version {version.number}, {line.description}: {line.path or 'not there'}"
    yield from _one_report(outcome)
    yield ""
    if outcome.outage is not None:
        yield (
            f"Without a PACS for {outcome.outage.seconds:.1f} s: {outcome.outage.waiting} deliveries waited and tried "
            f"{outcome.outage.attempts} times. {'; '.join(outcome.outage.reasons)}"
        )
    if outcome.first_report_s is not None:
        yield f"First report accepted after {outcome.first_report_s:.1f} s, all done after {outcome.seconds:.1f} s."
    yield from _verdict(outcome)
    yield from _next_steps(outcome, folder)


def _named(outcome: Outcome) -> Iterator[tuple[str, VersionLine]]:
    names = {examination.study_instance_uid: examination.name for examination in outcome.examinations}
    return ((names[version.study_instance_uid], version) for version in outcome.versions)


def _one_report(outcome: Outcome) -> Iterator[str]:
    """Yield the most urgent report as text."""
    reports = [
        ("suspected (" not in version.findings, name, version, line.path)
        for name, version in _named(outcome)
        for line in version.reports
        if line.path is not None
    ]
    if not reports:
        return
    _, name, version, path = min(reports, key=lambda report: report[0])
    yield ""
    yield f"The Structured Report of {name}, version {version.number}:"
    yield from (f"  {line}" for line in sr_text.lines(dcmread(path)))


def _verdict(outcome: Outcome) -> Iterator[str]:
    if outcome.missing:
        yield "Missing:"
        yield from (f"  {words}" for words in outcome.missing)
        return
    count = sum(len(version.objects) for version in outcome.versions)
    yield f"The PACS took each of {count} result objects exactly once; every study is done, skipped or superseded."


def _next_steps(outcome: Outcome, folder: Path) -> Iterator[str]:
    config = folder / "node" / FILE_NAME
    yield ""
    yield f"Everything lies in {folder}. Try next:"
    yield f"  dicomnode study ls --config {config}"
    if outcome.versions:
        yield f"  dicomnode study show {outcome.versions[0].study_instance_uid} --config {config}"
    yield "  dicomnode demo --stop-pacs          the PACS goes down and comes back"
    yield "  dicomnode demo --images FOLDER      your own PNG, JPEG or DICOM files"
    yield "  dicomnode demo --pacs orthanc       a real Orthanc instead of our small PACS"
    yield "  dicomnode init FOLDER               a node of your own"


def as_json(outcome: Outcome, folder: Path) -> dict[str, Json]:
    """Return everything that was seen, for a machine."""
    outage = outcome.outage
    return {
        "ok": not outcome.missing,
        "missing": [*outcome.missing],
        "folder": str(folder),
        "first_report_s": outcome.first_report_s,
        "seconds": outcome.seconds,
        "outage": None
        if outage is None
        else {
            "seconds": outage.seconds,
            "waiting": outage.waiting,
            "attempts": outage.attempts,
            "reasons": [*outage.reasons],
        },
        "versions": [_version(name, version) for name, version in _named(outcome)],
    }


def _version(name: str, version: VersionLine) -> Json:
    return {
        "study": name,
        "study_instance_uid": version.study_instance_uid,
        "version": version.number,
        "state": str(version.state),
        "reason": version.reason,
        "images": version.images,
        "urgency": version.urgency,
        "findings": version.findings,
        "anomaly": version.anomaly,
        "objects": [_object(line) for line in version.objects],
    }


def _object(line: ObjectLine) -> Json:
    return {
        "sop_instance_uid": line.sop_instance_uid,
        "description": line.description,
        "is_report": line.is_report,
        "delivery": str(line.delivery),
        "attempts": line.attempts,
        "dimse_status": line.dimse_status,
        "accepted": line.accepted,
        "seconds": line.seconds,
        "path": None if line.path is None else str(line.path),
    }
