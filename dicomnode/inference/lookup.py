"""Lookup tables of an image: Modality LUT and VOI LUT, as real files write them.

pydicom's own functions fail on 8-bit tables in OW, on widths of 9 bits and on a first value below 0 of unsigned pixels.
Standard: PS3.3 C.11.1.1.1 and C.11.2.1.1 (LUT Descriptor), PS3.5 8.2 (a descriptor's VR is US or SS).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from dicomnode.errors import UnreadableImage

Values = NDArray[np.float64]
WORD = 0xFFFF


@dataclass(frozen=True)
class LookupTable:
    """`entries[0]` is for the input `first` and all below it, the last one for all above; `bits` is their width."""

    entries: NDArray[np.uint16]
    first: int
    bits: int

    def apply(self, values: NDArray[Any]) -> Values:
        """Return the entry of each value, which is rounded to a whole number."""
        number = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1).astype(np.intp)
        found: Values = self.entries[number].astype(np.float64)
        return found


def lookup_table(item: Dataset, name: str, *, is_signed: bool, is_little_endian: bool) -> LookupTable:
    """Return the table in a LUT sequence's `item`; `is_signed` says whether its input has values below 0.

    Raises `UnreadableImage` that says `name` if it has no descriptor or fewer entries than its descriptor says.
    """
    descriptor = item.get("LUTDescriptor")
    if descriptor is None or "LUTData" not in item or len(np.atleast_1d(descriptor)) != 3:
        raise UnreadableImage(f"the {name} has no LUT Descriptor of three numbers or no LUT Data")
    count, first, bits = (int(number) for number in descriptor)
    count = count & WORD or WORD + 1  # 65536 entries are written as 0, and 40000 may have been read as a signed number
    if is_signed and first > WORD // 2:
        first -= WORD + 1
    entries = _entries(item.LUTData, count, bits, is_little_endian)
    if len(entries) < count:
        raise UnreadableImage(f"the {name} has {len(entries)} entries, its LUT Descriptor says {count}")
    entries = entries[:count]
    widest = int(entries.max()).bit_length()
    return LookupTable(entries, first, bits if max(widest, 1) <= bits <= 16 else max(widest, 8))


def _entries(data: Any, count: int, bits: int, is_little_endian: bool) -> NDArray[np.uint16]:
    """Return the entries of LUT Data: bytes or numbers, one a word or, up to 8 bits, two a word."""
    order = "<" if is_little_endian else ">"
    if isinstance(data, bytes):
        words = np.frombuffer(data[: len(data) // 2 * 2], f"{order}u2")
    else:
        words = (np.atleast_1d(data).astype(np.int64) & WORD).astype(f"{order}u2")
    if bits <= 8 and len(words) == (count + 1) // 2 < count:
        return words.astype("<u2").view(np.uint8).astype(np.uint16)  # the low byte comes first
    return words.astype(np.uint16)
