"""What the demo modality sends: one examination a picture, a CT that no bundle takes, and later a late image."""

import uuid
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path

from pydicom import Dataset, dcmread

from dicomnode.config import ModelSettings
from dicomnode.demo.objects import Pixels, Study, dx, not_applicable_study, patient
from dicomnode.demo.pictures import Picture, load_pictures
from dicomnode.domain.study import derived_uid
from dicomnode.errors import BundleError, ConfigError

DECODER = "chest_xray_anomaly"


class Ending(Enum):
    """How an examination has to end."""

    REPORTED = "reported"
    SKIPPED = "skipped"
    EITHER = "reported or skipped"


@dataclass(frozen=True, slots=True, eq=False)
class Examination:
    """One study that the modality sends."""

    name: str
    images: tuple[Dataset, ...]
    ending: Ending

    @property
    def study_instance_uid(self) -> str:
        """The UID of the study."""
        return str(self.images[0].StudyInstanceUID)

    def late_image(self) -> Dataset:
        """Return one more image of the study: the first exposure again, under a UID of its own."""
        ds = deepcopy(self.images[0])
        ds.SOPInstanceUID = derived_uid("demo late image", str(ds.SOPInstanceUID))
        ds.InstanceNumber = len(self.images) + 1
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        return ds


def examinations(folder: Path | None, models: ModelSettings, now: datetime) -> list[Examination]:
    """Return what is sent: the pictures of `folder`, or radiographs that the anomaly bundle decodes; then a CT.

    Raises `ConfigError` where there are no pictures.
    """
    run = uuid.uuid4().hex
    pictures = _synthetic(models) if folder is None else load_pictures(folder)
    drawn = [picture for picture in pictures if not isinstance(picture.content, Path)]
    made = [_drawn(picture, run, number, now) for number, picture in enumerate(drawn, start=1)]
    stored = _stored([picture.content for picture in pictures if isinstance(picture.content, Path)])
    last = len(drawn) + 1
    ct = not_applicable_study(patient=patient(last), study=Study(run, last, now, "CT"))
    return [*made, *stored, Examination("CT", tuple(ct), Ending.SKIPPED)]


def _synthetic(models: ModelSettings) -> list[Picture]:
    """Return radiographs of nobody. Loads torch."""
    from dicomnode.inference import bundle, synthesis  # noqa: PLC0415  only a demo without --images pays for torch

    found = bundle.installed(models.directories)
    try:
        if DECODER not in found:
            raise BundleError(f"there is no bundle {DECODER}")
        decoded = synthesis.synthetic_radiographs(bundle.load(found[DECODER]))
    except BundleError as exc:
        raise ConfigError(f"no synthetic radiographs: {exc}; send pictures of your own with --images DIR") from exc
    return [Picture(label.partition(",")[0], pixels) for label, pixels in decoded]


def _drawn(picture: Picture, run: str, number: int, now: datetime) -> Examination:
    assert not isinstance(picture.content, Path)  # noqa: S101  for the type checker
    pixels: Pixels = picture.content
    study = Study(run, number, now)
    image = dx(pixels, patient=patient(number), study=study, lossy_ratio=picture.lossy_ratio)
    return Examination(picture.name, (image,), Ending.REPORTED)


def _stored(paths: list[Path]) -> list[Examination]:
    """Return the studies of DICOM files as they are: whether a bundle takes them is theirs to say."""
    studies: dict[str, list[Dataset]] = {}
    names: dict[str, str] = {}
    for path in paths:
        ds = dcmread(path)
        uid = str(ds.get("StudyInstanceUID", ""))
        if not uid or "SOPInstanceUID" not in ds:
            raise ConfigError(f"{path}: has no Study or SOP Instance UID")
        studies.setdefault(uid, []).append(ds)
        names.setdefault(uid, path.name)
    return [Examination(names[uid], tuple(images), Ending.EITHER) for uid, images in studies.items()]
