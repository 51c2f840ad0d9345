"""Stored values to display values in 0..1: Modality LUT, VOI, polarity, padding. Knows no torch.

Every step looks at one value at a time, so an image of up to 16 bits is shown through a table of all its values.
Standard: PS3.3 C.7.5.1.1.2 (padding), C.7.6.3.1.2 (polarity), C.11.1 (Modality LUT), C.11.2 (VOI LUT).
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from pydicom.dataset import Dataset

from dicomnode.errors import UnreadableImage
from dicomnode.inference.lookup import LookupTable, lookup_table

FloatArray = NDArray[np.float32]
Stored = NDArray[Any]
Values = NDArray[np.float64]
PIXELS_AT_ONCE = 1 << 18


class Voi(BaseModel):
    """Stored values to display values: `header` (VOI LUT or window; else percentiles) or always `percentile`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    method: Literal["header", "percentile"] = "header"
    low: float = Field(default=0.0, ge=0, lt=50)
    high: float = Field(default=100.0, gt=50, le=100)


def display(stored: Stored, ds: Dataset, voi: Voi) -> FloatArray:
    """Return `stored`, (rows, columns), as 0..1, where 1 is white and padding is black; `ds` has the attributes.

    Raises `UnreadableImage` if the attributes make no numbers of the values.
    """
    if stored.dtype.kind not in "iu" or stored.dtype.itemsize > 2:
        return _shown(stored, np.ones(stored.shape, np.int64), ds, voi)
    bits = 8 * stored.dtype.itemsize
    codes = np.ascontiguousarray(stored).view(f"u{stored.dtype.itemsize}").ravel()
    counts = sum(np.bincount(codes[part], minlength=1 << bits) for part in _parts(codes.size))
    table = _shown(np.arange(1 << bits, dtype=codes.dtype).view(stored.dtype), np.asarray(counts), ds, voi)
    shown = np.empty(codes.size, np.float32)
    for part in _parts(codes.size):
        shown[part] = table[codes[part]]
    return shown.reshape(stored.shape)


def _parts(size: int) -> Iterator[slice]:
    """Yield slices of `size` pixels: indexing all at once would take eight bytes a pixel more."""
    return (slice(at, at + PIXELS_AT_ONCE) for at in range(0, size, PIXELS_AT_ONCE))


def _shown(stored: Stored, counts: NDArray[np.int64], ds: Dataset, voi: Voi) -> FloatArray:
    """Return the display value of each of `stored`; `counts` says how many pixels have it."""
    values = _modality(stored, ds)
    if not np.isfinite(values[counts > 0]).all():
        raise UnreadableImage("the pixels or their Rescale Slope and Intercept give numbers that are not finite")
    padding = _is_padding(stored, ds)
    how = _view(values[counts > 0], ds) if voi.method == "header" else None
    shown = how(values) if how else _by_percentile(values, np.where(padding, 0, counts), voi)
    if ds.PhotometricInterpretation == "MONOCHROME1":
        shown = 1 - shown
    shown[padding] = 0
    return shown


def _modality(stored: Stored, ds: Dataset) -> Values:
    if ds.get("ModalityLUTSequence"):
        is_signed = ds.get("PixelRepresentation") == 1
        return _table(ds, "ModalityLUTSequence", "Modality LUT", is_signed=is_signed).apply(stored)
    values: Values = stored.astype(np.float64)
    slope, intercept = _number(ds, "RescaleSlope"), _number(ds, "RescaleIntercept")
    if slope is None or intercept is None:
        return values
    if slope == 0:
        raise UnreadableImage("Rescale Slope is 0: every pixel would be the same")
    values *= slope
    values += intercept
    return values


def _view(present: Values, ds: Dataset) -> Callable[[Values], FloatArray] | None:
    """Return the view that the header asks for, its VOI LUT before its window; `present` are the values in the image.

    PS3.3 C.11.2.1 lets an application choose where there are both; a table says more than a window.
    """
    if ds.get("VOILUTSequence"):
        found = _table(ds, "VOILUTSequence", "VOI LUT", is_signed=bool(present.min(initial=0) < 0))
        return lambda values: (found.apply(values) / ((1 << found.bits) - 1)).astype(np.float32)
    asked = _window(ds)
    return None if asked is None else lambda values: window(values, *asked)


