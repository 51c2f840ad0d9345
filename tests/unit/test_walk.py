"""What the walk accepts, what it refuses, and that nothing but `UnreadableObject` ever leaves it."""

import contextlib
import struct
import zlib
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence

from dicomnode.errors import UnreadableObject
from dicomnode.network import walk as walk_module
from dicomnode.network.walk import MAX_LEVELS, walk

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
BIG, DEFLATED, JPEG = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.50"
STUDY, SERIES, INSTANCE, SOP_CLASS = "1.2.3", "1.2.3.4", "1.2.3.4.5", "1.2.840.10008.5.1.4.1.1.2"


def element(tag: int, vr: bytes, value: bytes, *, length: int | None = None) -> bytes:
    """Explicit VR little endian, with a length that may lie."""
    length = len(value) if length is None else length
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr
    if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT") or vr == b"ZZ":
        return head + b"\0\0" + struct.pack("<I", length) + value
    return head + struct.pack("<H", length) + value


def implicit(tag: int, value: bytes, *, length: int | None = None) -> bytes:
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value) if length is None else length) + value


def item(value: bytes, *, length: int | None = None) -> bytes:
    return implicit(0xFFFEE000, value, length=length)


ITEM_END, SEQUENCE_END = implicit(0xFFFEE00D, b""), implicit(0xFFFEE0DD, b"")
UNDEFINED = 0xFFFFFFFF
UIDS = (
    element(0x00080016, b"UI", SOP_CLASS.encode() + b"\0")
    + element(0x00080018, b"UI", INSTANCE.encode() + b"\0")
    + element(0x0020000D, b"UI", STUDY.encode() + b"\0")
    + element(0x0020000E, b"UI", SERIES.encode() + b"\0")
)
NAME = element(0x00100010, b"PN", b"Doe^Jane")


