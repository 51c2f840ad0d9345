"""Result encoders: what the node says about a study version, as DICOM objects.

One file an encoder, found by walking this package; modules that begin with an underscore are helpers. An encoder has

    KIND = "AI triage findings"                   what it is in words; the Series Description
    SERIES_NUMBER = 9001                          one number a kind, the same in every study
    def encode(case: Case) -> list[Dataset]       no disk, no network, the same UIDs and bytes every time
"""

import importlib
import io
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from pydicom import Dataset

from dicomnode.domain.findings import BundleResult, Priority, findings_digest
from dicomnode.domain.study import derived_uid
from dicomnode.errors import ConfigError
from dicomnode.evidence._source import text
from dicomnode.evidence._variant import ALTERNATIVES, variant, variant_uid

__all__ = [
    "ALTERNATIVES",
    "Case",
    "Encoder",
    "NodeIdentity",
    "Predecessor",
    "encoded",
    "find_encoders",
    "variant",
    "variant_uid",
    "warm_up",
]


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """Which installation speaks; `device_uid` is constant per installation.

    Standard: PS3.3 C.7.5.2 (Enhanced General Equipment), PS3.16 TID 1004.
    """

    ae_title: str
    manufacturer: str
    model_name: str
    station_name: str
    serial_number: str
    device_uid: str
    software_version: str


@dataclass(frozen=True, slots=True)
class Predecessor:
    """The document that a new one replaces. Standard: PS3.3 C.17.2.3."""

    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """All that an encoder may know: one study version, its assessed images, and what was said about them.

    `sources` are headers without pixels of the assessed images, all of one study. `created_at` is aware (UTC) and
    becomes every date and time that the objects carry. `predecessors` are the findings documents of the version before.
    Raises `ValueError` where these do not fit together.
    """

    version_uid: str
    version_number: int
    sources: tuple[Dataset, ...]
    results: tuple[BundleResult, ...]
    priority: Priority
    created_at: datetime
    node: NodeIdentity
    predecessors: tuple[Predecessor, ...] = ()
    _seed: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.created_at.tzinfo is None:
            raise ValueError("created_at has no time zone")
        if len({text(source, "StudyInstanceUID") for source in self.sources}) != 1:
            raise ValueError(f"{len(self.sources)} source images are not of one study")
        known = {text(source, "SOPInstanceUID") for source in self.sources}
        if missing := self.referenced - known:
            raise ValueError(f"findings name {len(missing)} images that are not among the sources: {sorted(missing)}")
        digests = sorted(result.bundle.digest for result in self.results)
        object.__setattr__(self, "_seed", "\x1f".join((self.version_uid, *digests, findings_digest(self.results))))

    @property
    def referenced(self) -> set[str]:
        """SOP Instance UIDs of the images that gave a finding or an anomaly score."""
        found = {finding.sop_instance_uid for result in self.results for finding in result.findings}
        return found | {result.anomaly.sop_instance_uid for result in self.results if result.anomaly}

    def uid(self, *parts: str | int) -> str:
        """Return the UID that `parts` always give in this version with these bundles and results."""
        return derived_uid("evidence", self._seed, *parts)


@dataclass(frozen=True, slots=True)
class Encoder:
    """A module of this package that makes DICOM objects of a case. `name` is the module's."""

    name: str
    kind: str
    series_number: int
    encode: Callable[[Case], list[Dataset]]


def find_encoders(package: str = __name__) -> tuple[Encoder, ...]:
    """Return the encoders of `package`, by series number.

    Raises `ConfigError` with the module's name if one lacks `encode`, `KIND` or `SERIES_NUMBER`, or shares a number.
    """
    found: dict[int, Encoder] = {}
    for info in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if info.name.startswith("_"):
            continue
        module = importlib.import_module(f"{package}.{info.name}")
        for needed in ("encode", "KIND", "SERIES_NUMBER"):
            if not hasattr(module, needed):
                raise ConfigError(f"{module.__name__} in {package} is no result encoder: it has no {needed}")
        encoder = Encoder(info.name, module.KIND, module.SERIES_NUMBER, module.encode)
        if other := found.get(encoder.series_number):
            raise ConfigError(f"{module.__name__} and {other.name} share series number {encoder.series_number}")
        found[encoder.series_number] = encoder
    return tuple(found[number] for number in sorted(found))


def encoded(ds: Dataset) -> bytes:
    """Return `ds` as the bytes of a DICOM file, the same for equal data sets. Standard: PS3.10 section 7."""
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def warm_up() -> None:
    """Encode an invented case once, so that tables and fonts that load lazily are there before the first study."""
    from dicomnode.evidence._invented import invented_case  # noqa: PLC0415  costs 0.4 s that only this process start pays

    for encoder in find_encoders():
        for ds in encoder.encode(invented_case()):
            encoded(ds)
