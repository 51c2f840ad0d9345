"""The demo PACS and the demo modality over loopback: every fault does what it says."""

import threading
import time
from collections.abc import Iterator
from datetime import datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import UID
from pynetdicom import AE
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, Verification

from dicomnode.demo.modality import Sent, send
from dicomnode.demo.objects import Study, View, dx, not_applicable_study, patient
from dicomnode.demo.pacs import DemoPACS
from dicomnode.errors import PeerRefused, PeerUnavailable

STUDY = Study("run-1", 1, datetime(2026, 1, 2, 3, 4, 5))
PIXELS = np.tile(np.arange(64, dtype=np.uint8), (64, 1))


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[DemoPACS]:
    with DemoPACS(tmp_path / "pacs") as running:
        yield running


def image(number: int = 1, view: View = View.PA) -> Dataset:
    return dx(PIXELS, patient=patient(1), study=STUDY, view=view, number=number)


def written(ds: Dataset) -> Dataset:
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return dcmread(BytesIO(buffer.getvalue()))


def to(pacs: DemoPACS, *images: Dataset | Path) -> list[Sent]:
    return send(images, pacs.host, pacs.port, "MODALITY", pacs.ae_title)


def statuses(sent: list[Sent]) -> list[int | None]:
    return [one.status for one in sent]


def test_what_is_sent_is_held(pacs: DemoPACS):
    pa, lateral = image(), image(view=View.LATERAL)
    assert statuses(to(pacs, pa, lateral)) == [0, 0]
    first, second = pacs.accepted
    assert (first.sop_instance_uid, second.sop_instance_uid) == (pa.SOPInstanceUID, lateral.SOPInstanceUID)
    assert (first.study_instance_uid, first.count, first.differing) == (STUDY.study_instance_uid, 1, 0)
    assert dcmread(first.path) == written(pa)
    assert {path.parent for path in (first.path, second.path)} == {pacs.folder}


def test_a_file_is_sent_as_it_is(pacs: DemoPACS, tmp_path: Path):
    [ct] = not_applicable_study(patient=patient(2), study=STUDY)
    ct.save_as(tmp_path / "ct.dcm", enforce_file_format=True)
    assert statuses(to(pacs, tmp_path / "ct.dcm")) == [0]
    assert dcmread(pacs.accepted[0].path) == dcmread(tmp_path / "ct.dcm")


def test_again_is_accepted_and_counted(pacs: DemoPACS):
    changed = image()
    changed.SeriesDescription = "other bytes"
    assert statuses(to(pacs, image(), image(), changed)) == [0, 0, 0]
    [accepted] = pacs.accepted
    assert (accepted.count, accepted.differing) == (3, 1)
    assert len(list(pacs.folder.iterdir())) == 2


def test_stop_and_start_on_the_same_port(pacs: DemoPACS):
    to(pacs, image())
    port = pacs.port
    pacs.stop()
    with pytest.raises(PeerUnavailable, match=str(port)):
        to(pacs, image(2))
    pacs.start()
    assert statuses(to(pacs, image(2))) == [0]
    assert (pacs.port, len(pacs.accepted)) == (port, 2)


def test_stop_leaves_no_thread(tmp_path: Path):
    before = set(threading.enumerate())
    with DemoPACS(tmp_path) as pacs:
        to(pacs, image())
        ae = AE()
        ae.add_requested_context(Verification)
        assoc = ae.associate(pacs.host, pacs.port)
        assert assoc.is_established
        pacs.stop()
        assoc.join(5)
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
    assert set(threading.enumerate()) <= before


def test_refuse_counts_down(pacs: DemoPACS):
    pacs.refuse(0xA700, times=2)
    assert statuses(to(pacs, image(1), image(2), image(3))) == [0xA700, 0xA700, 0]
    assert [a.sop_instance_uid for a in pacs.accepted] == [image(3).SOPInstanceUID]


def test_slow_makes_the_sender_wait(pacs: DemoPACS):
    pacs.slow(0.4)
    [sent] = to(pacs, image())
    assert sent.status == 0
    assert sent.seconds >= 0.4
    pacs.slow(0)
    assert to(pacs, image(2))[0].seconds < 0.4


def test_stop_does_not_wait_for_a_slow_answer(pacs: DemoPACS):
    pacs.slow(60)
    sent: list[Sent] = []
    sender = threading.Thread(target=lambda: sent.extend(to(pacs, image())))
    sender.start()
    time.sleep(0.3)
    start = time.monotonic()
    pacs.stop()
    sender.join(5)
    assert time.monotonic() - start < 4
    assert statuses(sent) != [0]


def test_cut_after_store_stores_and_does_not_answer(pacs: DemoPACS):
    pacs.cut_after_store()
    assert statuses(to(pacs, image(1), image(2))) == [None, None]
    assert [a.sop_instance_uid for a in pacs.accepted] == [image(1).SOPInstanceUID]
    assert statuses(to(pacs, image(1))) == [0]
    assert pacs.accepted[0].count == 2


def test_wait_for_sees_what_comes(pacs: DemoPACS):
    assert not pacs.wait_for(lambda accepted: len(accepted) == 1, 0.01)
    sender = threading.Thread(target=lambda: to(pacs, image()))
    start = time.monotonic()
    sender.start()
    assert pacs.wait_for(lambda accepted: len(accepted) == 1, 30)
    assert time.monotonic() - start < 15
    sender.join(5)


def test_an_object_that_contradicts_its_command_is_refused(pacs: DemoPACS):
    ae = AE()
    ds = image()
    ae.add_requested_context(ds.SOPClassUID)
    assoc = ae.associate(pacs.host, pacs.port)
    try:
        nameless = image()
        del nameless.StudyInstanceUID
        assert assoc.send_c_store(nameless).Status == 0xC000
        assert assoc.send_c_store(ds).Status == 0
    finally:
        assoc.release()
    assert [a.sop_instance_uid for a in pacs.accepted] == [ds.SOPInstanceUID]


def test_an_unknown_sop_class_is_named(pacs: DemoPACS):
    ds = image()
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = UID("1.2.3.4")
    for images in ([ds], [image(), ds]):
        with pytest.raises(PeerRefused, match="DEMO_PACS"):
            to(pacs, *images)


def test_echo_and_find(pacs: DemoPACS):
    to(pacs, image(), image(view=View.LATERAL))
    ae = AE()
    ae.add_requested_context(Verification)
    ae.add_requested_context(StudyRootQueryRetrieveInformationModelFind)
    assoc = ae.associate(pacs.host, pacs.port)
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.StudyInstanceUID = STUDY.study_instance_uid
    identifier.NumberOfStudyRelatedInstances = None
    try:
        assert assoc.send_c_echo().Status == 0
        answers = list(assoc.send_c_find(identifier, StudyRootQueryRetrieveInformationModelFind))
    finally:
        assoc.release()
    assert [status.Status for status, _ in answers] == [0xFF00, 0]
    assert answers[0][1].NumberOfStudyRelatedInstances == 2


def test_a_large_number_goes_quickly(pacs: DemoPACS):
    start = time.monotonic()
    assert set(statuses(to(pacs, *(image(n) for n in range(1, 101))))) == {0}
    assert time.monotonic() - start < 20
    assert len(pacs.accepted) == 100
