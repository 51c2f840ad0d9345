"""What the demo modality makes: pictures as DX objects of invented patients, and studies that no chest bundle takes.

Standard: PS3.3 A.26 (DX IOD), PS3.16 CID 4010 (DX View), PS3.3 C.8.11 (DX modules).
"""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from dicomnode import __version__
from dicomnode.domain.codes import CHEST
from dicomnode.domain.findings import Code
from dicomnode.domain.study import derived_uid
from dicomnode.errors import ConfigError

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
FIELD_MM = 350.0
NUMBERS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE", "TEN", "ELEVEN", "TWELVE")


class View(Enum):
    """Projection: View Position, View Code, Patient Orientation, number of its series."""

    PA = ("PA", Code("399348003", "SCT", "postero-anterior"), ("L", "F"), 1)
    LATERAL = ("LL", Code("399173006", "SCT", "left lateral"), ("A", "F"), 2)


@dataclass(frozen=True, slots=True)
class Patient:
    """An invented patient; `birth_date` is YYYYMMDD, `sex` M, F or O."""

    name: str
    patient_id: str
    birth_date: str = "19700101"
    sex: str = "O"


def patient(number: int) -> Patient:
    """Return the invented patient with this number: DEMO^PATIENT ONE, DEMO-0001."""
    word = NUMBERS[number] if number < len(NUMBERS) else str(number)
    sex = "F" if number % 2 else "M"
    return Patient(f"DEMO^PATIENT {word}", f"DEMO-{number:04}", f"{1940 + number % 60}0101", sex)


@dataclass(frozen=True, slots=True)
class Study:
    """One examination; `run` and `number` decide every UID of it, so that the same run makes the same objects."""

    run: str
    number: int
    started_at: datetime
    description: str = "Chest"

    @property
    def accession_number(self) -> str:
        """An accession number of ours."""
        return f"DEMO-A{self.number:04}"

    @property
    def study_instance_uid(self) -> str:
        """The UID of the study."""
        return derived_uid("demo study", self.run, self.number)


def dx(
    pixels: Pixels, *, patient: Patient, study: Study, view: View = View.PA, number: int = 1, lossy_ratio: float = 0
) -> Dataset:
    """Return a Digital X-Ray image for presentation, encoded with Explicit VR Little Endian.

    `pixels` is a (rows, columns) array of uint8 or uint16, bright where dense. `number` is the Instance Number: a
    second image of a view (one that comes late, for instance) has another. `lossy_ratio` is the JPEG compression that
    the picture went through before; 0 says none. Raises `ValueError` for an array of another kind.
    """
    if pixels.ndim != 2 or pixels.dtype not in (np.uint8, np.uint16) or pixels.size == 0:
        raise ValueError(f"pixels: (rows, columns) of uint8 or uint16 is wanted, got {pixels.shape} of {pixels.dtype}")
    position, view_code, orientation, series_number = view.value
    ds = Dataset()
    ds.SOPClassUID = DigitalXRayImageStorageForPresentation
    ds.SOPInstanceUID = derived_uid("demo image", study.study_instance_uid, series_number, number)
    _identify(ds, patient, study)
    ds.SeriesInstanceUID = derived_uid("demo series", study.study_instance_uid, series_number)
    ds.SeriesNumber, ds.InstanceNumber = series_number, number
    ds.Modality, ds.PresentationIntentType = "DX", "FOR PRESENTATION"
    ds.SeriesDescription = f"Chest {position}"
    ds.Manufacturer, ds.ManufacturerModelName = "dicomnode", "demo modality"
    ds.DeviceSerialNumber, ds.SoftwareVersions = "DEMO", __version__
    ds.SeriesDate = ds.ContentDate = ds.AcquisitionDate = ds.StudyDate
    ds.SeriesTime = ds.ContentTime = ds.AcquisitionTime = ds.StudyTime
    ds.BodyPartExamined, ds.ViewPosition, ds.PatientOrientation = "CHEST", position, list(orientation)
    ds.ImageLaterality = "U"
    ds.AnatomicRegionSequence = [_coded(CHEST)]
    ds.ViewCodeSequence = [_coded(view_code)]
    ds.ViewCodeSequence[0].ViewModifierCodeSequence = []
    ds.AcquisitionContextSequence = []
    _describe_pixels(ds, pixels, lossy_ratio)
    return ds


