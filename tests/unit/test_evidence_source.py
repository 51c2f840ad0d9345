"""Every header that a hospital has sent and a library has refused gives results that name the right patient."""

import copy
import io
import warnings
from collections.abc import Callable
from dataclasses import replace

import pydicom
import pytest
from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword

from dicomnode.domain.findings import BundleResult
from dicomnode.evidence import Case, _source, encoded, find_encoders
from dicomnode.evidence._invented import invented_case

Change = Callable[[Dataset], None]
ENCODERS = find_encoders()


def put(**values: object) -> Change:
    """Return a change that writes values as they are, however odd."""

    def change(ds: Dataset) -> None:
        for keyword, value in values.items():
            tag = tag_for_keyword(keyword)
            assert tag is not None
            ds[tag] = DataElement(tag, dictionary_VR(tag), value, validation_mode=0)

    return change


def drop(*keywords: str) -> Change:
    def change(ds: Dataset) -> None:
        for keyword in keywords:
            del ds[keyword]

    return change


def raw(keyword: str, value: bytes, charset: str | list[str] | None = None) -> Change:
    """Return a change that writes bytes as a device wrote them, whatever the character set says."""

    def change(ds: Dataset) -> None:
        if charset is None:
            del ds.SpecificCharacterSet
        else:
            put(SpecificCharacterSet=charset)(ds)
        tag = pydicom.tag.Tag(keyword)
        ds[tag] = pydicom.dataelem.RawDataElement(tag, dictionary_VR(tag), len(value), value, 0, False, True)

    return change


def nested_kanji(ds: Dataset) -> None:
    put(SpecificCharacterSet=["", "ISO 2022 IR 87"])(ds)
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "99X", "胸部"
    ds.ProcedureCodeSequence = [item]


def an_order(ds: Dataset) -> None:
    item = Dataset()
    item.RequestedProcedureID = "RP-7"
    ds.RequestAttributesSequence = [item]


def private_elements(ds: Dataset) -> None:
    ds.private_block(0x0011, "SOMEBODY", create=True).add_new(1, "LO", "secret")


