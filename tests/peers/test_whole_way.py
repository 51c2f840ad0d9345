"""The whole way with peers that nobody here wrote: DCMTK sends, Orthanc is the PACS, five validators judge."""

import csv
import subprocess
from collections import Counter, defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import select

from dicomnode.db.tables import Quarantine, SOPInstance, StudyVersion
from dicomnode.demo.objects import Study, dx, patient
from dicomnode.domain.lifecycle import State
from dicomnode.domain.study import derived_uid, is_uid
from dicomnode.evidence import encoded
from tests.hospital import SR, SUMMARY, WHEN, Hospital, wait_for
from tests.needs import require
from tests.peers.dcmtk import findscu, storescu
from tests.raw_store import dataset_bytes, store

JUDGE = Path(__file__).parents[3] / "shared" / "judge" / "judge.sh"
RADIOGRAPHS = 20
NO_STORAGE = {  # objects that belong to no study
    "1.2.840.10008.1.3.10",  # DICOMDIR
    "1.2.840.10008.5.1.4.38.1",  # Hanging Protocol (Non-Patient Object Storage)
    "1.2.840.10008.5.1.4.39.1",  # Color Palette (Non-Patient Object Storage)
}
PROPOSE = {
    "1.2.840.10008.1.2": "-xi", "1.2.840.10008.1.2.1": "-xe", "1.2.840.10008.1.2.2": "-xb",
    "1.2.840.10008.1.2.1.99": "-xd",
    "1.2.840.10008.1.2.4.50": "-xy", "1.2.840.10008.1.2.4.51": "-xx", "1.2.840.10008.1.2.4.57": "-xs",
    "1.2.840.10008.1.2.4.70": "-xs", "1.2.840.10008.1.2.4.80": "-xt", "1.2.840.10008.1.2.4.81": "-xu",
    "1.2.840.10008.1.2.4.90": "-xv", "1.2.840.10008.1.2.4.91": "-xw", "1.2.840.10008.1.2.5": "-xr",
}  # fmt: skip


@pytest.fixture
def hospital(tmp_path, orthanc):
    pacs = SimpleNamespace(ae_title=orthanc.ae_title, host=orthanc.host, port=orthanc.dicom_port)
    hospital = Hospital(tmp_path / "node", {"pacs": pacs}, quiet_period_s=2)
    with hospital.node:
        yield hospital


@pytest.mark.dcmtk
@pytest.mark.orthanc
@pytest.mark.judge
@pytest.mark.data
@pytest.mark.timeout(900)
def test_dcmtk_sends_radiographs_and_orthanc_has_reports_that_every_validator_passes(
    hospital, orthanc, shared_data, tmp_path
):
    require("storescu", "findscu", "dciodvfy", "dcentvfy", "dsrdump", "dsr2html", "dcsrdump", "java")
    images = _radiographs(shared_data)
    folder = tmp_path / "modality"
    folder.mkdir()
    for number, image in enumerate(images):
        (folder / f"{number:03}.dcm").write_bytes(encoded(image))
    sent = storescu([folder], "127.0.0.1", hospital.port, "MODALITY", "DICOMNODE", "-xe")
    assert sent.returncode == 0, sent.stderr
    for image in images:
        hospital.wait(image, State.DONE, timeout_s=120)
    fetched = []
    for number, image in enumerate(images):
        (report,) = _found(orthanc, image, SR)
        (summary,) = _found(orthanc, image, SUMMARY)
        assert {report.SOPInstanceUID, summary.SOPInstanceUID} == {
            e.sop_instance_uid for _, e in hospital.deliveries(image)
        }
        for found in (report, summary):
            path = tmp_path / f"fetched-{number:03}-{found.SOPClassUID.keyword}.dcm"
            path.write_bytes(orthanc.download(_orthanc_id(orthanc, found.SOPInstanceUID)))
            fetched.append(path)
    judged = subprocess.run([str(JUDGE), *map(str, fetched)], capture_output=True, text=True, timeout=800, check=False)
    assert f"judge: {len(fetched)} file(s), 0 errors" in judged.stdout, judged.stdout[-4000:]


