"""One frame of an image file as a data set of its own, after every claim of the file was held against its bytes.

Only the bytes of that frame are read, whatever the number of frames.
Standard: PS3.3 C.7.6.3 (pixels), C.7.6.6 and C.7.6.16 (multi-frame); PS3.5 8.2 and A.4 (encapsulation).
"""

from pathlib import Path
from typing import BinaryIO

import numpy as np
import pydicom
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame, parse_fragments
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID, ExplicitVRBigEndian, JPEG2000TransferSyntaxes, JPEGExtended12Bit, JPEGLSTransferSyntaxes

from dicomnode.errors import UnreadableImage, UnsuitableInput
from dicomnode.inference.codestream import Claim, check, with_repaired_scan
from dicomnode.inference.display import Stored

PIXEL_KEYWORDS = {0x0008: "FloatPixelData", 0x0009: "DoubleFloatPixelData", 0x0010: "PixelData"}
BITS_ALLOCATED = (1, 8, 16, 32, 64)
BY_PRECISION = frozenset((*JPEG2000TransferSyntaxes, *JPEGLSTransferSyntaxes))
FUNCTIONAL_GROUPS = ("PixelValueTransformationSequence", "FrameVOILUTSequence")


def read_frame(path: Path, index: int, max_pixels: int) -> tuple[Stored, Dataset]:
    """Return the stored values of frame `index` (from 0) of the image in `path`, (rows, columns), and its attributes.

    Raises `UnreadableImage` or `UnsuitableInput` with the reason, and whatever pydicom raises at a broken file.
    """
    with path.open("rb") as file:
        ds = pydicom.dcmread(file, stop_before_pixels=True, force=True)
        syntax = _check_claims(ds, index, max_pixels)
        is_bits = ds.BitsAllocated == 1 and not syntax.is_encapsulated
        if syntax.is_deflated or syntax == ExplicitVRBigEndian or is_bits:
            ds = pydicom.dcmread(path, force=True)
            _check_length(ds)
        else:
            _keep_one_frame(file, ds, index)
    stored = pixel_array(ds, correct_unused_bits=False)
    if _number_of_frames(ds) > 1:  # with `index=` pydicom 3.0.2 reads too little where a frame starts within a byte
        stored = stored[index].copy()
    if stored.shape != (ds.Rows, ds.Columns):
        raise UnreadableImage(f"decoded to {stored.shape}, the header says {(ds.Rows, ds.Columns)}")
    _apply_functional_groups(ds, index)
    return _without_unused_bits(stored, ds), ds


def _check_claims(ds: Dataset, index: int, max_pixels: int) -> UID:
    """Return the transfer syntax of an image whose claims may be true."""
    claims = [ds.get(keyword) for keyword in ("Rows", "Columns", "BitsAllocated")]
    if not any(claims):
        raise UnreadableImage("there is no image in the object")
    if not all(isinstance(claim, int) and claim > 0 for claim in claims):
        raise UnreadableImage(f"Rows, Columns and Bits Allocated are {claims}")
    photometric = str(ds.get("PhotometricInterpretation", ""))[:16]
    if photometric not in ("MONOCHROME1", "MONOCHROME2") or ds.get("SamplesPerPixel", 1) != 1:
        raise UnsuitableInput(f"{photometric or 'an image without Photometric Interpretation'} is not a grey image")
    if (
        ds.BitsAllocated not in BITS_ALLOCATED
        or not 1 <= (ds.get("BitsStored") or ds.BitsAllocated) <= ds.BitsAllocated
    ):
        raise UnreadableImage(f"Bits Stored is {ds.get('BitsStored')} and Bits Allocated is {ds.BitsAllocated}")
    frames = _number_of_frames(ds)
    if not 0 <= index < frames:
        raise UnreadableImage(f"there is no frame {index + 1}, Number of Frames is {frames}")
    pixels = ds.Rows * ds.Columns
    if pixels > max_pixels:
        raise UnreadableImage(f"{pixels} pixels are more than analysis.max_image_pixels ({max_pixels})")
    syntax = ds.file_meta.get("TransferSyntaxUID") if hasattr(ds, "file_meta") else None
    if syntax is None:
        raise UnreadableImage("there is no Transfer Syntax UID")
    try:
        get_decoder(syntax)
    except NotImplementedError:
        raise UnreadableImage(f"the pixels cannot be decoded: {syntax.name} is not supported") from None
    return UID(syntax)


def _number_of_frames(ds: Dataset) -> int:
    try:
        return int(ds.get("NumberOfFrames") or 1)
    except (TypeError, ValueError):
        raise UnreadableImage("Number of Frames is no number") from None


