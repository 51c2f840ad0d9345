"""Rules: what this node would do with a DICOM file, and why; nothing is stored, analyzed or sent."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID

from dicomnode.config import Settings
from dicomnode.domain.study import InstanceHeader
from dicomnode.errors import BundleError, UnreadableObject
from dicomnode.evidence import find_encoders
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
        rulings += _destinations(settings)
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


def _destinations(settings: Settings) -> Iterator[Ruling]:
    """Say for each destination which objects it gets; the place where routing rules are asked."""
    if not settings.destinations:
        yield Ruling("where do results go", False, "nowhere: no [peers.NAME] has destination = true")
    encoders = [encoder.name for encoder in find_encoders()]
    for name, peer in settings.destinations.items():
        wanted = [encoder for encoder in encoders if name in destinations(settings.destinations, encoder)]
        yield Ruling(
            f"do results go to {name}", True, f"{peer.ae_title} at {peer.host}:{peer.port}: {', '.join(wanted)}"
        )