def ct_dataset(pixel_bytes: int = 512) -> Dataset:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SOPClassUID, ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID = SOP_CLASS, INSTANCE, STUDY, SERIES
    ds.StudyDate, ds.StudyTime, ds.Modality, ds.PatientName = "20260102", "030405", "CT", "Müller^Ä"
    ds.PatientID, ds.InstanceNumber, ds.Rows, ds.Columns = "P1", 7, 16, 300
    inner = Dataset()
    inner.CodeValue, inner.CodingSchemeDesignator, inner.CodeMeaning = "1", "99X", "one"
    outer = Dataset()
    outer.ReferencedSOPInstanceUID, outer.PurposeOfReferenceCodeSequence = "1.9", Sequence([inner])
    ds.ReferencedImageSequence = Sequence([outer, Dataset()])
    ds.PixelData = bytes(range(256)) * (pixel_bytes // 256)
    ds["PixelData"].VR = "OW"
    return ds


def encoded(ds: Dataset, *, is_implicit: bool = False, is_little: bool = True) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = is_implicit, is_little
    write_dataset(buffer, ds)
    return buffer.getvalue()


def deflated(data: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(data) + deflater.flush()


CT = ct_dataset()
CT_EXPLICIT = encoded(CT)
ENCODED = {
    "implicit": (IMPLICIT, encoded(CT, is_implicit=True)),
    "explicit": (EXPLICIT, CT_EXPLICIT),
    "big endian": (BIG, encoded(CT, is_little=False)),
    "deflated": (DEFLATED, deflated(CT_EXPLICIT)),
    "implicit under an explicit syntax": (EXPLICIT, encoded(CT, is_implicit=True)),
    "implicit under a private syntax": ("1.2.840.113619.5.2", encoded(CT, is_implicit=True)),
    "explicit under the implicit syntax": (IMPLICIT, CT_EXPLICIT),
}


@pytest.mark.parametrize(("syntax", "data"), ENCODED.values(), ids=ENCODED.keys())
def test_the_header_is_the_same_in_every_encoding(syntax, data):
    header = walk(data, syntax)

    assert (header.sop_class_uid, header.sop_instance_uid) == (SOP_CLASS, INSTANCE)
    assert (header.study_instance_uid, header.series_instance_uid) == (STUDY, SERIES)
    assert header.transfer_syntax_uid == syntax
    assert header.attributes == {
        "SpecificCharacterSet": "ISO_IR 100",
        "StudyDate": "20260102",
        "StudyTime": "030405",
        "Modality": "CT",
        "PatientName": "Müller^Ä",
        "PatientID": "P1",
        "InstanceNumber": "7",
        "Rows": "16",
        "Columns": "300",
    }


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_can_be_walked(kind):
    assert walk(kind(CT_EXPLICIT), EXPLICIT).sop_instance_uid == INSTANCE


def _borders(data: bytes, syntax: str) -> set[int]:
    """Offsets between two elements of the top level, by a second, simpler reading (pydicom's)."""
    from pydicom.filereader import data_element_generator

    buffer, borders = BytesIO(data), {0}
    for _ in data_element_generator(buffer, syntax == IMPLICIT, syntax != BIG):
        borders.add(buffer.tell())
    return borders


@pytest.mark.parametrize("name", ["implicit", "explicit", "big endian"])
def test_every_cut_inside_an_element_is_refused(name):
    syntax, data = ENCODED[name]
    borders = _borders(data, syntax)
    accepted = set()
    for length in range(len(data)):
        try:
            walk(data[:length], syntax)
            accepted.add(length)
        except UnreadableObject:
            pass
    lone_zeros = {border + 1 for border in borders if data[border : border + 1] == b"\0"}  # looks like padding
    assert accepted <= borders | lone_zeros
    assert len(accepted) < len(borders | lone_zeros)
    assert all(length > data.index(b"1.2.3.4\0") for length in accepted)


def test_every_cut_of_a_deflated_data_set_is_refused():
    syntax, data = ENCODED["deflated"]
    for length in range(len(data)):
        with pytest.raises(UnreadableObject):
            walk(data[:length], syntax)


FRAGMENTS = element(0x7FE00010, b"OB", item(b"") + item(b"\xff\xd8\xff\xd9") + SEQUENCE_END, length=UNDEFINED)
NESTED = element(0x00081140, b"SQ", item(NAME + ITEM_END, length=UNDEFINED) + SEQUENCE_END, length=UNDEFINED)
UN_IMPLICIT = item(implicit(0x00081150, b"1.2\0") + ITEM_END, length=UNDEFINED) + SEQUENCE_END
ODD_BUT_WHOLE = {
    "encapsulated pixel data": UIDS + FRAGMENTS,
    "sequence of undefined length": UIDS + NESTED,
    "sequence with an empty item of undefined length": UIDS
    + element(0x00081140, b"SQ", item(ITEM_END, length=UNDEFINED) + SEQUENCE_END, length=UNDEFINED),
    "sequence without items": UIDS + element(0x00081140, b"SQ", b""),
    "sequence that ends with its delimiter too": UIDS + element(0x00081140, b"SQ", item(NAME) + SEQUENCE_END),
    "item that ends with its delimiter too": UIDS + element(0x00081140, b"SQ", item(NAME + ITEM_END)),
    "UN of undefined length is implicit": UIDS + element(0x00091001, b"UN", UN_IMPLICIT, length=UNDEFINED),
    "implicit item in an explicit data set": UIDS + element(0x00081140, b"SQ", item(implicit(0x00081150, b"1.2\0"))),
    "VR to come in the long form": UIDS + element(0x00091001, b"ZZ", b"abcd"),
    "VR of two spaces in the short form": UIDS + element(0x00280120, b"  ", b"\0\0"),
    "single implicit element": UIDS + implicit(0x00091001, b"abcd"),
    "odd length": UIDS + element(0x00100010, b"PN", b"Doe"),
    "zero length": UIDS + element(0x00100010, b"PN", b""),
    "out of order": NAME + UIDS + element(0x00080060, b"CS", b"CT"),
    "private elements": UIDS + element(0x00090010, b"LO", b"ACME") + element(0x00091001, b"UN", b"abcd"),
    "data set trailing padding": UIDS + element(0xFFFCFFFC, b"OB", bytes(6)),
    "one zero byte behind": UIDS + b"\0",
    "many zero bytes behind": UIDS + bytes(4097),
    "stray sequence delimiter": UIDS + SEQUENCE_END + NAME,
    "group lengths": element(0x00080000, b"UL", struct.pack("<I", 99)) + UIDS,
}


@pytest.mark.parametrize("data", ODD_BUT_WHOLE.values(), ids=ODD_BUT_WHOLE.keys())
def test_what_devices_write_is_accepted(data):
    assert walk(data, JPEG).study_instance_uid == STUDY


def test_a_value_under_a_tag_that_is_a_sequence_today_is_accepted():
    old = encoded(CT, is_implicit=True) + implicit(0x0040A170, b"SAMEEVENT ")
    assert walk(old, IMPLICIT).sop_instance_uid == INSTANCE


def test_a_gzip_trailer_behind_a_deflated_data_set_is_accepted():
    trailer = struct.pack("<II", zlib.crc32(CT_EXPLICIT), len(CT_EXPLICIT))
    assert walk(deflated(CT_EXPLICIT) + trailer, DEFLATED).sop_instance_uid == INSTANCE


def nested(levels: int) -> bytes:
    opening = element(0x00081140, b"SQ", b"", length=UNDEFINED) + item(b"", length=UNDEFINED)
    return opening * levels + (ITEM_END + SEQUENCE_END) * levels


BROKEN = {
    "empty": (b"", "SOPClassUID"),
    "text": (b"GET / HTTP/1.1\r\nHost: pacs\r\n\r\n", "at byte"),
    "length beyond the end": (UIDS + element(0x00100010, b"PN", b"Doe", length=4), "at byte 82 says 4 bytes, but 3"),
    "4 GiB": (UIDS + element(0x7FE00010, b"OW", b"ab", length=0xFFFFFFFE), "4294967294 bytes, but 2"),
    "seven bytes": (UIDS + NAME[:7], "ends in the middle"),
    "bytes behind that are not zero": (UIDS + b"\0\0\1", "ends in the middle"),
    "fragments without delimiter": (UIDS + FRAGMENTS[:-8], "pixel data that began at byte 82"),
    "fragment beyond the end": (
        UIDS + element(0x7FE00010, b"OB", item(b"ab", length=64), length=UNDEFINED),
        "says 64 bytes, but 2 are left",
    ),
    "no item in a sequence": (UIDS + element(0x00081140, b"SQ", NAME), "where an item must begin"),
    "sequence cut": (UIDS + NESTED[:-8], "ends in the middle"),
    "item cut": (UIDS + NESTED[:-16], "ends in the middle"),
    "item larger than its sequence": (
        UIDS + element(0x00081140, b"SQ", item(NAME), length=16),
        "(FFFE,E000) at byte 94 says 16 bytes, but 8 are left",
    ),
    "element larger than its item": (
        UIDS + element(0x00081140, b"SQ", item(element(0x00100010, b"PN", b"Doe^Jane", length=9))),
        "says 9 bytes, but 8 are left",
    ),
    "text of undefined length": (UIDS + element(0x00091001, b"UT", b"", length=UNDEFINED), "an undefined length"),
    "no study": (UIDS.replace(b"\x20\x00\x0d\x00", b"\x20\x00\x0c\x00"), "no StudyInstanceUID"),
    "UID with a path": (UIDS.replace(b"1.2.3.4.5\0", b"../../etc\0"), "SOPInstanceUID of the data set is no UID"),
    "UID of 65 characters": (
        UIDS.replace(element(0x0020000E, b"UI", b"1.2.3.4\0"), element(0x0020000E, b"UI", b"1." + b"2" * 63)),
        "SeriesInstanceUID of the data set is no UID (65 bytes)",
    ),
    "too deep": (UIDS + nested(MAX_LEVELS + 1), "more than 64 levels"),
    "50,000 levels": (UIDS + nested(50_000), "more than 64 levels"),
}


@pytest.mark.parametrize(("data", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_what_is_broken_is_refused_in_words(data, words):
    with pytest.raises(UnreadableObject) as raised:
        walk(data, EXPLICIT)
    assert words in str(raised.value)


def test_64_levels_are_accepted():
    assert walk(UIDS + nested(MAX_LEVELS), EXPLICIT).sop_instance_uid == INSTANCE


def test_a_uid_of_64_characters_is_accepted():
    uid = b"1." + b"2" * 62
    data = UIDS.replace(element(0x0020000E, b"UI", b"1.2.3.4\0"), element(0x0020000E, b"UI", uid))
    assert walk(data, EXPLICIT).series_instance_uid == uid.decode()


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_the_limit_of_elements_is_named(monkeypatch, syntax):
    monkeypatch.setattr(walk_module, "MAX_ELEMENTS", 100)
    more = element(0x00091001, b"LO", b"") if syntax == EXPLICIT else implicit(0x00091001, b"")
    head = UIDS if syntax == EXPLICIT else encoded(CT, is_implicit=True)
    with pytest.raises(UnreadableObject, match="more than 100 elements"):
        walk(head + more * 101, syntax)


@pytest.mark.parametrize("limited", ["fragments", "items"])
def test_fragments_and_items_count_as_elements(monkeypatch, limited):
    monkeypatch.setattr(walk_module, "MAX_ELEMENTS", 100)
    tag, vr = (0x7FE00010, b"OB") if limited == "fragments" else (0x00081140, b"SQ")
    with pytest.raises(UnreadableObject, match="more than 100 elements"):
        walk(UIDS + element(tag, vr, item(b"") * 101 + SEQUENCE_END, length=UNDEFINED), EXPLICIT)


def test_a_deflate_bomb_is_refused_at_the_limit():
    bomb = deflated(UIDS + bytes(50_000_000))
    assert len(bomb) < 100_000
    with pytest.raises(UnreadableObject, match="more than the limit of 1000000 bytes"):
        walk(bomb, DEFLATED, max_inflated_bytes=1_000_000)


@pytest.mark.parametrize("trailing", [b"x", b"\0\0\0x"])
def test_bytes_behind_a_deflated_data_set_are_refused(trailing):
    with pytest.raises(UnreadableObject, match="follow the end"):
        walk(deflated(CT_EXPLICIT) + trailing, DEFLATED)


CHARACTER_SETS = {
    "none": ("", "Müller", "latin-1", "Müller"),
    "latin 1": ("ISO_IR 100", "Müller", "latin-1", "Müller"),
    "misspelt": ("ISO-IR 100", "Müller", "latin-1", "Müller"),
    "UTF-8": ("ISO_IR 192", "Ωμέγα^山田", "utf-8", "Ωμέγα^山田"),
    "Cyrillic": ("ISO_IR 144", "Люк", "iso8859-5", "Люк"),
    "GB18030": ("GB18030", "王^小", "gb18030", "王^小"),
    "Japanese with escapes": (
        "\\ISO 2022 IR 87", "Yamada=山田", "iso2022_jp", "Yamada=山田",
    ),
    "unknown": ("KLINGON", "Müller", "latin-1", "M\N{REPLACEMENT CHARACTER}ller"),
    "not what it says": ("ISO_IR 192", "Müller", "latin-1", "M\N{REPLACEMENT CHARACTER}ller"),
    "broken escape": ("\\ISO 2022 IR 87", "\x1bzabc", "latin-1", "\x1bzabc"),
}  # fmt: skip


@pytest.mark.parametrize(("terms", "text", "codec", "expected"), CHARACTER_SETS.values(), ids=CHARACTER_SETS.keys())
def test_text_is_decoded_with_its_character_set(terms, text, codec, expected):
    charset = element(0x00080005, b"CS", terms.encode()) if terms else b""
    data = charset + UIDS + element(0x00100010, b"PN", text.encode(codec))
    assert walk(data, EXPLICIT).attributes["PatientName"] == expected


def test_long_text_is_cut_and_an_empty_value_left_out():
    data = UIDS + element(0x00081030, b"LO", b"x" * 5000) + element(0x00100020, b"LO", b"  ")
    attributes = walk(data, EXPLICIT).attributes
    assert attributes == {"StudyDescription": "x" * 1024}


def test_attributes_inside_sequences_are_not_the_top_levels():
    assert "PatientName" not in walk(UIDS + NESTED, EXPLICIT).attributes


SEEDS = [*ENCODED.values(), *((JPEG, data) for data in ODD_BUT_WHOLE.values())]


@settings(max_examples=600, deadline=1000)
@given(st.data())
def test_mutated_data_sets_are_walked_or_refused_and_nothing_else(data):
    syntax, seed = data.draw(st.sampled_from(SEEDS))
    mutated = bytearray(seed)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(mutated)))
        piece = data.draw(st.one_of(st.binary(max_size=12), st.sampled_from([ITEM_END, SEQUENCE_END, b"\xff" * 4])))
        mutated[at : at + data.draw(st.integers(0, 12))] = piece
    with contextlib.suppress(UnreadableObject):
        header = walk(bytes(mutated), data.draw(st.sampled_from([syntax, EXPLICIT, IMPLICIT, BIG, DEFLATED])))
        assert all(len(text) <= 1024 for text in header.attributes.values())


@settings(max_examples=300, deadline=1000)
@given(st.binary(max_size=300), st.sampled_from([EXPLICIT, IMPLICIT, BIG, DEFLATED, JPEG]))
def test_random_bytes_are_refused(data, syntax):
    with pytest.raises(UnreadableObject):
        walk(data, syntax)
