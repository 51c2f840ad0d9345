"""From stored values to display values, and every way in which that fails."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from dicomnode.errors import SpoolFileMissing, UnreadableImage, UnsuitableInput
from dicomnode.inference.codestream import Claim, check, with_repaired_scan
from dicomnode.inference.decode import decode
from dicomnode.inference.display import Voi, window

HEADER = Voi(method="header", low=0, high=100)
PERCENTILE = Voi(method="percentile", low=10, high=90)
LIMIT = 10_000_000
Radiograph = Callable[..., Path]


def ramp(dtype: str, low: int, high: int) -> NDArray[Any]:
    return np.linspace(low, high, 64 * 48).round().astype(dtype).reshape(64, 48)


SHOWN = np.linspace(0, 1, 64 * 48).reshape(64, 48)


def lut(
    bits: int, entries: list[int] | bytes, first: int = 0, count: int | None = None, vr: str = "US"
) -> list[Dataset]:
    ds = Dataset()
    ds.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) if count is None else count, first, bits])
    ds.add_new("LUTData", vr, entries)
    return [ds]


INVERSE = np.arange(65535, -1, -1, dtype=np.uint16)
CASES: dict[str, tuple[NDArray[Any], dict[str, Any], NDArray[np.float64]]] = {
    "8 bit": (ramp("uint8", 0, 255), {}, SHOWN),
    "12 bit": (ramp("uint16", 0, 4095), {"BitsStored": 12, "HighBit": 11}, SHOWN),
    "16 bit": (ramp("uint16", 0, 65535), {}, SHOWN),
    "signed": (ramp("int16", -1000, 1000), {}, SHOWN),
    "MONOCHROME1": (ramp("uint16", 0, 4095), {"PhotometricInterpretation": "MONOCHROME1"}, 1 - SHOWN),
    "window": (
        ramp("uint16", 0, 4000),
        {"WindowCenter": 2000.5, "WindowWidth": 2001},
        np.clip((SHOWN * 4000 - 1000) / 2000, 0, 1),
    ),
    "window of MONOCHROME1": (
        ramp("uint16", 0, 4000),
        {"WindowCenter": 2000.5, "WindowWidth": 2001, "PhotometricInterpretation": "MONOCHROME1"},
        1 - np.clip((SHOWN * 4000 - 1000) / 2000, 0, 1),
    ),
    "window in rescaled values": (
        ramp("int16", 0, 4000),
        {"WindowCenter": 0.5, "WindowWidth": 2001, "RescaleIntercept": -2000, "RescaleSlope": 1},
        np.clip((SHOWN * 4000 - 1000) / 2000, 0, 1),
    ),
    "first of two windows": (
        ramp("uint16", 0, 4000),
        {"WindowCenter": [2000.5, 1], "WindowWidth": [4001, 2]},
        SHOWN,
    ),
    "a window of no width": (ramp("uint16", 0, 4000), {"WindowCenter": 5, "WindowWidth": 0}, SHOWN),
    "negative slope": (ramp("uint16", 0, 4000), {"RescaleIntercept": 4000, "RescaleSlope": -1}, 1 - SHOWN),
    "Modality LUT": (
        ramp("uint8", 0, 3),
        {"ModalityLUTSequence": lut(16, [0, 10, 20, 30])},
        ramp("uint8", 0, 3) / 3,
    ),
    "VOI LUT": (
        ramp("uint8", 0, 3),
        {"VOILUTSequence": lut(12, [0, 4095, 4095, 0]), "WindowCenter": 2, "WindowWidth": 4},
        np.isin(ramp("uint8", 0, 3), [1, 2]).astype(float),
    ),
    "VOI LUT of Modality LUT": (
        ramp("uint8", 0, 3),
        {"ModalityLUTSequence": lut(16, [300, 200, 100, 0]), "VOILUTSequence": lut(16, [0, 65535], first=200)},
        (ramp("uint8", 0, 3) == 0).astype(float),
    ),
    "VOI LUT of 65536 entries": (
        ramp("uint16", 0, 65535),
        {"VOILUTSequence": lut(16, INVERSE.tobytes(), count=0, vr="OW")},
        1 - SHOWN,
    ),
    "VOI LUT of 8 bits in words": (
        ramp("uint8", 0, 3),
        {"VOILUTSequence": lut(8, bytes([0, 255, 51, 102]), vr="OW")},
        np.array([0, 1, 0.2, 0.4])[ramp("uint8", 0, 3)],
    ),
    "VOI LUT of 8 bits, one a word": (
        ramp("uint8", 0, 3),
        {"VOILUTSequence": lut(8, np.array([0, 255, 51, 102], "<u2").tobytes(), count=4, vr="OW")},
        np.array([0, 1, 0.2, 0.4])[ramp("uint8", 0, 3)],
    ),
    "VOI LUT of 9 bits": (ramp("uint8", 0, 1), {"VOILUTSequence": lut(9, [0, 511])}, ramp("uint8", 0, 1)),
    "VOI LUT whose descriptor says too few bits": (
        ramp("uint8", 0, 1),
        {"VOILUTSequence": lut(8, [0, 4095])},
        ramp("uint8", 0, 1),
    ),
    "VOI LUT that starts below 0": (
        ramp("int16", -2, 1),
        {"VOILUTSequence": lut(16, [65535, 0, 0, 65535], first=-2)},
        np.isin(ramp("int16", -2, 1), [-2, 1]).astype(float),
    ),
    "VOI LUT that starts at 65534, which is -2": (
        ramp("int16", -2, 1),
        {"VOILUTSequence": lut(16, [65535, 0, 0, 65535], first=65534)},
        np.isin(ramp("int16", -2, 1), [-2, 1]).astype(float),
    ),
    "VOI LUT in Hounsfield units": (
        ramp("uint16", 0, 3),
        {"RescaleIntercept": -1024, "RescaleSlope": 1, "VOILUTSequence": lut(16, [0, 0, 65535], first=-1024)},
        (ramp("uint16", 0, 3) >= 2).astype(float),
    ),
    "VOI LUT of MONOCHROME1": (
        ramp("uint8", 0, 1),
        {"PhotometricInterpretation": "MONOCHROME1", "VOILUTSequence": lut(16, [0, 65535])},
        1 - ramp("uint8", 0, 1),
    ),
    "Modality LUT of signed values": (
        ramp("int16", -2, 1),
        {"ModalityLUTSequence": lut(16, [0, 10, 20, 30], first=65534)},
        (ramp("int16", -2, 1) + 2) / 3,
    ),
    "overlay above the stored bits": (
        ramp("uint16", 0, 4095) | np.where(np.arange(48) % 2, 0x8000, 0).astype("uint16"),
        {"BitsStored": 12, "HighBit": 11},
        SHOWN,
    ),
    "signed 12 bits": (
        ramp("int16", -2048, 2047) & 0x0FFF,
        {"BitsStored": 12, "HighBit": 11},
        SHOWN,
    ),
    "High Bit 15 of 12": (ramp("uint16", 0, 4095) << 4 | 7, {"BitsStored": 12, "HighBit": 15}, SHOWN),
    "High Bit that cannot be": (ramp("uint16", 0, 4095), {"BitsStored": 12, "HighBit": 3}, SHOWN),
    "32 bit": (ramp("uint32", 0, 2**32 - 1), {}, SHOWN),
    "a slope of a billionth": (ramp("uint16", 0, 4000), {"RescaleSlope": "1e-9", "RescaleIntercept": 0}, SHOWN),
    "padding of MONOCHROME1": (
        ramp("uint16", 0, 4000) * (np.arange(48) > 7).astype("uint16"),
        {"PhotometricInterpretation": "MONOCHROME1", "PixelPaddingValue": 0, "WindowCenter": 2000, "WindowWidth": 4001},
        np.where((np.arange(48) > 7) & (SHOWN > 0), 1 - SHOWN, 0),
    ),
    "a range of padding": (
        ramp("uint16", 0, 4000),
        {"PixelPaddingValue": 4000, "PixelPaddingRangeLimit": 2001},
        np.where(SHOWN <= 0.5, np.minimum(SHOWN * 2, 1), 0),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_stored_values_become_display_values(case: str, radiograph: Radiograph) -> None:
    pixels, attributes, expected = CASES[case]
    shown = decode(radiograph(pixels=pixels, **attributes), HEADER, LIMIT)
    assert shown.dtype == np.float32
    np.testing.assert_allclose(shown, expected, atol=0.003)


def test_percentiles_clip_the_ends_whatever_the_window(radiograph: Radiograph) -> None:
    path = radiograph(pixels=ramp("uint16", 0, 1000), WindowCenter=5, WindowWidth=10)
    np.testing.assert_allclose(decode(path, PERCENTILE, LIMIT), np.clip((SHOWN - 0.1) / 0.8, 0, 1), atol=0.003)


def test_padding_does_not_shift_the_percentiles(radiograph: Radiograph) -> None:
    pixels = ramp("int16", 0, 1000)
    pixels[:30] = -32768
    path = radiograph(pixels=pixels)
    ds = pydicom.dcmread(path)
    ds.add_new("PixelPaddingValue", "SS", -32768)
    ds.save_as(path)
    shown = decode(path, HEADER, LIMIT)
    assert (shown[:30] == 0).all()
    assert shown[30, 0] < 0.01
    assert shown[50, 0] == pytest.approx((pixels[50, 0] - pixels[30, 0]) / (1000 - pixels[30, 0]), abs=0.01)


@pytest.mark.parametrize(
    ("function", "width", "expected"),
    [("LINEAR", 13, 0.625), ("LINEAR_EXACT", 10, 0.6), ("SIGMOID", 10, 1 / (1 + np.exp(-0.4)))],
)
def test_windows_follow_the_standard(function: str, width: float, expected: float) -> None:
    assert window(np.array([[100.0]]), 99, width, function)[0, 0] == pytest.approx(expected)


def test_a_constant_image_is_black(radiograph: Radiograph) -> None:
    assert (decode(radiograph(pixels=np.full((64, 48), 700, "uint16")), HEADER, LIMIT) == 0).all()


def jpeg_header(rows: int, columns: int) -> bytes:
    size = rows.to_bytes(2, "big") + columns.to_bytes(2, "big")
    return (
        b"\xff\xd8\xff\xc0\x00\x0b\x08" + size + b"\x01\x01\x11\x00\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00\x00\xff\xd9"
    )


def compressed(radiograph: Radiograph, frame: bytes, syntax: str) -> Path:
    path = radiograph(pixels=ramp("uint8", 0, 255))
    ds = pydicom.dcmread(path)
    ds.file_meta.TransferSyntaxUID = syntax
    ds.PixelData = encapsulate([frame])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    ds.save_as(path)
    return path


FAULTS: dict[str, tuple[Callable[[Radiograph], Path], str]] = {
    "more pixels than allowed": (lambda r: r(Rows=60000, Columns=60000), "3600000000 pixels are more than"),
    "fewer bytes than claimed": (lambda r: r(Rows=2000, Columns=2000), "8000000 bytes of pixels expected"),
    "no rows": (lambda r: r(Rows=0), "Rows, Columns and Bits Allocated are"),
    "no Pixel Data": (lambda r: r(pixels=np.zeros((4, 4), "uint8"), PixelData=None), "there is no Pixel Data"),
    "no image at all": (
        lambda r: r(Rows=None, Columns=None, BitsAllocated=None, PixelData=None),
        "there is no image in the object",
    ),
    "Bits Allocated of 12": (lambda r: r(BitsAllocated=12), "Bits Stored is 16 and Bits Allocated is 12"),
    "more bits stored than allocated": (lambda r: r(BitsStored=17), "Bits Stored is 17 and Bits Allocated is 16"),
    "a slope of 0": (lambda r: r(RescaleSlope=0, RescaleIntercept=1), "Rescale Slope is 0"),
    "a slope without end": (lambda r: r(RescaleSlope="1e999", RescaleIntercept=1), "not finite"),
    "a LUT that is too short": (
        lambda r: r(VOILUTSequence=lut(16, [1, 2, 3], count=4000)),
        "the VOI LUT has 3 entries, its LUT Descriptor says 4000",
    ),
    "a LUT without data": (lambda r: r(ModalityLUTSequence=[Dataset()]), "the Modality LUT has no LUT Descriptor"),
    "codestream of other dimensions": (
        lambda r: compressed(r, jpeg_header(40000, 40000), JPEGBaseline8Bit),
        "the codestream is 40000 x 40000 pixels of 1 x 8 bits, the header says 64 x 48 pixels",
    ),
    "truncated JPEG": (lambda r: compressed(r, jpeg_header(64, 48), JPEGBaseline8Bit), "cannot be decoded"),
    "no JPEG 2000": (lambda r: compressed(r, b"nonsense", JPEG2000Lossless), "cannot be decoded"),
    "broken RLE": (lambda r: compressed(r, b"\x01" + b"\xff" * 90, RLELossless), "cannot be decoded"),
    "unknown transfer syntax": (
        lambda r: compressed(r, b"\0" * 64, "1.2.840.10008.1.2.4.94"),
        "cannot be decoded",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
@pytest.mark.filterwarnings("ignore")
def test_a_fault_is_an_unreadable_image_with_its_reason(case: str, radiograph: Radiograph) -> None:
    write, expected = FAULTS[case]
    with pytest.raises(UnreadableImage, match=expected):
        decode(write(radiograph), HEADER, LIMIT)


@pytest.mark.parametrize("content", [b"", b"text", b"\0" * 4000])
def test_a_file_that_is_no_dicom_is_an_unreadable_image(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(UnreadableImage):
        decode(path, HEADER, LIMIT)


def test_a_missing_file_is_lost_not_unreadable(tmp_path: Path) -> None:
    with pytest.raises(SpoolFileMissing, match="gone cannot be read: No such file"):
        decode(tmp_path / "gone", HEADER, LIMIT)


def test_a_palette_is_no_grey_image(radiograph: Radiograph) -> None:
    with pytest.raises(UnsuitableInput, match="PALETTE COLOR is not a grey image"):
        decode(radiograph(PhotometricInterpretation="PALETTE COLOR"), HEADER, LIMIT)


def siz(columns: int, rows: int, components: int = 1, precision: int = 8) -> bytes:
    sizes = (columns + 100, rows + 20, 100, 20, 64, 64, 0, 0)
    return (
        b"\xff\x4f\xff\x51\x00\x29\x00\x00"
        + b"".join(n.to_bytes(4, "big") for n in sizes)
        + components.to_bytes(2, "big")
        + bytes([precision - 1, 1, 1])
    )


def rle(*offsets: int) -> bytes:
    return b"".join(n.to_bytes(4, "little") for n in (len(offsets), *offsets)).ljust(64, b"\0") + b"\0" * 64


TRUE_CLAIMS = {
    "JPEG": (jpeg_header(64, 48), JPEGBaseline8Bit),
    "JPEG-LS": (jpeg_header(64, 48).replace(b"\xff\xc0", b"\xff\xf7"), JPEGLSLossless),
    "JPEG 2000": (siz(48, 64), JPEG2000Lossless),
    "JPEG 2000 in JP2": (b"\0\0\0\x0cjP  \r\n\x87\n" + siz(48, 64), JPEG2000Lossless),
    "RLE": (rle(64, 70), RLELossless),
}
FALSE_CLAIMS = {
    "JPEG of other size": (jpeg_header(65, 48), JPEGBaseline8Bit, "the codestream is 65 x 48 pixels"),
    "JPEG with a second frame header": (
        jpeg_header(64, 48)[:15] + jpeg_header(40000, 48)[2:],
        JPEGBaseline8Bit,
        "the codestream is 40000 x 48 pixels",
    ),
    "JPEG in colour": (
        jpeg_header(64, 48)[:11] + b"\x03" + jpeg_header(64, 48)[12:],
        JPEGBaseline8Bit,
        "of 3 x 8 bits",
    ),
    "no JPEG": (siz(48, 64), JPEGBaseline8Bit, "holds no JPEG codestream"),
    "JPEG 2000 of other size": (siz(48, 65), JPEG2000Lossless, "the codestream is 65 x 48 pixels"),
    "JPEG 2000 in colour": (siz(48, 64, components=3), JPEG2000Lossless, "of 3 x 8 bits"),
    "JPEG 2000 of 38 bits": (siz(48, 64, precision=38), JPEG2000Lossless, "of 1 x 38 bits"),
    "JPEG 2000 cut off": (siz(48, 64)[:30], JPEG2000Lossless, "holds no JPEG 2000 codestream"),
    "RLE of 15 segments": (rle(*range(64, 79)), RLELossless, "has 15 segments, the header asks for 2"),
    "RLE that runs out": (rle(64, 4000), RLELossless, "not inside it in order"),
    "RLE that runs back": (rle(64, 64), RLELossless, "not inside it in order"),
    "RLE cut off": (b"\x02\0", RLELossless, "2 bytes are no RLE frame"),
}


@pytest.mark.parametrize("case", TRUE_CLAIMS)
def test_a_codestream_that_agrees_with_the_header_passes(case: str) -> None:
    frame, syntax = TRUE_CLAIMS[case]
    check(frame, UID(syntax), Claim(64, 48, 1, 16))


@pytest.mark.parametrize("case", FALSE_CLAIMS)
def test_a_codestream_that_contradicts_the_header_is_refused(case: str) -> None:
    frame, syntax, expected = FALSE_CLAIMS[case]
    with pytest.raises(UnreadableImage, match=expected):
        check(frame, UID(syntax), Claim(64, 48, 1, 16))


def test_a_scan_header_without_its_end_is_repaired() -> None:
    good = jpeg_header(64, 48)
    bad = good.replace(b"\x00\x3f\x00\x00\xff\xd9", b"\x00\x00\x00\x00\xff\xd9")
    assert bad != good
    assert with_repaired_scan(bad) == good
    assert with_repaired_scan(good) == good
