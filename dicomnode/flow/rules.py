"""Rules: what this node would do with a DICOM file, and why; nothing is stored, analyzed or sent."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID

from dicomnode.config import Settings
from dicomnode.domain.findings import Priority
from dicomnode.domain.study import InstanceHeader
from dicomnode.errors import BundleError, UnreadableObject
from dicomnode.evidence import find_encoders
from dicomnode.flow import route
from dicomnode.flow.report import destinations
from dicomnode.inference.bundle import installed, read_manifest
from dicomnode.inference.select import SourceInstance, refusal
from dicomnode.network.access import admission, rejection
from dicomnode.network.scp import is_storage
from dicomnode.network.walk import walk

SHOWN = ("Modality", "BodyPartExamined", "ViewPosition", "SeriesDescription", "Manufacturer")
PREAMBLE, GROUP_LENGTH = 132, 12
"""Bytes before the File Meta Information, and of its first element (PS3.10 table 7.1-1)."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """One question, whether it goes on from there, and why."""

    question: str
    goes_on: bool
    why: str


def examine(file: Path, settings: Settings, calling_ae_title: str, calling_address: str) -> list[Ruling]:
    """Return what would become of a file that `calling_ae_title` sends; questions after the first "no" stay open.

    Raises `UnreadableObject` where the file is no DICOM file.
    """
    header = read_header(file)
    rulings = [_sender(settings, calling_ae_title, calling_address), _sop_class(settings, header), _content(header)]
    if not all(ruling.goes_on for ruling in rulings):
        return rulings
    period = settings.quiet_period_s(calling_ae_title)
    rulings.append(Ruling("when is it analyzed", True, f"{period:g} s after the last image of the study"))
    bundles = list(_bundles(file, settings, header))
    rulings += bundles
    if any(ruling.goes_on for ruling in bundles):
        rulings += _destinations(settings, calling_ae_title, header.attributes.get("Modality", ""))
    else:
        rulings.append(Ruling("where do results go", False, "no bundle looks at this image: there are no results"))
    return rulings


def read_header(file: Path) -> InstanceHeader:
    """Return the header of a DICOM file, walked to its last byte as a receiver does. Raises `UnreadableObject`."""
    try:
        meta = read_file_meta_info(file)
        start = PREAMBLE + GROUP_LENGTH + int(meta.FileMetaInformationGroupLength)
        syntax = str(meta.TransferSyntaxUID)
    except Exception as exc:  # a file can make its reader raise anything
        raise UnreadableObject(f"{file}: no DICOM file of PS3.10 ({type(exc).__name__}: {exc})") from exc
    return walk(memoryview(file.read_bytes())[start:], syntax)


def _sender(settings: Settings, calling_ae_title: str, address: str) -> Ruling:
    question = f"may {calling_ae_title} store here"
    accept_unknown = settings.receiver.accept_unknown_peers
    admitted = admission(settings.peers, calling_ae_title, address, accept_unknown=accept_unknown)
    if admitted is None:
        refused = rejection(settings.peers, calling_ae_title, settings.node.ae_title, address)
        return Ruling(question, False, f"{refused.reason}; {refused.setting} would let it in")
    name = f"[peers.{admitted.name}]" if admitted.name else "receiver.accept_unknown_peers"
    return Ruling(question, admitted.may_store, name if admitted.may_store else f"{name} has no sends = true")


def _sop_class(settings: Settings, header: InstanceHeader) -> Ruling:
    name = UID(header.sop_class_uid).name
    accepted = is_storage(header.sop_class_uid, accept_unknown=settings.receiver.accept_unknown_sop_classes)
    return Ruling("is its SOP Class received", accepted, f"{name}, {UID(header.transfer_syntax_uid).name}")


def _content(header: InstanceHeader) -> Ruling:
    shown = [f"{keyword} {header.attributes[keyword]}" for keyword in SHOWN if keyword in header.attributes]
    return Ruling("is it whole", True, ", ".join(shown) or "it names no modality and no body part")


def _bundles(file: Path, settings: Settings, header: InstanceHeader) -> Iterator[Ruling]:
    found = installed(settings.models.directories)
    modality = header.attributes.get("Modality", "")
    instance = SourceInstance(file, header.sop_instance_uid, header.sop_class_uid, modality)
    for name in settings.models.active:
        question = f"does {name} look at it"
        if name not in found:
            yield Ruling(question, False, "there is no such bundle; see models.active and models.directories")
            continue
        try:
            manifest, _ = read_manifest(found[name])
        except BundleError as exc:
            yield Ruling(question, False, str(exc))
            continue
        refused = refusal(instance, manifest.input)
        yield Ruling(question, refused is None, refused.reason if refused else f"version {manifest.version}")


def _destinations(settings: Settings, calling_ae_title: str, modality: str) -> Iterator[Ruling]:
    """Say for each rule where results go: with nothing suspected, or at most, with all that the rule asks for."""
    labels = frozenset(label for rule in settings.routes for label in rule.finding)
    least = route.Facts(calling_ae_title, frozenset({modality}), frozenset(), Priority.ROUTINE)
    most = route.Facts(calling_ae_title, frozenset({modality}), labels, Priority.CRITICAL)
    for ruled, at_most in zip(route.explain(settings, least), route.explain(settings, most), strict=True):
        question = f"do results go by {ruled.rule}" if settings.routes else "where do results go"
        if ruled.destinations:
            yield Ruling(question, True, f"{ruled.why}: {_gets(settings, ruled.destinations)}")
        elif at_most.destinations:
            yield Ruling(question, True, f"only if {at_most.why}: {_gets(settings, at_most.destinations)}")
        else:
            yield Ruling(question, False, at_most.why)


def _gets(settings: Settings, names: tuple[str, ...]) -> str:
    """Return in words which objects each of the peers gets."""
    encoders = [encoder.name for encoder in find_encoders()]
    peers = {name: settings.peers[name] for name in names}
    objects = {name: [e for e in encoders if name in destinations(peers, e)] for name in names}
    return "; ".join(f"{name} ({peers[name].ae_title}) gets {', '.join(wanted)}" for name, wanted in objects.items())
