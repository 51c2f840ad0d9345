from dataclasses import replace
from io import BytesIO

import pytest
from pydicom import dcmread

from dicomnode.evidence import ALTERNATIVES, Predecessor, encoded, find_encoders, variant, variant_uid
from dicomnode.evidence._invented import invented_case

CLASSES = [(made, other) for made, others in ALTERNATIVES.items() for other in others]


@pytest.fixture(scope="module")
def report():
    (ds,) = find_encoders()[0].encode(invented_case())
    return ds


@pytest.mark.parametrize(("made", "other"), CLASSES)
def test_variant_says_the_same_in_another_sop_class_with_a_uid_of_its_own(report, made, other):
    assert report.SOPClassUID == made
    ds = variant(encoded(report), other)
    assert (ds.SOPClassUID, ds.SOPInstanceUID) == (other, variant_uid(report.SOPInstanceUID, other))
    assert ds.SOPInstanceUID != report.SOPInstanceUID
    assert (ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID) == (
        ds.SOPClassUID,
        ds.SOPInstanceUID,
    )
    original = dcmread(BytesIO(encoded(report)))
    changed = {e.keyword for e in ds if e.keyword not in original or original[e.keyword] != e}
    assert changed == {"SOPClassUID", "SOPInstanceUID"}
    assert encoded(ds) == encoded(variant(encoded(report), other)), "not the same bytes every time"


def test_predecessor_is_named_by_its_own_variant(report):
    before = Predecessor("1.2.3", "1.2.4", str(report.SOPClassUID), "1.2.5")
    case = replace(invented_case(), version_number=2, predecessors=(before,))
    (second,) = find_encoders()[0].encode(case)
    other = ALTERNATIVES[str(second.SOPClassUID)][0]
    ds = dcmread(BytesIO(encoded(variant(encoded(second), other))))
    named = ds.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert (named.ReferencedSOPClassUID, named.ReferencedSOPInstanceUID) == (other, variant_uid("1.2.5", other))