def not_applicable_study(*, patient: Patient, study: Study, modality: str = "CT") -> list[Dataset]:
    """Return a real CT or MR image from pydicom's own files under an invented identity: no chest bundle takes it.

    Raises `ConfigError` if pydicom is installed without its test files.
    """
    name = {"CT": "CT_small.dcm", "MR": "MR_small.dcm"}[modality]
    path = get_testdata_file(name, download=False)
    if not isinstance(path, str):
        raise ConfigError(f"pydicom is installed without its file {name}: install it from its wheel")
    ds = dcmread(path)
    _strip_identity(ds)
    _identify(ds, patient, study)
    for keyword in ("SeriesDate", "AcquisitionDate", "ContentDate"):
        setattr(ds, keyword, ds.StudyDate)
    ds.SeriesInstanceUID = derived_uid("demo series", study.study_instance_uid, modality)
    ds.FrameOfReferenceUID = derived_uid("demo frame of reference", study.study_instance_uid)
    ds.SOPInstanceUID = derived_uid("demo image", study.study_instance_uid, modality, 1)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return [ds]


def _strip_identity(ds: Dataset) -> None:
    """Remove every attribute of the patient, every person and what else would contradict the invented study."""
    ds.remove_private_tags()
    named = ("InstitutionName", "StationName", "TimezoneOffsetFromUTC", "RequestAttributesSequence")
    for element in list(ds):
        if element.tag.group == 0x0010 or element.VR == "PN" or element.keyword in named:
            del ds[element.tag]


def _identify(ds: Dataset, patient: Patient, study: Study) -> None:
    """Write patient and study into `ds`."""
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.PatientName, ds.PatientID = patient.name, patient.patient_id
    ds.PatientBirthDate, ds.PatientSex = patient.birth_date, patient.sex
    ds.StudyInstanceUID, ds.StudyID = study.study_instance_uid, str(study.number)
    ds.StudyDate, ds.StudyTime = f"{study.started_at:%Y%m%d}", f"{study.started_at:%H%M%S}"
    ds.AccessionNumber, ds.StudyDescription = study.accession_number, study.description
    ds.ReferringPhysicianName = ""


def _coded(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme, code.meaning
    return item


def _describe_pixels(ds: Dataset, pixels: Pixels, lossy_ratio: float) -> None:
    """Write the pixels with the attributes of the DX Image, Detector, Image Pixel and VOI LUT modules."""
    rows, columns = pixels.shape
    largest = int(pixels.max())
    bits = 8 if pixels.dtype == np.uint8 else max(9, largest.bit_length())
    ds.ImageType = ["DERIVED", "PRIMARY"]
    ds.DerivationDescription = "Picture wrapped as a DX object"
    ds.DetectorType = None
    ds.ImagerPixelSpacing = [f"{FIELD_MM / max(rows, columns):.6f}"] * 2
    ds.PositionerType = None
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = rows, columns
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = pixels.itemsize * 8, bits, bits - 1, 0
    ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", -1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "US"
    ds.PresentationLUTShape = "IDENTITY"
    ds.WindowCenter, ds.WindowWidth = 2 ** (bits - 1), 2**bits
    ds.BurnedInAnnotation = "NO"
    ds.LossyImageCompression = "01" if lossy_ratio else "00"
    if lossy_ratio:
        ds.LossyImageCompressionRatio, ds.LossyImageCompressionMethod = f"{lossy_ratio:.2f}", "ISO_10918_1"
    data = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    ds.PixelData = data + b"\0" * (len(data) % 2)
    ds["PixelData"].VR = "OW" if pixels.itemsize == 2 else "OB"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