def _table(ds: Dataset, keyword: str, name: str, *, is_signed: bool) -> LookupTable:
    is_little_endian = getattr(ds, "original_encoding", (None, None))[1] is not False
    return lookup_table(ds[keyword].value[0], name, is_signed=is_signed, is_little_endian=is_little_endian)


def _window(ds: Dataset) -> tuple[float, float, str] | None:
    """Return centre, width and function of the first window; None where there is none that means anything."""
    centre, width = _number(ds, "WindowCenter"), _number(ds, "WindowWidth")
    if centre is None or width is None:
        return None
    function = str(ds.get("VOILUTFunction") or "LINEAR")
    smallest = 1.0 if function == "LINEAR" else 0.0
    return (centre, width, function) if np.isfinite([centre, width]).all() and width > smallest else None


def _number(ds: Dataset, keyword: str) -> float | None:
    """Return the first value of a numeric attribute, None where it has none."""
    value = ds.get(keyword)
    return None if value is None or value == "" else float(np.atleast_1d(np.asarray(value, dtype=float))[0])


def window(values: Values, centre: float, width: float, function: str) -> FloatArray:
    """Return `values` seen through a window as 0..1. Standard: PS3.3 C.11.2.1.2 and C.11.2.1.3."""
    if function == "SIGMOID":
        shown = 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -60, 60)))
    elif function == "LINEAR_EXACT":
        shown = (values - centre) / width + 0.5
    else:
        shown = (values - (centre - 0.5)) / (width - 1) + 0.5
    return np.clip(shown, 0, 1).astype(np.float32)


def _is_padding(stored: Stored, ds: Dataset) -> NDArray[np.bool_]:
    """Return which stored values are padding: one value, or all from it to the limit of its range."""
    prefix = (
        "Float" if "FloatPixelPaddingValue" in ds else "DoubleFloat" if "DoubleFloatPixelPaddingValue" in ds else ""
    )
    value, limit = ds.get(f"{prefix}PixelPaddingValue"), ds.get(f"{prefix}PixelPaddingRangeLimit")
    ends = [_as_stored(end, stored) for end in (value, limit) if isinstance(end, int | float)]
    if not isinstance(value, int | float):
        return np.zeros(stored.shape, bool)
    return np.asarray((stored >= min(ends)) & (stored <= max(ends)))


def _as_stored(value: float, stored: Stored) -> float:
    """Return a padding value with the sign of the pixels: real files write 63536 for -2000 and the other way round."""
    if stored.dtype.kind == "f" or stored.dtype.itemsize > 2:
        return value
    return int(np.int64(value).astype(np.uint16).astype(f"{stored.dtype.kind}2"))


def _by_percentile(values: Values, counts: NDArray[np.int64], voi: Voi) -> FloatArray:
    """Return `values` with the percentiles of the image at 0 and 1; an image of one value, or of none, is black."""
    if not counts.any():
        return np.zeros(values.shape, np.float32)
    low, high = _percentiles(values.ravel(), counts.ravel(), (voi.low, voi.high))
    if not high > low:
        return np.zeros(values.shape, np.float32)
    return np.clip((values - low) / (high - low), 0, 1).astype(np.float32)


def _percentiles(values: Values, counts: NDArray[np.int64], wanted: tuple[float, float]) -> tuple[float, float]:
    """Return percentiles of `values`, each there `counts` times, as `np.percentile` of all of them would."""
    order = np.argsort(values)
    order = order[counts[order] > 0]
    ends = np.cumsum(counts[order])
    place = np.asarray(wanted) / 100 * (ends[-1] - 1)
    below, above = (values[order[np.searchsorted(ends, step(place), side="right")]] for step in (np.floor, np.ceil))
    low, high = below + (above - below) * (place - np.floor(place))
    return float(low), float(high)
