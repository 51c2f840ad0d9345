"""The demo modality's objects: deterministic, complete, invented."""

from datetime import datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread, dcmwrite

from dicomnode.demo.find import answers
from dicomnode.demo.objects import Study, View, dx, not_applicable_study, patient
from dicomnode.demo.pictures import load_pictures
from dicomnode.errors import ConfigError

STUDY = Study("run-1", 1, datetime(2026, 1, 2, 3, 4, 5))
PIXELS = np.arange(35, dtype=np.uint8).reshape(5, 7)


def encoded(ds: Dataset) -> bytes:
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def test_the_same_run_makes_the_same_bytes():
    one, two = (encoded(dx(PIXELS, patient=patient(1), study=STUDY)) for _ in range(2))
    assert one == two


def test_another_run_view_or_number_makes_another_instance():
    other_run = Study("run-2", 1, STUDY.started_at)
    images = [
        dx(PIXELS, patient=patient(1), study=STUDY),
        dx(PIXELS, patient=patient(1), study=STUDY, number=2),
        dx(PIXELS, patient=patient(1), study=STUDY, view=View.LATERAL),
        dx(PIXELS, patient=patient(1), study=other_run),
    ]
    assert len({ds.SOPInstanceUID for ds in images}) == 4
    assert [ds.StudyInstanceUID == STUDY.study_instance_uid for ds in images] == [True, True, True, False]
    assert len({ds.SeriesInstanceUID for ds in images[:3]}) == 2


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pixels_come_back_as_they_were(dtype: type):
    pixels = (PIXELS.astype(np.uint32) * (100 if dtype is np.uint16 else 1)).astype(dtype)
    ds = dcmread(BytesIO(encoded(dx(pixels, patient=patient(1), study=STUDY))))
    assert np.array_equal(ds.pixel_array, pixels)
    assert ds.BitsStored == (12 if dtype is np.uint16 else 8)


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.float32), np.zeros((0, 4), np.uint8)],
    ids=["color", "float", "empty"],
)
def test_other_arrays_are_refused(pixels: np.ndarray):
    with pytest.raises(ValueError, match="uint8 or uint16"):
        dx(pixels, patient=patient(1), study=STUDY)


def test_a_jpeg_says_that_it_was_compressed():
    ds = dx(PIXELS, patient=patient(1), study=STUDY, lossy_ratio=8.5)
    assert (ds.LossyImageCompression, ds.LossyImageCompressionRatio) == ("01", 8.5)
    assert dx(PIXELS, patient=patient(1), study=STUDY).LossyImageCompression == "00"


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_a_study_for_no_bundle_has_an_invented_identity(modality: str):
    [ds] = not_applicable_study(patient=patient(3), study=STUDY, modality=modality)
    assert ds.Modality == modality
    assert {e.keyword for e in ds if e.tag.group == 0x0010} == {
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
    }
    assert str(ds.PatientName) == "DEMO^PATIENT THREE"
    assert ds.StudyInstanceUID == STUDY.study_instance_uid
    assert ds.pixel_array.size > 0
    assert not any(e.tag.is_private for e in ds)


def test_pictures_of_a_folder(tmp_path: Path):
    Image.fromarray(PIXELS).save(tmp_path / "b.png")
    Image.fromarray(np.full((64, 64), 300, np.uint16)).save(tmp_path / "c.png")
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "d.JPG", "JPEG")
    (tmp_path / "a").write_bytes(encoded(dx(PIXELS, patient=patient(1), study=STUDY)))
    (tmp_path / "notes.txt").write_text("no picture")
    dicom, gray, deep, jpeg = load_pictures(tmp_path)
    assert (dicom.name, dicom.content) == ("a", tmp_path / "a")
    assert np.array_equal(gray.content, PIXELS)
    assert gray.lossy_ratio == 0
    assert (deep.content.dtype, deep.content.max()) == (np.uint16, 300)
    assert (jpeg.content.shape, jpeg.content.dtype) == ((64, 64), np.uint8)
    assert jpeg.lossy_ratio > 1


def test_a_folder_without_pictures_is_named(tmp_path: Path):
    for folder, what in ((tmp_path, "no PNG, JPEG or DICOM"), (tmp_path / "missing", "no such folder")):
        with pytest.raises(ConfigError, match=what) as raised:
            load_pictures(folder)
        assert str(raised.value).startswith(f"{folder}: ")


def test_a_broken_picture_is_named(tmp_path: Path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG and no more")
    with pytest.raises(ConfigError, match=r"broken\.png"):
        load_pictures(tmp_path)


def query(**keys: object) -> Dataset:
    identifier = Dataset()
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    return identifier


def held() -> list[Dataset]:
    two = Study("run-1", 2, STUDY.started_at)
    return [
        dx(PIXELS, patient=patient(1), study=STUDY),
        dx(PIXELS, patient=patient(1), study=STUDY, view=View.LATERAL),
        dx(PIXELS, patient=patient(2), study=two),
    ]


@pytest.mark.parametrize(
    ("keys", "count"),
    [
        ({"QueryRetrieveLevel": "STUDY"}, 2),
        ({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": STUDY.study_instance_uid}, 1),
        ({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": [STUDY.study_instance_uid, "1.2"]}, 1),
        ({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2.3"}, 0),
        ({"QueryRetrieveLevel": "STUDY", "PatientID": "DEMO-0002"}, 1),
        ({"QueryRetrieveLevel": "SERIES", "StudyInstanceUID": STUDY.study_instance_uid}, 2),
        ({"QueryRetrieveLevel": "IMAGE", "StudyInstanceUID": ""}, 3),
    ],
)
def test_find_matches(keys: dict[str, object], count: int):
    assert len(answers(query(**keys), held())) == count


def test_find_counts_the_study():
    identifier = query(
        QueryRetrieveLevel="STUDY",
        StudyInstanceUID=STUDY.study_instance_uid,
        NumberOfStudyRelatedInstances=None,
        NumberOfStudyRelatedSeries=None,
        ModalitiesInStudy=None,
        PatientName="",
    )
    [answer] = answers(identifier, held())
    assert (answer.NumberOfStudyRelatedInstances, answer.NumberOfStudyRelatedSeries) == (2, 2)
    assert answer.ModalitiesInStudy == "DX"
    assert answer.PatientName == "DEMO^PATIENT ONE"


def test_find_knows_no_other_level():
    with pytest.raises(ValueError, match="PATIENT"):
        answers(query(QueryRetrieveLevel="PATIENT"), held())
