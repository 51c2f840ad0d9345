"""A DICOM file to display values: pixels, Modality LUT, VOI, polarity.

`decode` takes and returns what can be pickled, so that it can run in a limited child process.
Standard: PS3.3 C.7.6.3 (pixels), C.11.1 (Modality LUT), C.11.2 (VOI LUT), PS3.5 8.2 and A.4 (encapsulation).
"""

from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.processing import apply_modality_lut, apply_voi
from pydicom.pixels.utils import pixel_array
from pydicom.uid import JPEGExtended12Bit

from dicomnode.errors import UnreadableImage, UnsuitableInput
from dicomnode.inference.codestream import dimensions, with_repaired_scan
from dicomnode.inference.manifest import Voi
from dicomnode.inference.preprocess import FloatArray, clip_percentile

Values = NDArray[np.float64]


def decode(path: Path, voi: Voi, max_pixels: int) -> FloatArray:
    """Return the first frame of the image in `path` as (rows, columns) in 0..1, where 1 is white.

    Raises `UnreadableImage` with the reason, whatever a decoder does, and `UnsuitableInput` for a colour image.
    """
    try:
        ds = _read(path, max_pixels)
        shown = _display(_stored(ds), ds, voi)
    except (UnreadableImage, UnsuitableInput, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as exc:
        # pylibjpeg-rle panics with a BaseException, others raise what they like
        raise UnreadableImage(f"{path.name}: the pixels cannot be decoded: {type(exc).__name__}: {exc}") from exc
    if ds.PhotometricInterpretation == "MONOCHROME1":
        shown = 1 - shown
    return np.ascontiguousarray(shown, dtype=np.float32)


def _read(path: Path, max_pixels: int) -> Dataset:
    """Return the data set after its claims are checked against its bytes."""
    _check_claims(pydicom.dcmread(path, stop_before_pixels=True, force=True), path, max_pixels)
    ds = pydicom.dcmread(path, force=True)
    if "PixelData" not in ds:
        raise UnreadableImage(f"{path.name}: there is no Pixel Data")
    if ds.file_meta.TransferSyntaxUID.is_compressed and ds["PixelData"].is_undefined_length:
        _check_codestream(ds, path)
    return ds


def _check_claims(ds: Dataset, path: Path, max_pixels: int) -> None:
    claims = [ds.get(keyword) for keyword in ("Rows", "Columns", "BitsAllocated")]
    if not all(isinstance(claim, int) and claim > 0 for claim in claims):
        raise UnreadableImage(f"{path.name}: Rows, Columns and Bits Allocated are {claims}")
    photometric = ds.get("PhotometricInterpretation", "")
    if photometric not in ("MONOCHROME1", "MONOCHROME2") or ds.get("SamplesPerPixel", 1) != 1:
        raise UnsuitableInput(f"{photometric or 'an image without Photometric Interpretation'} is not a grey image")
    pixels = ds.Rows * ds.Columns * int(ds.get("NumberOfFrames") or 1)
    if pixels > max_pixels:
        raise UnreadableImage(f"{path.name}: {pixels} pixels are more than analysis.max_image_pixels ({max_pixels})")
    syntax = ds.file_meta.get("TransferSyntaxUID") if hasattr(ds, "file_meta") else None
    if syntax is None:
        raise UnreadableImage(f"{path.name}: there is no Transfer Syntax UID")
    expected = pixels * ds.BitsAllocated // 8
    if not syntax.is_compressed and not syntax.is_deflated and path.stat().st_size < expected:
        raise UnreadableImage(f"{path.name}: {expected} bytes of pixels expected, the file has {path.stat().st_size}")


def _check_codestream(ds: Dataset, path: Path) -> None:
    """Refuse a codestream that claims other dimensions than the header; repair a known fault of JPEG Extended."""
    frames = list(generate_frames(ds.PixelData, number_of_frames=int(ds.get("NumberOfFrames") or 1)))
    for frame in frames[:1]:
        claimed = dimensions(frame)
        if claimed is not None and claimed != (ds.Rows, ds.Columns):
            raise UnreadableImage(f"{path.name}: the codestream is {claimed}, the header says {(ds.Rows, ds.Columns)}")
    if ds.file_meta.TransferSyntaxUID == JPEGExtended12Bit:
        ds.PixelData = encapsulate([with_repaired_scan(frame) for frame in frames])


def _stored(ds: Dataset) -> NDArray[np.generic]:
    stored = pixel_array(ds, index=0)
    if stored.shape != (ds.Rows, ds.Columns):
        raise UnreadableImage(f"decoded to {stored.shape}, the header says {(ds.Rows, ds.Columns)}")
    return stored


def _display(stored: NDArray[np.generic], ds: Dataset, voi: Voi) -> FloatArray:
    """Return display values in 0..1 after Modality LUT and VOI, polarity not yet applied."""
    values = apply_modality_lut(stored, ds)
    if voi.method == "header":
        if ds.get("VOILUTSequence"):
            bits = int(ds.VOILUTSequence[0].LUTDescriptor[2])
            return np.clip(apply_voi(values, ds) / (2.0**bits - 1), 0, 1).astype(np.float32)
        found = _window(ds)
        if found is not None:
            return window(values.astype(np.float64), *found)
    return _by_percentile(values.astype(np.float64), stored, ds, voi)


def _window(ds: Dataset) -> tuple[float, float, str] | None:
    """Return centre, width and function of the first window; None where there is none that means anything."""
    centres, widths = ds.get("WindowCenter"), ds.get("WindowWidth")
    if centres in (None, "") or widths in (None, ""):
        return None
    centre, width = (float(np.atleast_1d(np.asarray(value, dtype=float))[0]) for value in (centres, widths))
    function = str(ds.get("VOILUTFunction") or "LINEAR")
    smallest = 1.0 if function == "LINEAR" else 0.0
    return (centre, width, function) if np.isfinite([centre, width]).all() and width > smallest else None


def window(values: Values, centre: float, width: float, function: str) -> FloatArray:
    """Return `values` seen through a window as 0..1. Standard: PS3.3 C.11.2.1.2 and C.11.2.1.3."""
    if function == "SIGMOID":
        shown = 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -60, 60)))
    elif function == "LINEAR_EXACT":
        shown = (values - centre) / width + 0.5
    else:
        shown = (values - (centre - 0.5)) / (width - 1) + 0.5
    return np.clip(shown, 0, 1).astype(np.float32)


def _by_percentile(values: Values, stored: NDArray[np.generic], ds: Dataset, voi: Voi) -> FloatArray:
    if not np.isfinite(values).all():
        raise UnreadableImage("the Modality LUT gives numbers that are not finite")
    padding = ds.get("PixelPaddingValue")
    inside = values[stored != padding] if padding is not None else values.ravel()
    if not inside.size:
        return np.zeros_like(values, dtype=np.float32)
    low, high = np.percentile(inside, [voi.low, voi.high])
    return clip_percentile(np.clip(values, low, high).astype(np.float32), 0, 100)
