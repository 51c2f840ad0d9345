"""Walking an encoded data set to its last byte, so that an incomplete object is never acknowledged.

Nothing is decoded but the attributes of `header.WANTED_TAGS`; every length is held against what is there. Refused is
what a reader cannot find its way through. Accepted is what real devices write: implicit VR under an explicit transfer
syntax and the other way round, UN of undefined length, unknown VRs, delimiters where none is needed, odd lengths,
elements out of order, and zero bytes, however many, after the last element.

Standard: PS3.5 section 7 (data set), 6.2.2 (UN), A.4 (encapsulated pixel data), A.5 (deflated).
"""

import mmap
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal, TypeAlias

from pydicom._dicom_dict import DicomDictionary

from dicomnode.domain.study import InstanceHeader
from dicomnode.errors import UnreadableObject
from dicomnode.network.header import WANTED_TAGS, header_of

MAX_LEVELS = 64
MAX_ELEMENTS = 2_000_000
MAX_INFLATED_BYTES = 256 << 20
MAX_WANTED_BYTES = 4096

Data: TypeAlias = bytes | memoryview | mmap.mmap

IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED_TRANSFER_SYNTAXES = frozenset(
    {"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"}
)  # Deflated Explicit VR Little Endian, JPIP Referenced Deflate, JPIP HTJ2K Referenced Deflate

_UNDEFINED = 0xFFFFFFFF
_PIXEL_DATA = 0x7FE00010
_ITEM, _ITEM_END, _SEQUENCE_END = 0xE000, 0xE00D, 0xE0DD
_SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_KNOWN_VRS = _SHORT_VRS | _LONG_VRS
_FRAGMENTED_VRS = frozenset({b"OB", b"OW"})
_IS_VR = re.compile(rb"[A-Z]{2}").fullmatch
_IS_BLANK_VR = re.compile(rb"[ ?-]{2}").fullmatch  # some writers' words for "unknown", in the short form
_SEQUENCE_TAGS = frozenset(tag for tag, entry in DicomDictionary.items() if entry[0] == "SQ")


@dataclass(frozen=True, slots=True)
class _Encoding:
    """How elements are written: `element` unpacks (group, element, VR, short length), `item` (.., .., length)."""

    is_explicit: bool
    byte_order: Literal["<", ">"]
    element: Callable[[Data, int], tuple[int, int, bytes, int]]
    item: Callable[[Data, int], tuple[int, int, int]]
    length: Callable[[Data, int], tuple[int]]


def _encoding(*, is_explicit: bool, byte_order: Literal["<", ">"]) -> _Encoding:
    return _Encoding(
        is_explicit=is_explicit,
        byte_order=byte_order,
        element=struct.Struct(f"{byte_order}HH2sH").unpack_from,
        item=struct.Struct(f"{byte_order}HHI").unpack_from,
        length=struct.Struct(f"{byte_order}I").unpack_from,
    )


_EXPLICIT_LITTLE = _encoding(is_explicit=True, byte_order="<")
_IMPLICIT_LITTLE = _encoding(is_explicit=False, byte_order="<")
_EXPLICIT_BIG = _encoding(is_explicit=True, byte_order=">")
_IMPLICIT_BIG = _encoding(is_explicit=False, byte_order=">")


class _Kind(Enum):
    DATA_SET = auto()
    SEQUENCE = auto()
    FRAGMENTS = auto()


@dataclass(slots=True)  # not frozen: made for every item, and freezing costs a microsecond
class _Frame:
    """A container that the walk is in; `end` is its own end, or the end of what holds it if its length is undefined."""

    kind: _Kind
    start: int
    end: int
    is_defined: bool
    encoding: _Encoding


