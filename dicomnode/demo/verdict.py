"""Whether the demo showed what it promises; what is missing is said in words."""

from collections.abc import Iterator, Sequence

from pydicom import dcmread

from dicomnode.demo.examinations import Ending, Examination
from dicomnode.demo.pacs import Accepted
from dicomnode.demo.sr_text import predecessors
from dicomnode.demo.watch import ObjectLine, VersionLine
from dicomnode.domain.lifecycle import State


def missing(
    examinations: Sequence[Examination],
    versions: Sequence[VersionLine],
    accepted: Sequence[Accepted],
    late: Examination | None,
) -> list[str]:
    """Return what keeps the demo from being a success; empty if every promise was kept."""
    found = [word for examination in examinations for word in _examination(examination, _of(examination, versions))]
    found += [f"{_name(version)}: {word}" for version in versions for word in _version(version)]
    ours = {line.sop_instance_uid for version in versions for line in version.objects}
    strangers = [entry.sop_instance_uid for entry in accepted if entry.sop_instance_uid not in ours]
    found += [f"the PACS holds {uid}, which no study version made" for uid in strangers]
    if late is not None:
        found += [f"{late.name}, late image: {word}" for word in _late(_of(late, versions))]
    elif any(version.reports for version in versions):
        found.append("no late image was sent")
    return found


def _of(examination: Examination, versions: Sequence[VersionLine]) -> list[VersionLine]:
    return [v for v in versions if v.study_instance_uid == examination.study_instance_uid]


def _name(version: VersionLine) -> str:
    return f"study {version.study_instance_uid} version {version.number}"


def _examination(examination: Examination, versions: Sequence[VersionLine]) -> Iterator[str]:
    if not versions:
        yield f"{examination.name}: no study was received"
        return
    newest = versions[-1]
    wanted = {
        Ending.REPORTED: (State.DONE,),
        Ending.SKIPPED: (State.SKIPPED,),
        Ending.EITHER: (State.DONE, State.SKIPPED),
    }[examination.ending]
    if newest.state not in wanted:
        yield f"{examination.name}: is {newest.state} ({newest.reason or 'no reason'}), {' or '.join(wanted)} is wanted"
    if newest.state is State.SKIPPED and not newest.reason:
        yield f"{examination.name}: was skipped without a reason"


def _version(version: VersionLine) -> Iterator[str]:
    if not version.state.is_final:
        yield f"is {version.state}"
    if version.state is State.DONE and len(version.reports) != 1:
        yield f"has {len(version.reports)} Structured Reports"
    for line in version.objects:
        yield from (f"{line.description}: {word}" for word in _object(line))


def _object(line: ObjectLine) -> Iterator[str]:
    if not line.delivery.is_settled:
        yield f"delivery is {line.delivery} after {line.attempts} attempts: {line.error}"
    if line.accepted != 1:
        yield f"the PACS took it {line.accepted} times"
    if line.differing:
        yield f"{line.differing} copies with other bytes reached the PACS"


def _late(versions: Sequence[VersionLine]) -> Iterator[str]:
    """Yield what is wrong with the second version: it has all images, and its report names the first report."""
    if [version.number for version in versions] != [1, 2]:
        yield f"the study has versions {[version.number for version in versions]}, not 1 and 2"
        return
    first, second = versions
    if first.state is not State.SUPERSEDED:
        yield f"version 1 is {first.state}, not SUPERSEDED"
    if second.images != first.images + 1:
        yield f"version 2 has {second.images} images, version 1 has {first.images}"
    named = {uid for line in second.reports if line.path for uid in predecessors(dcmread(line.path))}
    before = {line.sop_instance_uid for line in first.reports}
    if named != before:
        yield "the report of version 2 does not name that of version 1"
