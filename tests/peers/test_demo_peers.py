"""What the demo makes and takes, against DCMTK, Orthanc and dciodvfy."""

import urllib.request
from collections.abc import Iterator
from datetime import datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from dicomnode.demo.modality import send
from dicomnode.demo.objects import Study, View, dx, not_applicable_study, patient
from dicomnode.demo.pacs import DemoPACS
from tests.needs import require
from tests.peers.dcmtk import Storescp, dciodvfy_errors, echoscu, findscu, storescu
from tests.peers.orthanc import Orthanc

STUDY = Study("run-1", 1, datetime(2026, 1, 2, 3, 4, 5))
PIXELS = np.tile(np.arange(64, dtype=np.uint16) * 60, (48, 1))


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[DemoPACS]:
    with DemoPACS(tmp_path / "pacs") as running:
        yield running


@pytest.fixture
def chest_study(tmp_path: Path) -> list[Path]:
    """A chest study of two views, as files."""
    paths = []
    for view in View:
        path = tmp_path / f"{view.name}.dcm"
        dx(PIXELS, patient=patient(1), study=STUDY, view=view).save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def made(kind: str) -> Dataset:
    one, gray = patient(1), (PIXELS // 16).astype(np.uint8)
    match kind:
        case "PA, 12 bits":
            return dx(PIXELS, patient=one, study=STUDY)
        case "lateral, 8 bits, odd length":
            return dx(gray[:47, :63], patient=one, study=STUDY, view=View.LATERAL)
        case "late, from a JPEG":
            return dx(gray, patient=one, study=STUDY, number=2, lossy_ratio=9.3)
        case modality:
            return not_applicable_study(patient=one, study=STUDY, modality=modality)[0]


@pytest.mark.judge
@pytest.mark.parametrize("kind", ["PA, 12 bits", "lateral, 8 bits, odd length", "late, from a JPEG", "CT", "MR"])
def test_dciodvfy_finds_no_error(kind: str, tmp_path: Path):
    made(kind).save_as(tmp_path / "made.dcm", enforce_file_format=True)
    assert dciodvfy_errors(tmp_path / "made.dcm") == []


@pytest.mark.judge
def test_dciodvfy_errors_sees_an_error(tmp_path: Path):
    ds = made("PA, 12 bits")
    del ds.ImagerPixelSpacing
    ds.save_as(tmp_path / "made.dcm", enforce_file_format=True)
    assert any("ImagerPixelSpacing" in line for line in dciodvfy_errors(tmp_path / "made.dcm"))


@pytest.mark.dcmtk
def test_dcmtk_stores_finds_and_echoes_at_the_demo_pacs(pacs: DemoPACS, chest_study: list[Path]):
    ended = storescu(chest_study, pacs.host, pacs.port, "MODALITY", pacs.ae_title)
    assert ended.returncode == 0, ended.stderr
    assert [dcmread(a.path) for a in pacs.accepted] == [dcmread(path) for path in chest_study]
    assert echoscu(pacs.host, pacs.port, "MODALITY", pacs.ae_title)
    keys = {"StudyInstanceUID": STUDY.study_instance_uid, "Modality": "", "NumberOfSeriesRelatedInstances": ""}
    found = findscu(pacs.host, pacs.port, "MODALITY", pacs.ae_title, QueryRetrieveLevel="SERIES", **keys)
    assert [(ds.Modality, ds.NumberOfSeriesRelatedInstances) for ds in found] == [("DX", 1), ("DX", 1)]


@pytest.mark.dcmtk
def test_dcmtk_sees_the_refusal_and_the_cut(pacs: DemoPACS, chest_study: list[Path]):
    pacs.refuse(0xA700)
    assert storescu(chest_study[:1], pacs.host, pacs.port, "MODALITY", pacs.ae_title).returncode != 0
    pacs.cut_after_store()
    assert storescu(chest_study[:1], pacs.host, pacs.port, "MODALITY", pacs.ae_title).returncode != 0
    assert [a.count for a in pacs.accepted] == [1]


@pytest.mark.dcmtk
def test_the_modality_sends_to_storescp(storescp: Storescp, chest_study: list[Path]):
    sent = send(chest_study, storescp.host, storescp.port, "MODALITY", storescp.ae_title)
    assert [one.status for one in sent] == [0, 0]
    received = {ds.SOPInstanceUID: ds for ds in map(dcmread, storescp.received())}
    assert received == {ds.SOPInstanceUID: ds for ds in map(dcmread, chest_study)}


@pytest.mark.orthanc
def test_the_modality_sends_to_orthanc(orthanc: Orthanc, chest_study: list[Path]):
    sent = send(chest_study, orthanc.host, orthanc.dicom_port, "MODALITY", orthanc.ae_title)
    assert [one.status for one in sent] == [0, 0]
    [study] = orthanc.find_studies(StudyInstanceUID=STUDY.study_instance_uid)
    assert study["PatientMainDicomTags"]["PatientID"] == "DEMO-0001"
    source = dcmread(chest_study[0])
    [instance] = orthanc.instances_of_series(source.SeriesInstanceUID)
    assert dcmread(BytesIO(orthanc.download(instance))) == source


@pytest.mark.orthanc
@pytest.mark.dcmtk
def test_orthanc_answers_c_find_and_dicomweb(orthanc: Orthanc, chest_study: list[Path]):
    send(chest_study, orthanc.host, orthanc.dicom_port, "MODALITY", orthanc.ae_title)
    keys = {"StudyInstanceUID": STUDY.study_instance_uid, "NumberOfStudyRelatedInstances": ""}
    called = (orthanc.host, orthanc.dicom_port, "MODALITY", orthanc.ae_title)
    [found] = findscu(*called, QueryRetrieveLevel="STUDY", **keys)
    assert found.NumberOfStudyRelatedInstances == 2
    with urllib.request.urlopen(f"{orthanc.dicomweb_url}/studies", timeout=10) as answer:
        assert STUDY.study_instance_uid.encode() in answer.read()


@pytest.mark.orthanc
def test_orthanc_keeps_what_it_holds_over_a_restart(orthanc: Orthanc, chest_study: list[Path]):
    send(chest_study, orthanc.host, orthanc.dicom_port, "MODALITY", orthanc.ae_title)
    orthanc.stop()
    orthanc.start()
    assert len(orthanc.instances_of_study(STUDY.study_instance_uid)) == 2


@pytest.mark.orthanc
def test_orthanc_routes_to_the_demo_pacs(tmp_path: Path, pacs: DemoPACS, chest_study: list[Path], free_port):
    require("Orthanc")
    router = Orthanc(tmp_path / "router", free_port(), free_port(), modalities={pacs.ae_title: pacs.port})
    try:
        router.start()
        send(chest_study, router.host, router.dicom_port, "MODALITY", router.ae_title)
        [study] = router.find_studies()
        router.send_to(pacs.ae_title, str(study["ID"]))
    finally:
        router.stop()
    assert len(pacs.accepted) == 2
