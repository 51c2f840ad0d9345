"""A document once more in another SOP Class, for a peer that does not take the one it was made in.

The content tree of our findings report is legal in all three: by-value relationships and 2D coordinates only.

Standard: PS3.3 A.35.2 (Enhanced SR), A.35.3 (Comprehensive SR), A.35.13 (Comprehensive 3D SR).
"""

import io

from pydicom import Dataset, dcmread
from pydicom.uid import UID

from dicomnode.domain.study import derived_uid

COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.33"
ENHANCED_SR = "1.2.840.10008.5.1.4.1.1.88.22"
ALTERNATIVES = {COMPREHENSIVE_3D_SR: (COMPREHENSIVE_SR, ENHANCED_SR)}


def variant(content: bytes, sop_class_uid: str) -> Dataset:
    """Return the document in the DICOM file `content` as an instance of `sop_class_uid`, with a UID of its own.

    The UID follows from the document's and the SOP Class, so the same comes out every time. A predecessor of the class
    that is left is named by its own variant: who takes this one was sent that one.
    """
    ds = dcmread(io.BytesIO(content))
    for study in ds.get("PredecessorDocumentsSequence", ()):
        for series in study.ReferencedSeriesSequence:
            for before in series.ReferencedSOPSequence:
                if before.ReferencedSOPClassUID == ds.SOPClassUID:
                    before.ReferencedSOPInstanceUID = variant_uid(before.ReferencedSOPInstanceUID, sop_class_uid)
                    before.ReferencedSOPClassUID = sop_class_uid
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(variant_uid(ds.SOPInstanceUID, sop_class_uid))
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = UID(sop_class_uid)
    return ds


def variant_uid(sop_instance_uid: str, sop_class_uid: str) -> str:
    """Return the SOP Instance UID of a document's variant in a SOP Class."""
    return derived_uid("variant", sop_instance_uid, sop_class_uid)