def _keep_one_frame(file: BinaryIO, ds: Dataset, index: int) -> None:
    """Give `ds` the pixels of one frame from `file`, which stands before the pixel element, and no other."""
    keyword, length = _at_pixels(file, ds)
    if ds.file_meta.TransferSyntaxUID.is_encapsulated:
        ds[keyword] = DataElement(keyword, "OB", encapsulate([_encapsulated(file, ds, index)]))
        ds[keyword].is_undefined_length = True
    else:
        ds[keyword] = DataElement(keyword, "OW", _native(file, ds, index, length))
    ds.NumberOfFrames = 1
    for table in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        ds.pop(table, None)


def _at_pixels(file: BinaryIO, ds: Dataset) -> tuple[str, int]:
    """Return keyword and length of the pixel element that `file` stands before; move it to the value."""
    start = file.read(12)
    is_known = len(start) == 12 and start[:2] == b"\xe0\x7f" and int.from_bytes(start[2:4], "little") in PIXEL_KEYWORDS
    if not is_known:
        raise UnreadableImage("there is no Pixel Data")
    if start[4:6].isalpha() and not ds.original_encoding[0]:
        length = int.from_bytes(start[8:12], "little")
    else:
        length = int.from_bytes(start[4:8], "little")
        file.seek(-4, 1)
    return PIXEL_KEYWORDS[int.from_bytes(start[2:4], "little")], length


def _native(file: BinaryIO, ds: Dataset, index: int, length: int) -> bytes:
    """Return the bytes of a frame, made even; all frames that the header claims must be there."""
    size, frames = ds.Rows * ds.Columns * ds.BitsAllocated // 8, _number_of_frames(ds)
    start = file.tell()
    there = file.seek(0, 2) - start
    if min(there, length) < size * frames:
        raise UnreadableImage(f"{size * frames} bytes of pixels expected, the file has {min(there, length)}")
    file.seek(start + index * size)
    return file.read(size) + bytes(size % 2)


def _encapsulated(file: BinaryIO, ds: Dataset, index: int) -> bytes:
    """Return the codestream of a frame, checked against the header, with a known fault of JPEG Extended repaired."""
    start, frames = file.tell(), _number_of_frames(ds)
    table_size = int.from_bytes(file.read(8)[4:8], "little")
    file.seek(table_size, 1)
    fragments, _ = parse_fragments(file)
    if fragments < frames:
        raise UnreadableImage(f"Number of Frames is {frames}, the Pixel Data has {fragments} fragments")
    file.seek(start)
    table = (ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths) if "ExtendedOffsetTable" in ds else None
    frame = get_frame(file, index, number_of_frames=frames, extended_offsets=table)
    syntax = ds.file_meta.TransferSyntaxUID
    check(frame, syntax, Claim(ds.Rows, ds.Columns, 1, max(ds.BitsAllocated, 8)))
    return with_repaired_scan(frame) if syntax == JPEGExtended12Bit else frame


def _check_length(ds: Dataset) -> None:
    """Refuse a data set that was read whole (deflated, big endian, single bits) and has too few pixels."""
    keyword = next((keyword for keyword in PIXEL_KEYWORDS.values() if keyword in ds), None)
    if keyword is None:
        raise UnreadableImage("there is no Pixel Data")
    expected = ds.Rows * ds.Columns * ds.BitsAllocated * _number_of_frames(ds) // 8
    there = len(ds[keyword].value or b"")
    if there < expected and not ds[keyword].is_undefined_length:
        raise UnreadableImage(f"{expected} bytes of pixels expected, the file has {there}")


def _apply_functional_groups(ds: Dataset, index: int) -> None:
    """Put what the functional groups of an enhanced image say of the frame in the place of the image's attributes."""
    groups = list(ds.get("SharedFunctionalGroupsSequence") or ())[:1]
    groups += list(ds.get("PerFrameFunctionalGroupsSequence") or ())[index : index + 1]
    for group in groups:
        for keyword in FUNCTIONAL_GROUPS:
            for item in group.get(keyword) or ():
                ds.update(item)


def _without_unused_bits(stored: Stored, ds: Dataset) -> Stored:
    """Return the values of Bits Stored alone: overlays lie in the bits above them, or below where High Bit is high.

    JPEG 2000 and JPEG-LS tell their precision, and pydicom has followed it.
    """
    if stored.dtype.kind not in "iu" or ds.file_meta.TransferSyntaxUID in BY_PRECISION:
        return stored
    bits = 8 * stored.dtype.itemsize
    used = min(ds.get("BitsStored") or bits, bits)
    high = ds.get("HighBit")
    high = high if isinstance(high, int) and used - 1 <= high < bits else used - 1
    if used < bits and ds.BitsAllocated > 1:
        np.left_shift(stored, bits - 1 - high, out=stored)
        np.right_shift(stored, bits - used, out=stored)  # keeps the sign of a signed value
    return stored
