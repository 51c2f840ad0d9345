"""Pictures from a folder of the user, for `dicomnode demo --images DIR`."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from dicomnode.demo.objects import Pixels
from dicomnode.errors import ConfigError

PREAMBLE_BYTES = 128
SUFFIXES = (".png", ".jpg", ".jpeg")


class Picture(NamedTuple):
    """A picture: gray pixels, or the path of a DICOM file that is sent as it is.

    `lossy_ratio` is the compression of a JPEG file (bytes of its gray pixels by bytes of the file), else 0.
    """

    name: str
    content: Pixels | Path
    lossy_ratio: float = 0.0


def load_pictures(folder: Path) -> list[Picture]:
    """Return the PNG, JPEG and DICOM files of `folder` (not of folders in it), by name; other files are passed over.

    Raises `ConfigError` if the folder is missing, holds none, or a picture in it cannot be read.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such folder of pictures")
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    pictures = [_load(path) for path in paths if path.suffix.lower() in SUFFIXES or _is_dicom(path)]
    if not pictures:
        raise ConfigError(f"{folder}: there is no PNG, JPEG or DICOM file in this folder")
    return pictures


def _is_dicom(path: Path) -> bool:
    """Return whether the file has the preamble of PS3.10 section 7.1."""
    with path.open("rb") as file:
        return file.read(PREAMBLE_BYTES + 4)[PREAMBLE_BYTES:] == b"DICM"


def _load(path: Path) -> Picture:
    if path.suffix.lower() not in SUFFIXES:
        return Picture(path.name, path)
    try:
        with Image.open(path) as image:
            is_jpeg = image.format == "JPEG"
            pixels = _gray(image)
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as exc:
        raise ConfigError(f"{path}: cannot be read as a picture: {exc}") from exc
    return Picture(path.name, pixels, pixels.nbytes / path.stat().st_size if is_jpeg else 0.0)


def _gray(image: Image.Image) -> Pixels:
    """Return the (rows, columns) gray values: uint16 for a 16-bit picture, else uint8."""
    if image.mode.startswith("I"):
        return np.asarray(image).astype(np.uint16)
    return np.asarray(image.convert("L"))
