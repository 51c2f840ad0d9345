r"""Source headers as hospitals write them: what highdicom is shown instead, and the true identity put back afterwards.

highdicom refuses ordinary headers (no Study ID, `\ISO 2022 IR 87`, Patient's Sex U, a birth date of four digits) and
copies others wrongly. It therefore never sees one: it gets a stand-in that holds only what a reference needs.

Standard: PS3.3 C.7.1.1 (Patient), C.7.2.1 (General Study), C.7.2.2 (Patient Study), C.7.1.3, C.7.2.3 (Clinical Trial).
"""

import contextlib
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence

from pydicom import DataElement, Dataset
from pydicom.config import disable_value_validation
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    MRImageStorage,
)
from pydicom.valuerep import VR

from dicomnode.evidence._lawful import lawful

UTF8 = "ISO_IR 192"

# Type 2: every object has them, empty where the source has none
REQUIRED = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "StudyID",
)
OPTIONAL = (
    *("IssuerOfPatientID", "TypeOfPatientID", "PatientBirthTime", "OtherPatientIDs", "OtherPatientIDsSequence"),
    *("OtherPatientNames", "EthnicGroup", "PatientComments", "QualityControlSubject", "PatientIdentityRemoved"),
    *("DeidentificationMethod", "DeidentificationMethodCodeSequence"),
    *("StudyDescription", "PhysiciansOfRecord", "NameOfPhysiciansReadingStudy", "RequestingService"),
    *("ProcedureCodeSequence", "IssuerOfAccessionNumberSequence", "AdmittingDiagnosesDescription"),
    *("PatientAge", "PatientSize", "PatientWeight", "Occupation", "AdditionalPatientHistory", "AdmissionID"),
    *("ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName", "ClinicalTrialSiteID"),
    *("ClinicalTrialSiteName", "ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID", "TimezoneOffsetFromUTC"),
)
_CROSS_SECTIONAL = {
    "PixelSpacing": 2,
    "ImageOrientationPatient": 6,
    "ImagePositionPatient": 3,
    "SliceThickness": 1,
}
_PROJECTION = {"ImagerPixelSpacing": 2}
_LIBRARY_NEEDS = {
    ("CT", CTImageStorage): _CROSS_SECTIONAL,
    ("MR", MRImageStorage): _CROSS_SECTIONAL,
    ("CR", ComputedRadiographyImageStorage): _PROJECTION,
    ("DX", DigitalXRayImageStorageForPresentation): _PROJECTION,
}
_EQUIPMENT = ("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "StationName")
_OFFSET = re.compile(r"[+-](?:0\d|1[0-4])[0-5]\d")


def stand_in(source: Dataset) -> Dataset:
    """Return what highdicom may see of `source`: UIDs, size, geometry and an empty identity; nothing is shared."""
    ds = Dataset()
    ds.SpecificCharacterSet = UTF8
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID"):
        setattr(ds, keyword, text(source, keyword))
    ds.Modality = text(source, "Modality") or "OT"
    for keyword in ("Rows", "Columns"):
        setattr(ds, keyword, int(text(source, keyword)))
    for keyword in REQUIRED:
        setattr(ds, keyword, None)
    for keyword in _EQUIPMENT:
        if value := text(source, keyword).replace("\\", " ")[: 16 if keyword == "StationName" else 64]:
            setattr(ds, keyword, value)
    return _with_geometry(ds, source)


def fits_image_library(stand_ins: Iterable[Dataset]) -> bool:
    """Return whether highdicom can describe these images (TID 1602); it fails where geometry is missing."""
    return all("PixelSpacing" in ds or "ImagerPixelSpacing" in ds for ds in stand_ins)


def restore(ds: Dataset, source: Dataset) -> None:
    """Give `ds` the patient and the study as `source` names them, as text in UTF-8.

    Names and identifiers stay exactly as they are. What else has no value that DICOM allows (a birth date of four
    digits, a weight of "unknown") is left out; where an element is required (Type 2) it stands empty.
    """
    ds.SpecificCharacterSet = UTF8
    ds.StudyInstanceUID = text(source, "StudyInstanceUID")
    for keyword in (*REQUIRED, *OPTIONAL):
        element = copied(source, keyword)
        if element and (allowed := lawful(element)):
            ds[allowed.tag] = allowed
        elif keyword in REQUIRED:
            ds[_tag(keyword)] = DataElement(_tag(keyword), dictionary_VR(keyword), None)
    if ds.get("PatientIdentityRemoved") == "YES" and not ds.get("DeidentificationMethodCodeSequence"):
        ds.DeidentificationMethod = ds.get("DeidentificationMethod") or "not stated by the source"  # Type 1C


def copied(source: Dataset, keyword: str) -> DataElement | None:
    """Return a decoded copy of an element that shares nothing with `source`, or None if it has none that is usable."""
    with unjudged(), contextlib.suppress(KeyError, ValueError, TypeError, LookupError, NotImplementedError):
        return _decoded(source[keyword])
    return None


def lawful_text(source: Dataset, keyword: str) -> str:
    """Return `text`, empty where DICOM does not allow the value."""
    element = copied(source, keyword)
    return text(source, keyword) if element and lawful(element) else ""


def text(source: Dataset, keyword: str) -> str:
    """Return the value as text, several values joined by a backslash, empty if there is none."""
    element = copied(source, keyword)
    if element is None or element.value is None:
        return ""
    values = element.value if element.VM > 1 else [element.value]
    return "\\".join(str(value) for value in values).strip(" \0")


def utc_offset(source: Dataset) -> str:
    """Return Timezone Offset From UTC (`+0100`) if the source has a valid one, else an empty text."""
    value = text(source, "TimezoneOffsetFromUTC")
    return value if _OFFSET.fullmatch(value) else ""


def requests(source: Dataset) -> list[Dataset]:
    """Return items for Referenced Request Sequence: the order that the images fulfil. Standard: PS3.3 C.17.2.1."""
    attributes = copied(source, "RequestAttributesSequence")
    items: list[Dataset] = []
    for given in (attributes.value or []) if attributes else []:
        item = Dataset()
        item.StudyInstanceUID = text(source, "StudyInstanceUID")
        item.ReferencedStudySequence = []
        item.RequestedProcedureCodeSequence = []
        for keyword in ("PlacerOrderNumberImagingServiceRequest", "FillerOrderNumberImagingServiceRequest"):
            item[_tag(keyword)] = _optional(given, keyword)
        for keyword in ("RequestedProcedureID", "RequestedProcedureDescription"):
            item[_tag(keyword)] = _optional(given, keyword)
        item[_tag("AccessionNumber")] = _optional(source, "AccessionNumber")
        items.append(item)
    return items


def _optional(source: Dataset, keyword: str) -> DataElement:
    return copied(source, keyword) or DataElement(_tag(keyword), dictionary_VR(keyword), None)


def _with_geometry(ds: Dataset, source: Dataset) -> Dataset:
    """Add what the image library describes, all of it or nothing."""
    needs = _LIBRARY_NEEDS.get((ds.Modality, ds.SOPClassUID), {})
    found = {keyword: _numbers(source, keyword, count) for keyword, count in needs.items()}
    if not all(found.values()):
        return ds
    if "ImagerPixelSpacing" in needs:
        orientation = text(source, "PatientOrientation").split("\\")
        if len(orientation) != 2 or not all(re.fullmatch(r"[AFHLPR]{1,3}", part) for part in orientation):
            return ds
        ds.PatientOrientation = orientation
    for keyword, values in found.items():
        setattr(ds, keyword, list(values) if len(values) > 1 else values[0])
    return ds


def _numbers(source: Dataset, keyword: str, count: int) -> Sequence[float]:
    """Return exactly `count` finite numbers, or none; spacings must be positive."""
    parts = text(source, keyword).split("\\")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        return ()
    is_length = keyword.endswith(("Spacing", "Thickness"))
    fits = len(numbers) == count and all(math.isfinite(n) and (n > 0 or not is_length) for n in numbers)
    return numbers if fits else ()


def _decoded(element: DataElement) -> DataElement:
    """Return a copy whose text is decoded with the character set of its own data set; private elements go."""
    if element.VR != VR.SQ:
        value = list(element.value) if element.VM > 1 else element.value
        return DataElement(element.tag, element.VR, value, validation_mode=0)
    items = []
    for item in element.value:
        plain = Dataset()
        for inner in item:
            if not inner.tag.is_private and inner.keyword != "SpecificCharacterSet":
                plain[inner.tag] = _decoded(inner)
        items.append(plain)
    return DataElement(element.tag, VR.SQ, items)


def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return tag


@contextlib.contextmanager
def unjudged() -> Iterator[None]:
    """Let pydicom take values as they are: its warnings and log lines quote them, and no birth date may reach a log."""
    with warnings.catch_warnings(), disable_value_validation():
        warnings.simplefilter("ignore")
        yield