IDENTIFIERS = ("PatientName", "PatientID", "AccessionNumber", "StudyID", "ReferringPhysicianName")
KANJI = "Yamada^Tarou=山田^太郎=やまだ^たろう"
AWKWARD = {
    **{f"no {keyword}": drop(keyword) for keyword in _source.REQUIRED},
    "everything of Type 2 empty": put(**dict.fromkeys(_source.REQUIRED)),
    "kanji in ISO 2022 IR 87": put(SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName=KANJI),
    "kanji in ISO 2022 IR 13 and 87": put(SpecificCharacterSet=["ISO 2022 IR 13", "ISO 2022 IR 87"], PatientName=KANJI),
    "korean": put(SpecificCharacterSet=["", "ISO 2022 IR 149"], PatientName="Hong^Gildong=洪^吉洞=홍^길동"),
    "GB18030": put(SpecificCharacterSet="GB18030", PatientName="Wang^XiaoDong=王^小东"),
    "umlaut in ISO_IR 100": put(SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jürgen"),
    "cyrillic": put(SpecificCharacterSet="ISO_IR 144", PatientName="Люк^Иван"),
    "latin 1 without a character set": raw("PatientName", b"M\xfcller^J\xfcrgen "),
    "UTF-8 declared, latin 1 written": raw("PatientName", b"M\xfcller^J\xfcrgen ", "ISO_IR 192"),
    "unknown character set": raw("PatientName", b"Mueller^J ", "ISO_IR 999"),
    "misspelt character set": raw("PatientName", b"M\xfcller^J", "ISO IR 100"),
    "sex U": put(PatientSex="U"),
    "sex in words": put(PatientSex="FEMALE"),
    "birth year only": put(PatientBirthDate="1950"),
    "birth date with dots": put(PatientBirthDate="1950.01.02"),
    "birth date of zeros": put(PatientBirthDate="00000000"),
    "study time with nine decimals": put(StudyTime="101010.123456789"),
    "study time with colons": put(StudyTime="10:11:12"),
    "study time that is none": put(StudyTime="996199"),
    "empty PatientOrientation": put(PatientOrientation=None, ImagerPixelSpacing=["0.1", "0.1"]),
    "one PatientOrientation": put(PatientOrientation="L", ImagerPixelSpacing=["0.1", "0.1"]),
    "PixelSpacing instead of ImagerPixelSpacing": put(PatientOrientation=["L", "F"], PixelSpacing=["0.1", "0.1"]),
    "ImagerPixelSpacing of zero": put(PatientOrientation=["L", "F"], ImagerPixelSpacing=["0", "0"]),
    "weight in words": raw("PatientWeight", b"unknown ", "ISO_IR 192"),
    "age in words": put(PatientAge="47 years"),
    "name of 80 letters": put(PatientName="A" * 40 + "^" + "B" * 40),
    "name with four carets and spaces": put(PatientName="  Doe ^Jane^^^Dr.^x"),
    "name with a line break": put(PatientName="Doe\r\n^Jane"),
    "id of 70 letters": put(PatientID="9" * 70),
    "id with a backslash": put(PatientID=["12", "34"]),
    "accession number of 20 letters": put(AccessionNumber="A" * 20),
    "study description of 100 letters": put(StudyDescription="x" * 100),
    "station name of 40 letters": put(StationName="S" * 40, Manufacturer="M" * 80, ManufacturerModelName="a\\b"),
    "kanji in a nested item": nested_kanji,
    "order": an_order,
    "private elements": private_elements,
    "private SOP class": put(SOPClassUID="1.3.46.670589.11.0.0.12.1"),
    "SOP instance UID with leading zeros": put(SOPInstanceUID="1.2.03.004"),
    "identity removed, no method": put(PatientIdentityRemoved="YES"),
    "body part with an umlaut": raw("BodyPartExamined", b"B\xd6CKEN", "ISO_IR 100"),
    "time zone": put(TimezoneOffsetFromUTC="+0530"),
    "time zone in words": put(TimezoneOffsetFromUTC="CET"),
}


def case_of(*changes: Change) -> Case:
    """Return the invented case with a header that went through a file, as the node's headers do."""
    case = invented_case()
    header = copy.deepcopy(case.sources[0])
    put(
        SpecificCharacterSet="ISO_IR 192",
        PatientBirthDate="19500102",
        PatientSex="F",
        StudyDate="20260101",
        StudyTime="101112",
        AccessionNumber="ACC-1",
        ReferringPhysicianName="Nobody^Nora",
        StudyID="S1",
    )(header)
    for change in changes:
        change(header)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pydicom.dcmwrite(buffer, header, implicit_vr=False, little_endian=True)
        buffer.seek(0)
        source = pydicom.dcmread(buffer, stop_before_pixels=True, force=True)
        uid = str(source.SOPInstanceUID)
    results = tuple(_seen_in(result, uid) for result in case.results)
    return replace(case, sources=(source,), results=results)


def _seen_in(result: BundleResult, uid: str) -> BundleResult:
    """Return `result` for another image."""
    findings = tuple(replace(finding, sop_instance_uid=uid) for finding in result.findings)
    anomaly = replace(result.anomaly, sop_instance_uid=uid) if result.anomaly else None
    return replace(result, findings=findings, anomaly=anomaly, assessed=(uid,))


@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda encoder: encoder.name)
@pytest.mark.parametrize("change", AWKWARD.values(), ids=AWKWARD.keys())
def test_awkward_header_gives_a_result_of_the_same_patient(change: Change, encoder) -> None:
    case = case_of(change)

    (ds,) = encoder.encode(case)

    read = pydicom.dcmread(io.BytesIO(encoded(ds)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {keyword: str(case.sources[0].get(keyword) or "") for keyword in IDENTIFIERS}
        got = {keyword: str(read.get(keyword) or "") for keyword in IDENTIFIERS}
    assert got == expected
    assert all(keyword in read for keyword in _source.REQUIRED)
    assert read.StudyInstanceUID == invented_case().sources[0].StudyInstanceUID


@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda encoder: encoder.name)
def test_awkward_header_gives_the_same_bytes_twice(encoder) -> None:
    first, second = (encoded(encoder.encode(case_of(nested_kanji, an_order, private_elements))[0]) for _ in range(2))

    assert first == second


@pytest.mark.parametrize(
    ("keyword", "given", "written"),
    [
        ("PatientSex", "U", None),
        ("PatientSex", "f", "F"),
        ("PatientBirthDate", "1950", None),
        ("PatientBirthDate", "1950.01.02", "19500102"),
        ("PatientBirthDate", "19501302", None),
        ("StudyDate", "00000000", None),
        ("StudyDate", "00950724", None),
        ("StudyTime", "101010.123456789", "101010.123456"),
        ("StudyTime", "10:11:12", "101112"),
        ("StudyTime", "10", "10"),
        ("StudyTime", "996199", None),
        ("PatientAge", "047Y", "047Y"),
        ("PatientAge", "47 years", None),
        ("StudyDescription", "x" * 65, None),
        ("PatientID", "9" * 70, "9" * 70),
    ],
)
def test_odd_value_is_written_lawfully_or_not_at_all(keyword: str, given: str, written: str | None) -> None:
    (ds,) = ENCODERS[0].encode(case_of(put(**{keyword: given})))

    assert (ds.get(keyword) or None) == written


@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda encoder: encoder.name)
def test_encoding_leaves_the_source_as_it_was(encoder) -> None:
    case = case_of(nested_kanji, put(PatientSex="U"), an_order)
    before = case.sources[0].to_json()

    (ds,) = encoder.encode(case)
    for element in list(ds.iterall()):
        element.clear()

    assert case.sources[0].to_json() == before


