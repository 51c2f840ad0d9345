"""What a result encoder is given, how it is found, and that it says the same every time."""

import io
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pydicom
import pytest

from dicomnode.domain.study import is_uid
from dicomnode.errors import ConfigError
from dicomnode.evidence import encoded, find_encoders, warm_up
from dicomnode.evidence._invented import invented_case

ENCODERS = find_encoders()
WHOLE = 'KIND = "x"\nSERIES_NUMBER = {number}\ndef encode(case):\n    return []\n'


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that writes a package of modules and returns its name."""

    def write(**modules: str) -> str:
        folder = tmp_path / "some_encoders"
        folder.mkdir()
        (folder / "__init__.py").write_text("", encoding="utf-8")
        for name, source in modules.items():
            (folder / f"{name}.py").write_text(source, encoding="utf-8")
        return "some_encoders"

    monkeypatch.syspath_prepend(tmp_path)
    yield write
    for name in [name for name in sys.modules if name.startswith("some_encoders")]:
        del sys.modules[name]


def test_encoders_are_found_by_walking_the_package() -> None:
    assert [(e.name, e.kind, e.series_number) for e in ENCODERS] == [
        ("measurement_report", "AI triage findings", 9001),
        ("summary_image", "AI summary", 9004),
    ]


def test_module_with_an_underscore_is_no_encoder(package) -> None:
    found = find_encoders(package(_helper="", real=WHOLE.format(number=1)))

    assert [encoder.name for encoder in found] == ["real"]


@pytest.mark.parametrize("missing", ["encode", "KIND", "SERIES_NUMBER"])
def test_module_that_lacks_a_part_stops_the_start_with_its_name(package, missing: str) -> None:
    name = package(broken=WHOLE.format(number=1).replace(missing, "other"))

    with pytest.raises(ConfigError, match=rf"some_encoders\.broken .* has no {missing}"):
        find_encoders(name)


def test_two_encoders_with_one_series_number_stop_the_start(package) -> None:
    name = package(a=WHOLE.format(number=1), b=WHOLE.format(number=1))

    with pytest.raises(ConfigError, match=r"some_encoders\.b and a share series number 1"):
        find_encoders(name)


def test_case_refuses_a_finding_whose_image_is_missing() -> None:
    case = invented_case()
    other = pydicom.Dataset()
    other.StudyInstanceUID, other.SOPInstanceUID = "1.2", "1.2.3"

    with pytest.raises(ValueError, match="not among the sources"):
        replace(case, sources=(other,))


def test_case_refuses_images_of_two_studies() -> None:
    case = invented_case()
    other = pydicom.Dataset()
    other.StudyInstanceUID, other.SOPInstanceUID = "1.2", "1.2.3"

    with pytest.raises(ValueError, match="not of one study"):
        replace(case, sources=(*case.sources, other))


def test_case_refuses_a_time_without_zone() -> None:
    with pytest.raises(ValueError, match="time zone"):
        replace(invented_case(), created_at=datetime(2026, 1, 1))


@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda encoder: encoder.name)
def test_same_case_gives_the_same_bytes(encoder) -> None:
    first, second = ([encoded(ds) for ds in encoder.encode(invented_case())] for _ in range(2))

    assert first == second


@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda encoder: encoder.name)
def test_every_time_in_an_object_is_that_of_the_case(encoder) -> None:
    case = replace(invented_case(), created_at=datetime(1999, 2, 3, 4, 5, 6, tzinfo=UTC))

    (ds,) = encoder.encode(case)

    written = [str(e.value) for e in ds.iterall() if e.VR in ("DA", "DT") and not e.is_empty]
    assert written
    assert {value[:8] for value in written} == {"19990203"}


@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda encoder: encoder.name)
def test_every_new_uid_is_derived(encoder) -> None:
    (ds,) = encoder.encode(invented_case())

    for uid in (ds.SOPInstanceUID, ds.SeriesInstanceUID):
        assert is_uid(uid)
        assert uid.startswith("2.25.")


@pytest.mark.parametrize(
    "change",
    [
        {"version_uid": "2.25.7", "version_number": 2},
        {"results": invented_case().results[:1]},
    ],
    ids=["another version", "other results"],
)
@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda encoder: encoder.name)
def test_other_version_or_results_give_other_uids(encoder, change) -> None:
    (one,), (other,) = (encoder.encode(case) for case in (invented_case(), replace(invented_case(), **change)))

    assert one.SOPInstanceUID != other.SOPInstanceUID
    assert one.SeriesInstanceUID != other.SeriesInstanceUID
    assert one.StudyInstanceUID == other.StudyInstanceUID


@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda encoder: encoder.name)
def test_objects_name_node_series_and_qualification(encoder) -> None:
    case = invented_case()

    read = pydicom.dcmread(io.BytesIO(encoded(encoder.encode(case)[0])))

    assert (read.SeriesNumber, read.SeriesDescription) == (encoder.series_number, encoder.kind)
    assert (read.Manufacturer, read.DeviceSerialNumber) == (case.node.manufacturer, case.node.serial_number)
    assert (read.StationName, read.SoftwareVersions) == (case.node.station_name, case.node.software_version)
    assert read.ContentQualification == "RESEARCH"


def test_warm_up_encodes_every_kind() -> None:
    warm_up()