def walk(data: Data, transfer_syntax_uid: str, max_inflated_bytes: int = MAX_INFLATED_BYTES) -> InstanceHeader:
    """Return what the data set says about itself, after every byte of it was accounted for.

    `data` is the data set as it was sent: no preamble, no file meta information. A transfer syntax not known here is
    read as Explicit VR Little Endian, as PS3.5 A.4 has it for all encapsulated ones.
    Raises `UnreadableObject` with the byte offset (of the inflated data set, if it is deflated).
    """
    if transfer_syntax_uid in DEFLATED_TRANSFER_SYNTAXES:
        data = _inflated(data, max_inflated_bytes)
    if transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN:
        encoding = _IMPLICIT_LITTLE
    elif transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN:
        encoding = _EXPLICIT_BIG
    else:
        encoding = _EXPLICIT_LITTLE
    encoding = _found_encoding(data, 0, len(data), encoding)
    if not encoding.is_explicit and encoding.byte_order == "<":  # written explicitly under an implicit syntax?
        encoding = _EXPLICIT_LITTLE if bytes(data[4:6]) in _KNOWN_VRS else encoding
    walker = _Walker(data, encoding)
    walker.run()
    return header_of(walker.values, transfer_syntax_uid, encoding.byte_order)


def _inflated(data: Data, max_bytes: int) -> bytes:
    inflater = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(data, max_bytes + 1)
    except zlib.error as exc:
        raise UnreadableObject(f"the deflated data set cannot be inflated: {exc}") from exc
    if len(inflated) > max_bytes:
        raise UnreadableObject(f"the deflated data set inflates to more than the limit of {max_bytes} bytes")
    if not inflater.eof:
        raise UnreadableObject(f"the deflated data set of {len(data)} bytes ends before its end was inflated")
    gzip_trailer = struct.pack("<II", zlib.crc32(inflated), len(inflated))  # some writers leave it on
    if inflater.unused_data.removeprefix(gzip_trailer).strip(b"\0"):
        raise UnreadableObject(f"{len(inflater.unused_data)} bytes follow the end of the deflated data set")
    return inflated


def _found_encoding(data: Data, pos: int, end: int, encoding: _Encoding) -> _Encoding:
    """Return `encoding`, or its implicit twin if the first element of a data set or an item has no VR."""
    vr = bytes(data[pos + 4 : pos + 6])
    if not encoding.is_explicit or end - pos < 8 or _IS_VR(vr) or _IS_BLANK_VR(vr):
        return encoding
    return _IMPLICIT_LITTLE if encoding.byte_order == "<" else _IMPLICIT_BIG