def test_three_component_groups_of_a_japanese_name_survive() -> None:
    case = case_of(AWKWARD["kanji in ISO 2022 IR 87"])

    for encoder in ENCODERS:
        read = pydicom.dcmread(io.BytesIO(encoded(encoder.encode(case)[0])))
        assert read.SpecificCharacterSet == "ISO_IR 192"
        assert str(read.PatientName) == KANJI


def test_nested_text_is_decoded_with_the_character_set_of_the_source() -> None:
    case = case_of(nested_kanji)

    read = pydicom.dcmread(io.BytesIO(encoded(ENCODERS[0].encode(case)[0])))

    assert read.ProcedureCodeSequence[0].CodeMeaning == "胸部"


def test_the_order_is_referenced() -> None:
    (ds,) = ENCODERS[0].encode(case_of(an_order))

    (request,) = ds.ReferencedRequestSequence
    assert (request.RequestedProcedureID, request.AccessionNumber) == ("RP-7", "ACC-1")


def test_private_elements_of_the_source_stay_there() -> None:
    (ds,) = ENCODERS[0].encode(case_of(private_elements))

    assert not any(element.tag.is_private for element in ds)


def test_times_follow_the_time_zone_of_the_source() -> None:
    (ds,) = ENCODERS[0].encode(case_of(put(TimezoneOffsetFromUTC="+0530")))

    assert (ds.TimezoneOffsetFromUTC, ds.ContentTime) == ("+0530", "053000.000000")


def test_image_library_needs_geometry() -> None:
    bare = _source.stand_in(case_of().sources[0])
    full = _source.stand_in(case_of(put(PatientOrientation=["L", "F"], ImagerPixelSpacing=["0.1", "0.1"])).sources[0])

    assert [_source.fits_image_library([ds]) for ds in (bare, full)] == [False, True]
