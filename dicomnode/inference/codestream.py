"""What a compressed frame says of itself, read before any decoder sees it.

Standard: ISO/IEC 10918-1 B.2 (JPEG markers), 14495-1 C.2 (JPEG-LS), 15444-1 A.5.1 (JPEG 2000 SIZ).
"""

from collections.abc import Iterator

_SOF = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_SOS, _EOI, _J2K_SIZ = 0xDA, 0xD9, b"\xff\x4f\xff\x51"


def dimensions(frame: bytes) -> tuple[int, int] | None:
    """Return (rows, columns) that a JPEG, JPEG-LS or JPEG 2000 codestream claims; None where it is none of them."""
    siz = frame[:4096].find(_J2K_SIZ)
    if siz >= 0 and len(frame) >= siz + 24:
        width, height, left, top = (int.from_bytes(frame[siz + at : siz + at + 4], "big") for at in (8, 12, 16, 20))
        return height - top, width - left
    for marker, start, end in _segments(frame):
        if marker in _SOF and end - start >= 7:
            return int.from_bytes(frame[start + 3 : start + 5], "big"), int.from_bytes(
                frame[start + 5 : start + 7], "big"
            )
    return None


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