class _Walker:
    """The walk's state: where it is, what it is in, what it has read."""

    def __init__(self, data: Data, encoding: _Encoding) -> None:
        self.values: dict[int, bytes] = {}
        self._data = data
        self._elements = 0
        self._frames = [_Frame(_Kind.DATA_SET, 0, len(data), is_defined=True, encoding=encoding)]

    def run(self) -> None:
        """Walk; raises `UnreadableObject`."""
        pos = 0
        while self._frames:
            frame = self._frames[-1]
            if frame.kind is _Kind.SEQUENCE:
                pos = self._walk_sequence(pos, frame)
            elif frame.kind is _Kind.FRAGMENTS:
                pos = self._walk_fragments(pos, frame)
            elif frame.encoding.is_explicit:
                pos = self._walk_explicit(pos, frame)
            else:
                pos = self._walk_implicit(pos, frame)

    def _walk_explicit(self, pos: int, frame: _Frame) -> int:
        """Walk elements up to the end of the frame or into the next container; return where that is."""
        data, end, unpack, unpack_length = self._data, frame.end, frame.encoding.element, frame.encoding.length
        is_top, values, count = len(self._frames) == 1, self.values, self._elements
        while end - pos >= 8:
            group, element, vr, length = unpack(data, pos)
            value = pos + 8
            if vr not in _SHORT_VRS:
                if group == 0xFFFE or not group:
                    self._elements = count
                    after = self._past_delimiter(pos, frame)
                    if after is None:
                        return self._leave(pos + 8)
                    pos = after
                    continue
                if vr in _LONG_VRS or _IS_VR(vr):  # PS3.5 7.1.2: VRs to come have the long form
                    value = pos + 12
                    if value > end:
                        raise self._cut(pos, frame)
                    (length,) = unpack_length(data, pos + 8)
                elif not _IS_BLANK_VR(vr):  # a single implicit element among explicit ones
                    (length,) = unpack_length(data, pos + 4)
                tag = group << 16 | element
                if length == _UNDEFINED or vr == b"SQ":
                    self._elements = count + 1
                    return self._enter(pos, value, tag=tag, vr=vr, length=length)
            count += 1
            if length > end - value or count > MAX_ELEMENTS:
                raise self._too_much(pos, group << 16 | element, length, end - value)
            if is_top and group <= 0x0028 and (tag := group << 16 | element) in WANTED_TAGS:
                values[tag] = bytes(data[value : value + min(length, MAX_WANTED_BYTES)])
            pos = value + length
        self._elements = count
        return self._at_end(pos, frame)

    def _walk_implicit(self, pos: int, frame: _Frame) -> int:
        """Walk elements up to the end of the frame or into the next container; return where that is."""
        data, end, unpack = self._data, frame.end, frame.encoding.item
        is_top, values, count = len(self._frames) == 1, self.values, self._elements
        while end - pos >= 8:
            group, element, length = unpack(data, pos)
            if group == 0xFFFE or not group:
                self._elements = count
                after = self._past_delimiter(pos, frame)
                if after is None:
                    return self._leave(pos + 8)
                pos = after
                continue
            tag = group << 16 | element
            if length == _UNDEFINED or (tag in _SEQUENCE_TAGS and self._begins_item(pos + 8, frame)):
                self._elements = count + 1
                return self._enter(pos, pos + 8, tag=tag, vr=b"", length=length)
            count += 1
            pos += 8
            if length > end - pos or count > MAX_ELEMENTS:
                raise self._too_much(pos - 8, tag, length, end - pos)
            if is_top and tag in WANTED_TAGS:
                values[tag] = bytes(data[pos : pos + min(length, MAX_WANTED_BYTES)])
            pos += length
        self._elements = count
        return self._at_end(pos, frame)

    def _walk_sequence(self, pos: int, frame: _Frame) -> int:
        """Walk into the next item, or out of the sequence."""
        if pos == frame.end:
            return self._at_end(pos, frame)
        group, element, length = self._item(pos, frame)
        if group != 0xFFFE or element not in (_ITEM, _SEQUENCE_END):
            raise UnreadableObject(f"({group:04X},{element:04X}) at byte {pos} stands where an item must begin")
        if element == _SEQUENCE_END:
            if frame.is_defined:  # superfluous, and harmless if it is the last thing
                return pos + 8
            return self._leave(pos + 8)
        self._count(pos)
        start, is_defined = pos + 8, length != _UNDEFINED
        if is_defined and length > frame.end - start:
            raise self._too_much(pos, 0xFFFEE000, length, frame.end - start)
        end = start + length if is_defined else frame.end
        encoding = _found_encoding(self._data, start, end, frame.encoding) if length else frame.encoding
        if encoding is not frame.encoding and self._item(start, frame)[0] == 0xFFFE:
            encoding = frame.encoding  # an empty item of undefined length begins with its delimiter
        self._frames.append(_Frame(_Kind.DATA_SET, pos, end, is_defined, encoding))
        return start

    def _walk_fragments(self, pos: int, frame: _Frame) -> int:
        """Walk over all fragments of encapsulated pixel data to behind their delimiter."""
        while True:
            group, element, length = self._item(pos, frame)
            if group != 0xFFFE or element not in (_ITEM, _SEQUENCE_END):
                raise UnreadableObject(f"({group:04X},{element:04X}) at byte {pos} stands where a fragment must begin")
            if element == _SEQUENCE_END:
                return self._leave(pos + 8)
            self._count(pos)
            if length > frame.end - pos - 8:
                raise self._too_much(pos, 0xFFFEE000, length, frame.end - pos - 8)
            pos += 8 + length

    def _begins_item(self, pos: int, frame: _Frame) -> bool:
        """Return whether an item stands at `pos`: old devices wrote other VRs under tags that are sequences today."""
        return frame.end - pos >= 8 and frame.encoding.item(self._data, pos)[:2] == (0xFFFE, _ITEM)

    def _item(self, pos: int, frame: _Frame) -> tuple[int, int, int]:
        if frame.end - pos < 8:
            raise self._cut(pos, frame)
        return frame.encoding.item(self._data, pos)

    def _enter(self, pos: int, value: int, *, tag: int, vr: bytes, length: int) -> int:
        """Open the sequence or the fragments whose element begins at `pos`; return where its first item begins."""
        frame = self._frames[-1]
        self._elements -= 1
        self._count(pos)
        if length != _UNDEFINED and length > frame.end - value:
            raise self._too_much(pos, tag, length, frame.end - value)
        kind, encoding = _Kind.SEQUENCE, frame.encoding
        if length == _UNDEFINED and (vr in _FRAGMENTED_VRS or tag == _PIXEL_DATA):
            kind = _Kind.FRAGMENTS
        elif vr == b"UN":  # PS3.5 6.2.2: implicit VR little endian inside; some big endian writers keep their order
            is_little = frame.encoding.byte_order == "<" or bytes(self._data[value : value + 2]) == b"\xfe\xff"
            encoding = _IMPLICIT_LITTLE if is_little else _IMPLICIT_BIG
        elif vr in _LONG_VRS and vr != b"SQ":
            raise UnreadableObject(f"element {_name(tag)} at byte {pos} has VR {vr.decode()} and an undefined length")
        elif vr and not _IS_VR(vr):
            encoding = _IMPLICIT_LITTLE if frame.encoding.byte_order == "<" else _IMPLICIT_BIG
        if sum(open_frame.kind is _Kind.SEQUENCE for open_frame in self._frames) >= MAX_LEVELS:
            raise UnreadableObject(f"more than {MAX_LEVELS} levels of sequences at byte {pos} (the limit)")
        is_defined = length != _UNDEFINED
        self._frames.append(_Frame(kind, pos, value + length if is_defined else frame.end, is_defined, encoding))
        return value

    def _past_delimiter(self, pos: int, frame: _Frame) -> int | None:
        """Return where to go on after a tag of group FFFE or 0000 among elements; None if it ends the item."""
        group, element, length = frame.encoding.item(self._data, pos)
        if group == 0xFFFE and element == _ITEM_END and not length and len(self._frames) > 1:
            return pos + 8 if frame.is_defined else None
        if group == 0xFFFE and element in (_ITEM_END, _SEQUENCE_END) and not length and len(self._frames) == 1:
            return pos + 8
        if not group and len(self._frames) == 1 and not bytes(self._data[pos:]).strip(b"\0"):
            return frame.end
        raise UnreadableObject(f"({group:04X},{element:04X}) at byte {pos} stands where an element must begin")

    def _at_end(self, pos: int, frame: _Frame) -> int:
        """Leave a frame whose end is reached; fewer than 8 bytes may be left of a data set if they are zero padding."""
        is_padding = len(self._frames) == 1 and not bytes(self._data[pos : frame.end]).strip(b"\0")
        if not frame.is_defined or (pos != frame.end and not is_padding):
            raise self._cut(pos, frame)
        return self._leave(frame.end)

    def _leave(self, pos: int) -> int:
        self._frames.pop()
        return pos

    def _count(self, pos: int) -> None:
        self._elements += 1
        if self._elements > MAX_ELEMENTS:
            raise UnreadableObject(f"more than {MAX_ELEMENTS} elements at byte {pos} (the limit)")

    def _cut(self, pos: int, frame: _Frame) -> UnreadableObject:
        what = "sequence" if frame.kind is _Kind.SEQUENCE else "pixel data" if frame.kind is _Kind.FRAGMENTS else "item"
        what = "data set" if len(self._frames) == 1 else f"{what} that began at byte {frame.start}"
        return UnreadableObject(f"the {what} ends in the middle, at byte {pos} with {frame.end - pos} bytes left")

    def _too_much(self, pos: int, tag: int, length: int, left: int) -> UnreadableObject:
        if length <= left:
            return UnreadableObject(f"more than {MAX_ELEMENTS} elements at byte {pos} (the limit)")
        return UnreadableObject(f"element {_name(tag)} at byte {pos} says {length} bytes, but {left} are left")


def _name(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
