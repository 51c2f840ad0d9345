"""An invented case: one radiograph of nobody, a class above its threshold, one below it, an anomaly score."""

from datetime import UTC, datetime

from pydicom import Dataset
from pydicom.uid import DigitalXRayImageStorageForPresentation

from dicomnode.domain.codes import LUNG
from dicomnode.domain.findings import AnomalyFinding, BundleIdentity, BundleResult, Code, Finding, Priority
from dicomnode.domain.study import derived_uid
from dicomnode.evidence import Case, NodeIdentity


def invented_case() -> Case:
    """Return a case that every encoder can encode; nothing in it belongs to a person."""
    image = _image()
    uid = image.SOPInstanceUID
    classes = (
        ("Pneumothorax", Code("36118008", "SCT", "Pneumothorax"), 0.91, Priority.CRITICAL),
        ("Pneumonia", Code("233604007", "SCT", "Pneumonia"), 0.08, Priority.URGENT),
    )
    findings = tuple(Finding(label, code, LUNG, value, 0.5, urgency, uid) for label, code, value, urgency in classes)
    anomaly = AnomalyFinding("Anomaly score", 0.21, 0.6, 42.0, uid)
    results = (
        BundleResult(_bundle("invented_classifier", "classifier"), findings=findings, assessed=(uid,)),
        BundleResult(_bundle("invented_anomaly", "anomaly"), anomaly=anomaly, assessed=(uid,)),
    )
    return Case(
        version_uid=derived_uid("invented", "version"),
        version_number=1,
        sources=(image,),
        results=results,
        priority=Priority.CRITICAL,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        node=NodeIdentity("INVENTED", "dicomnode", "dicomnode", "INVENTED", "1", derived_uid("invented", "node"), "0"),
    )


def _image() -> Dataset:
    image = Dataset()
    image.SOPClassUID = DigitalXRayImageStorageForPresentation
    image.SOPInstanceUID = derived_uid("invented", "image")
    image.StudyInstanceUID = derived_uid("invented", "study")
    image.SeriesInstanceUID = derived_uid("invented", "series")
    image.Modality = "DX"
    image.PatientName, image.PatientID = "Invented^Patient", "INVENTED"
    image.Rows = image.Columns = 64
    return image


def _bundle(name: str, kind: str) -> BundleIdentity:
    return BundleIdentity(name, "1.0.0", kind, name.replace("_", " "), "0" * 64, "0" * 64, ("input 64x64",))
