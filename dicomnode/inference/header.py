"""The attributes of a file before its pixels, read in the worker: a deflated file must not unfold in its memory.

Standard: PS3.5 A.5 (deflated data sets), PS3.10 7.1 (File Meta Information).
"""

import io
import zlib
from collections.abc import Sequence
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset, read_file_meta_info
from pydicom.tag import BaseTag, Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian

MAX_HEADER_BYTES = 16 << 20
PIXEL_GROUP = 0x7FE0
META_START = 144
"""Where the elements begin that File Meta Information Group Length counts."""


def read_header(path: Path, keywords: Sequence[str]) -> Dataset:
    """Return the attributes `keywords` of the file, as far as they stand before its pixels.

    Of a deflated data set no more than `MAX_HEADER_BYTES` are inflated. Raises what pydicom raises at a broken file.
    """
    try:
        meta: Dataset = read_file_meta_info(path)
    except InvalidDicomError:
        meta = Dataset()
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[*keywords], force=True)
    with path.open("rb") as file:
        file.seek(META_START + meta.FileMetaInformationGroupLength)
        head = zlib.decompressobj(wbits=-zlib.MAX_WBITS).decompress(file.read(MAX_HEADER_BYTES), MAX_HEADER_BYTES)
    return read_dataset(
        io.BytesIO(head),
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=_is_pixels,
        specific_tags=[Tag(keyword) for keyword in keywords],
    )


def _is_pixels(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return tag.group >= PIXEL_GROUP
