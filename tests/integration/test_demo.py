"""`dicomnode demo` as a PACS administrator runs it: a command, its exit code, and what lies there afterwards."""

import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from dicomnode.demo import sr_text
from dicomnode.demo.objects import Study, dx, patient
from dicomnode.evidence import encoded
from tests.demo_runs import TIMEOUT_S, command, demo, processes_of, reports, wait_for_processes
from tests.hospital import WHEN, ct


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory):
    """A demo with synthetic radiographs."""
    return demo(tmp_path_factory.mktemp("demo") / "hospital")


@pytest.fixture(scope="module")
def outage(tmp_path_factory):
    """A demo in which the PACS goes down and comes back."""
    return demo(tmp_path_factory.mktemp("demo") / "hospital", "--stop-pacs")


@pytest.mark.parametrize("run", ["ordinary", "outage"])
def test_every_object_is_accepted_exactly_once(run, request):
    code, said, words = request.getfixturevalue(run)
    assert (code, said["missing"]) == (0, []), words
    objects = [line for version in said["versions"] for line in version["objects"]]
    assert len(reports(said)) == sum(version["state"] != "SKIPPED" for version in said["versions"]) >= 3
    assert {(line["accepted"], line["delivery"], line["dimse_status"]) for line in objects} == {(1, "sent", 0)}
    assert len({line["path"] for line in objects}) == len(objects) == len([*Path(said["folder"], "pacs").iterdir()])
    for line in objects:
        assert str(dcmread(line["path"]).SOPInstanceUID) == line["sop_instance_uid"]


@pytest.mark.parametrize("run", ["ordinary", "outage"])
def test_late_image_makes_a_report_that_names_the_first(run, request):
    _, said, _ = request.getfixturevalue(run)
    (second,) = [version for version in said["versions"] if version["version"] == 2]
    first = next(v for v in said["versions"] if v["study"] == second["study"] and v["version"] == 1)
    assert (first["state"], second["state"], second["images"]) == ("SUPERSEDED", "DONE", 2)
    (old,), (new,) = ([line for line in v["objects"] if line["is_report"]] for v in (first, second))
    assert sr_text.predecessors(dcmread(new["path"])) == [old["sop_instance_uid"]]


def test_the_ct_is_skipped_with_its_reason(ordinary):
    _, said, words = ordinary
    (skipped,) = [version for version in said["versions"] if version["study"] == "CT"]
    assert (skipped["state"], skipped["objects"], skipped["urgency"]) == ("SKIPPED", [], "")
    assert "modality CT" in skipped["reason"]
    assert skipped["reason"] in words


def test_what_is_suspected_is_said_and_nothing_is_called_normal(ordinary):
    _, said, words = ordinary
    found = [version["findings"] for version in said["versions"] if version["study"] != "CT"]
    assert all("Pneumonia suspected (" in text or text == "no suspected finding from: Pneumonia" for text in found)
    assert "normal" not in words.lower()


def test_a_stopped_pacs_makes_deliveries_wait_with_their_reason(outage):
    _, said, words = outage
    assert said["outage"]["waiting"] >= 2
    assert said["outage"]["attempts"] > said["outage"]["waiting"]
    assert all("cannot be reached" in reason for reason in said["outage"]["reasons"])
    assert "waiting, tried once: DEMO_PACS at 127.0.0.1:" in words
    assert max(line["attempts"] for line in reports(said)) >= 3


def test_own_pictures_and_dicom_files_are_sent(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    pixels = np.random.default_rng(1).integers(0, 255, (256, 256), np.uint8)
    Image.fromarray(pixels).save(images / "a.png")
    stored = dx(pixels, patient=patient(1), study=Study("files", 1, WHEN))
    (images / "b.dcm").write_bytes(encoded(stored))
    (images / "c.dcm").write_bytes(encoded(ct()[0]))
    code, said, words = demo(tmp_path / "hospital", "--images", str(images))
    assert (code, said["missing"]) == (0, []), words
    states = {(version["study"], version["version"]): version["state"] for version in said["versions"]}
    late = {version["study"] for version in said["versions"] if version["version"] == 2}
    assert late <= {"a.png", "b.dcm"}
    assert len(late) == 1
    assert {study for (study, _), state in states.items() if state == "DONE"} == {"a.png", "b.dcm"}
    assert {study for (study, _), state in states.items() if state == "SKIPPED"} == {"c.dcm", "CT"}
    assert str(stored.StudyInstanceUID) in {version["study_instance_uid"] for version in said["versions"]}


def test_an_interrupt_leaves_no_process_even_if_it_comes_twice(tmp_path):
    folder = tmp_path / "hospital"
    with subprocess.Popen(command(folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for_processes(folder, 4)  # the supervisor and three roles
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, out) == (1, "")
    assert "every process was ended" in err
    assert processes_of(folder) == []


def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("precious")
    code, _, words = demo(tmp_path)
    assert (code, [path.name for path in tmp_path.iterdir()]) == (1, ["mine"])
    assert f"{tmp_path}: is there and not empty" in words