@pytest.mark.dcmtk
@pytest.mark.orthanc
@pytest.mark.data
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_every_real_file_is_stored_or_quarantined_with_its_reason(hospital, shared_data, capsys):
    require("storescu")
    with (shared_data / "dicom" / "index.csv").open(encoding="utf-8") as index:
        files = [(shared_data / "dicom" / row["file"], row) for row in csv.DictReader(index)]
    groups = defaultdict(list)
    for path, row in files:
        if row["ts_uid"] in PROPOSE:
            groups[PROPOSE[row["ts_uid"]]].append(path)
    for option, paths in groups.items():
        storescu(paths, "127.0.0.1", hospital.port, "MODALITY", "DICOMNODE", "-nh", option)
    by_dcmtk = len(_rows(hospital, SOPInstance)) + len(_rows(hospital, Quarantine))
    answers = [(_store_raw(hospital.port, path, row), row["sop_class_uid"]) for path, row in files]
    statuses = Counter(status for status, _ in answers)
    assert {sop_class for status, sop_class in answers if status is None} <= NO_STORAGE
    instances, quarantined = _rows(hospital, SOPInstance), _rows(hospital, Quarantine)
    assert set(statuses) <= {0x0000, 0xA900, 0xC000, None}
    assert statuses[0x0000] >= 270
    assert by_dcmtk >= 240
    assert all(row.reason and row.dimse_status in (0xA900, 0xC000) for row in quarantined)
    root = hospital.node.settings.node.data_dir
    assert all((root / row.path).stat().st_size == row.size_bytes for row in [*instances, *quarantined])
    wait_for(lambda: all(State(v.state).is_final for v in _rows(hospital, StudyVersion)), 300, hospital.node.log_tail)
    versions = _rows(hospital, StudyVersion)
    assert {v.state for v in versions} <= {State.DONE, State.SKIPPED, State.SUPERSEDED}
    assert all(v.reason for v in versions if v.state == State.SKIPPED)
    counted = {"not negotiated" if status is None else f"0x{status:04X}": n for status, n in statuses.items()}
    states = Counter(version.state for version in versions)
    with capsys.disabled():
        print(f"\n{len(files)} files; {by_dcmtk} rows by storescu; each sent raw: {counted}; {dict(states)}")


def _radiographs(shared_data):
    images = []
    for number, path in enumerate(sorted((shared_data / "cxr" / "native384").glob("*.png"))[:RADIOGRAPHS], start=1):
        pixels = np.asarray(Image.open(path).convert("L"))
        images.append(dx(pixels, patient=patient(number), study=Study("whole way", number, WHEN), lossy_ratio=10))
    assert len(images) == RADIOGRAPHS
    return images


def _found(orthanc, image, sop_class):
    found = findscu(
        "127.0.0.1", orthanc.dicom_port, "DICOMNODE", orthanc.ae_title,
        QueryRetrieveLevel="IMAGE", StudyInstanceUID=image.StudyInstanceUID,
        SeriesInstanceUID="", SOPInstanceUID="", SOPClassUID="",
    )  # fmt: skip
    return [ds for ds in found if sop_class == ds.SOPClassUID]


def _orthanc_id(orthanc, sop_instance_uid):
    (found,) = orthanc.find("Instance", SOPInstanceUID=str(sop_instance_uid))
    return found["ID"]


def _rows(hospital, table):
    with hospital.node.database.read() as session:
        return session.scalars(select(table)).all()


def _store_raw(port, path, row):
    """Send what stands in the file under the UIDs that its index names; a file without any gets UIDs of ours."""
    dataset, syntax = dataset_bytes(path)
    sop_class = row["sop_class_uid"] if is_uid(row["sop_class_uid"]) else "1.2.840.10008.5.1.4.1.1.7"
    instance = row["sop_instance_uid"] if is_uid(row["sop_instance_uid"]) else derived_uid("no uid", row["sha256"])
    status, comment = store(port, dataset, sop_class, instance, row["ts_uid"] or syntax)
    assert status == 0 or comment, f"{path} was refused with 0x{status:04X} and no comment"
    return status
