"""What a compressed frame says of itself, read and held against the header before any decoder sees it.

Standard: ISO/IEC 10918-1 B.2 (JPEG markers), 14495-1 C.2 (JPEG-LS), 15444-1 A.5.1 (JPEG 2000 SIZ); PS3.5 annex G (RLE).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pydicom.uid import UID, JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes, RLELossless

from dicomnode.errors import UnreadableImage

_SOF = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_DHP, _SOS, _EOI, _J2K_SIZ = 0xDE, 0xDA, 0xD9, b"\xff\x4f\xff\x51"
_RLE_HEADER = 64
_FAMILIES = {
    **dict.fromkeys(JPEGTransferSyntaxes, "JPEG"),
    **dict.fromkeys(JPEGLSTransferSyntaxes, "JPEG-LS"),
    **dict.fromkeys(JPEG2000TransferSyntaxes, "JPEG 2000"),
}


@dataclass(frozen=True)
class Claim:
    """What a codestream, or the header of the image, says of a frame; `precision` is bits of a sample."""

    rows: int
    columns: int
    components: int
    precision: int

    def __str__(self) -> str:
        return f"{self.rows} x {self.columns} pixels of {self.components} x {self.precision} bits"


def check(frame: bytes, syntax: UID, header: Claim) -> None:
    """Raise `UnreadableImage` if `frame` is no codestream of its transfer syntax or contradicts the image's header.

    `header.precision` is Bits Allocated: a codestream may use fewer bits.
    """
    if syntax == RLELossless:
        _check_rle(frame, header)
        return
    family = _FAMILIES.get(syntax)
    if family is None:
        return
    claims = list(_siz(frame) if family == "JPEG 2000" else _frame_headers(frame))
    if not claims:
        raise UnreadableImage(f"the pixels cannot be decoded: the frame holds no {family} codestream")
    for claim in claims:
        same = (claim.rows, claim.columns, claim.components) == (header.rows, header.columns, header.components)
        if not same or not 1 <= claim.precision <= header.precision:
            raise UnreadableImage(f"the codestream is {claim}, the header says {header}")


def _siz(frame: bytes) -> Iterator[Claim]:
    """Yield what the SIZ segment of a JPEG 2000 codestream says; some devices wrap the codestream in a JP2 file."""
    at = frame[:4096].find(_J2K_SIZ)
    if at >= 0 and len(frame) >= at + 43:
        columns, rows, left, top = (int.from_bytes(frame[at + n : at + n + 4], "big") for n in (8, 12, 16, 20))
        components = int.from_bytes(frame[at + 40 : at + 42], "big")
        yield Claim(rows - top, columns - left, components, (frame[at + 42] & 0x7F) + 1)


def _frame_headers(frame: bytes) -> Iterator[Claim]:
    """Yield what each frame header (SOF, DHP) of a JPEG or JPEG-LS codestream says, up to the first scan."""
    for marker, start, end in _segments(frame):
        if (marker in _SOF or marker == _DHP) and end - start >= 8 and len(frame) >= start + 8:
            rows, columns = (int.from_bytes(frame[start + n : start + n + 2], "big") for n in (3, 5))
            yield Claim(rows, columns, frame[start + 7], frame[start + 2])


def _check_rle(frame: bytes, header: Claim) -> None:
    if len(frame) < _RLE_HEADER:
        raise UnreadableImage(f"the pixels cannot be decoded: {len(frame)} bytes are no RLE frame")
    count, *offsets = (int.from_bytes(frame[n : n + 4], "little") for n in range(0, _RLE_HEADER, 4))
    wanted = header.components * header.precision // 8
    if count != wanted:
        raise UnreadableImage(
            f"the pixels cannot be decoded: the RLE frame has {count} segments, the header asks for {wanted}"
        )
    used = [_RLE_HEADER, *offsets[1:count], len(frame)]
    if offsets[0] != _RLE_HEADER or sorted(set(used)) != used:
        raise UnreadableImage("the pixels cannot be decoded: the segments of the RLE frame are not inside it in order")


def with_repaired_scan(frame: bytes) -> bytes:
    """Return a sequential JPEG frame whose scan header ends in 00 3F 00: some devices write 00 00 00 there."""
    for marker, _, end in _segments(frame):
        if marker == _SOS and frame[end - 3 : end] == b"\0\0\0":
            return frame[: end - 3] + b"\0\x3f\0" + frame[end:]
    return frame


def _segments(frame: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each JPEG segment (start at its length field) up to the first scan."""
    at = 2 if frame[:2] == b"\xff\xd8" else len(frame)
    while at + 4 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        end = at + 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
        yield marker, at + 2, end
        if marker in (_SOS, _EOI):
            return
        at = end
