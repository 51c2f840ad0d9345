"""What keeps a demo from being a success is found and said."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset

from dicomnode.demo.examinations import Ending, Examination
from dicomnode.demo.objects import Study, dx, patient
from dicomnode.demo.pacs import Accepted
from dicomnode.demo.verdict import missing
from dicomnode.demo.watch import ObjectLine, VersionLine, with_pacs
from dicomnode.domain.lifecycle import DeliveryState, State
from dicomnode.evidence import encoded

WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def examination(number, ending=Ending.REPORTED):
    image = dx(np.zeros((8, 8), np.uint8), patient=patient(number), study=Study("verdict", number, WHEN))
    return Examination(f"picture {number}", (image,), ending)


CHEST, CT = examination(1), examination(2, Ending.SKIPPED)


def report(number):
    return ObjectLine(f"1.2.{number}", "AI triage findings", True, DeliveryState.SENT, 1, 0, "", 1.5)


def version(of, number, state, *objects, reason="", images=1):
    return VersionLine(of.study_instance_uid, number, state, reason, images, "", "", "", objects)


def held(uid, path=None, count=1, differing=0):
    return Accepted("1.2.840.10008.5.1.4.1.1.88.34", uid, "1.9", WHEN, count, differing, path)


@pytest.fixture
def good(tmp_path):
    """A demo that kept every promise: versions, and what the PACS holds."""
    versions = [
        version(CHEST, 1, State.SUPERSEDED, report(1)),
        version(CHEST, 2, State.DONE, report(2), images=2),
        version(CT, 1, State.SKIPPED, reason="modality CT"),
    ]
    return versions, [held("1.2.1"), held("1.2.2", document(tmp_path, "1.2.1"))]


def document(folder, replaces) -> Path:
    """A file whose predecessor is `replaces`."""
    ds = dx(np.zeros((8, 8), np.uint8), patient=patient(1), study=Study("verdict", 1, WHEN))
    instance, series, study = Dataset(), Dataset(), Dataset()
    instance.ReferencedSOPInstanceUID = replaces
    series.ReferencedSOPSequence = [instance]
    study.ReferencedSeriesSequence = [series]
    ds.PredecessorDocumentsSequence = [study]
    path = folder / f"{replaces}.dcm"
    path.write_bytes(encoded(ds))
    return path


def judged(versions, accepted, late=CHEST):
    return missing([CHEST, CT], with_pacs(versions, accepted), accepted, late)


def test_nothing_is_missing_where_every_promise_was_kept(good):
    assert judged(*good) == []


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([], "the PACS took it 0 times"),
        ([held("1.2.1", count=2)], "the PACS took it 2 times"),
        ([held("1.2.1", differing=1)], "1 copies with other bytes"),
        ([held("1.2.1"), held("1.2.77")], "the PACS holds 1.2.77, which no study version made"),
    ],
    ids=["never", "twice", "other bytes", "stranger"],
)
def test_what_the_pacs_holds_is_counted(good, entries, words):
    versions, accepted = good
    assert any(words in found for found in judged(versions, [*entries, accepted[1]]))


@pytest.mark.parametrize(
    ("position", "changes", "words"),
    [
        (1, {"state": State.FAILED, "reason": "refused"}, "picture 1: is FAILED (refused), DONE is wanted"),
        (1, {"state": State.DELIVERING}, "is DELIVERING"),
        (1, {"images": 1}, "version 2 has 1 images, version 1 has 1"),
        (1, {"objects": ()}, "has 0 Structured Reports"),
        (0, {"state": State.DONE}, "version 1 is DONE, not SUPERSEDED"),
        (2, {"state": State.DONE}, "picture 2: is DONE (modality CT), SKIPPED is wanted"),
        (2, {"reason": ""}, "was skipped without a reason"),
    ],
)
def test_a_version_that_ends_otherwise_is_named(good, position, changes, words):
    versions, accepted = good
    versions[position] = replace(versions[position], **changes)
    assert any(words in found for found in judged(versions, accepted))


def test_a_delivery_that_waits_is_named(good):
    versions, accepted = good
    waiting = replace(report(2), delivery=DeliveryState.WAITING, attempts=4, error="no answer")
    versions[1] = replace(versions[1], objects=(waiting,))
    assert any("delivery is waiting after 4 attempts: no answer" in found for found in judged(versions, accepted))


def test_a_report_that_names_another_predecessor_is_found(good, tmp_path):
    versions, accepted = good
    accepted[1] = held("1.2.2", document(tmp_path, "1.2.55"))
    assert judged(versions, accepted) == [
        "picture 1, late image: the report of version 2 does not name that of version 1"
    ]


def test_a_study_that_never_came_and_a_late_image_that_was_not_sent_are_named(good):
    versions, accepted = good
    assert "picture 2: no study was received" in judged(versions[:2], accepted)
    assert "no late image was sent" in judged(versions, accepted, late=None)
