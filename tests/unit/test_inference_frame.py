"""One frame of a file: multi-frame, every encoding of it, and claims that the bytes do not keep."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)

from dicomnode.errors import UnreadableImage
from dicomnode.inference.decode import decode
from dicomnode.inference.display import Voi
from dicomnode.inference.frame import read_frame

Radiograph = Callable[..., Path]
LIMIT = 10_000
FRAMES = np.random.default_rng(3).integers(0, 4096, (3, 11, 7)).astype(np.uint16)


def multi_frame(radiograph: Radiograph, frames: NDArray[Any], **attributes: Any) -> Path:
    """Write frames of odd size, uncompressed."""
    pixels = frames.tobytes()
    return radiograph(
        pixels=frames[0], NumberOfFrames=len(frames), PixelData=pixels + b"\0" * (len(pixels) % 2), **attributes
    )


def again(path: Path, change: Callable[[Dataset], Any]) -> Path:
    ds = pydicom.dcmread(path)
    change(ds)
    ds.save_as(path)
    return path


def as_syntax(syntax: str) -> Callable[[Radiograph], Path]:
    def write(radiograph: Radiograph) -> Path:
        path = multi_frame(radiograph, FRAMES)
        ds = pydicom.dcmread(path)
        ds.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            ds.PixelData = FRAMES.astype(">u2").tobytes()
        is_little = syntax != ExplicitVRBigEndian
        pydicom.dcmwrite(path, ds, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=is_little)
        return path

    return write


def compressed(syntax: str, store: Callable[[Dataset, list[bytes]], Any] | None = None) -> Callable[[Radiograph], Path]:
    def write(radiograph: Radiograph) -> Path:
        path = again(multi_frame(radiograph, FRAMES), lambda ds: ds.compress(syntax, generate_instance_uid=False))
        if store is None:
            return path
        return again(path, lambda ds: store(ds, list(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=3))))

    return write


def without_offsets(ds: Dataset, frames: list[bytes]) -> None:
    ds.PixelData = encapsulate(frames, has_bot=False)


def in_fragments(ds: Dataset, frames: list[bytes]) -> None:
    ds.PixelData = encapsulate(frames, fragments_per_frame=2, has_bot=False)


def with_extended_offsets(ds: Dataset, frames: list[bytes]) -> None:
    ds.PixelData, ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = encapsulate_extended(frames)


ENCODINGS: dict[str, Callable[[Radiograph], Path]] = {
    "explicit": as_syntax(ExplicitVRLittleEndian),
    "implicit": as_syntax(ImplicitVRLittleEndian),
    "big endian": as_syntax(ExplicitVRBigEndian),
    "deflated": as_syntax(DeflatedExplicitVRLittleEndian),
    "RLE": compressed(RLELossless),
    "JPEG-LS": compressed(JPEGLSLossless),
    "JPEG-LS without offsets": compressed(JPEGLSLossless, without_offsets),
    "JPEG-LS in fragments": compressed(JPEGLSLossless, in_fragments),
    "JPEG-LS with extended offsets": compressed(JPEGLSLossless, with_extended_offsets),
    "attributes after the pixels": lambda r: again(
        multi_frame(r, FRAMES), lambda ds: ds.add_new("DataSetTrailingPadding", "OB", b"\0" * 64)
    ),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_each_frame_is_found_in_each_encoding(encoding: str, radiograph: Radiograph) -> None:
    path = ENCODINGS[encoding](radiograph)
    for index, expected in enumerate(FRAMES):
        np.testing.assert_array_equal(read_frame(path, index, LIMIT)[0], expected)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_frames_of_an_odd_number_of_bytes_are_found(syntax: str, radiograph: Radiograph) -> None:
    frames = (FRAMES % 251).astype(np.uint8)
    path = multi_frame(radiograph, frames)
    if syntax != ExplicitVRLittleEndian:
        again(path, lambda ds: ds.compress(syntax, generate_instance_uid=False))
    for index, expected in enumerate(frames):
        np.testing.assert_array_equal(read_frame(path, index, LIMIT)[0], expected)


def test_frames_of_single_bits_are_found(radiograph: Radiograph) -> None:
    bits = (FRAMES % 2).astype(np.uint8)
    packed = np.packbits(bits.ravel(), bitorder="little").tobytes()
    path = radiograph(
        pixels=bits[0], NumberOfFrames=3, BitsAllocated=1, BitsStored=1, HighBit=0, PixelData=packed + b"\0"
    )
    for index, expected in enumerate(bits):
        np.testing.assert_array_equal(read_frame(path, index, LIMIT)[0], expected)


@pytest.mark.parametrize(("keyword", "dtype"), [("FloatPixelData", "<f4"), ("DoubleFloatPixelData", "<f8")])
def test_pixels_that_are_floats_are_found(keyword: str, dtype: str, radiograph: Radiograph) -> None:
    values = np.linspace(-1.5, 1.5, 3 * 11 * 7).reshape(3, 11, 7).astype(dtype)
    bits = values.dtype.itemsize * 8
    absent = dict.fromkeys(("PixelData", "BitsStored", "HighBit", "PixelRepresentation"))
    path = radiograph(pixels=FRAMES[0], NumberOfFrames=3, BitsAllocated=bits, **absent, **{keyword: values.tobytes()})
    np.testing.assert_array_equal(read_frame(path, 1, LIMIT)[0], values[1])
    np.testing.assert_allclose(decode(path, Voi(), LIMIT, 2), np.linspace(0, 1, 77).reshape(11, 7), atol=1e-5)


def test_floats_that_are_not_finite_are_a_reason(radiograph: Radiograph) -> None:
    values = np.full((11, 7), np.nan, "<f4").tobytes()
    path = radiograph(pixels=FRAMES[0], BitsAllocated=32, PixelData=None, FloatPixelData=values)
    with pytest.raises(UnreadableImage, match="not finite"):
        decode(path, Voi(), LIMIT)


def group(**attributes: Any) -> Dataset:
    ds, window = Dataset(), Dataset()
    for keyword, value in attributes.items():
        setattr(window, keyword, value)
    ds.FrameVOILUTSequence = [window]
    return ds


def test_each_frame_of_an_enhanced_image_has_its_own_window(radiograph: Radiograph) -> None:
    path = multi_frame(
        radiograph,
        FRAMES,
        SharedFunctionalGroupsSequence=[group(WindowCenter=1, WindowWidth=2, VOILUTFunction="LINEAR_EXACT")],
        PerFrameFunctionalGroupsSequence=[group(WindowCenter=c, WindowWidth=4000) for c in (1000, 2000, 3000)],
    )
    for index, centre in enumerate((1000, 2000, 3000)):
        expected = np.clip((FRAMES[index].astype(int) - centre) / 4000 + 0.5, 0, 1)
        np.testing.assert_allclose(decode(path, Voi(), LIMIT, index), expected, atol=1e-6)


def fewer_fragments(ds: Dataset, frames: list[bytes]) -> None:
    ds.PixelData = encapsulate(frames[:2], has_bot=False)


FALSE: dict[str, tuple[Callable[[Radiograph], Path], int, str]] = {
    "a frame too many": (ENCODINGS["explicit"], 3, "there is no frame 4, Number of Frames is 3"),
    "a frame below 0": (ENCODINGS["explicit"], -1, "there is no frame 0"),
    "frames that are not there": (
        lambda r: again(multi_frame(r, FRAMES), lambda ds: setattr(ds, "NumberOfFrames", 2_000_000_000)),
        0,
        "308000000000 bytes of pixels expected, the file has 462",
    ),
    "deflated frames that are not there": (
        lambda r: again(as_syntax(DeflatedExplicitVRLittleEndian)(r), lambda ds: setattr(ds, "NumberOfFrames", 9)),
        0,
        "1386 bytes of pixels expected, the file has 462",
    ),
    "more frames than fragments": (
        compressed(JPEGLSLossless, fewer_fragments),
        0,
        "Number of Frames is 3, the Pixel Data has 2 fragments",
    ),
    "more pixels than are allowed": (lambda r: r(Rows=1000, Columns=1000), 0, "1000000 pixels are more than"),
}


@pytest.mark.parametrize("case", FALSE)
def test_a_claim_that_the_bytes_do_not_keep_is_a_reason(case: str, radiograph: Radiograph) -> None:
    write, index, expected = FALSE[case]
    with pytest.raises(UnreadableImage, match=expected):
        decode(write(radiograph), Voi(), LIMIT, index)
