"""*AI summary*: one page of text as a picture, for viewers that show no Structured Report.

It names the patient, so that a page alone still belongs to somebody; it shows no image, no mark and no number that a
reader could take for a diagnosis.

Standard: PS3.3 A.8.1 (Secondary Capture Image), C.8.6.1, C.8.6.2; C.11.2 (VOI LUT, so that no viewer guesses a window).
"""

from collections.abc import Iterator

import highdicom as hd
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import PersonName

from dicomnode.domain.findings import Finding
from dicomnode.evidence import Case
from dicomnode.evidence._header import complete, local_time, series_arguments
from dicomnode.evidence._page import DIM, Line, draw, spelled
from dicomnode.evidence._source import copied, lawful_text, stand_in, text, unjudged
from dicomnode.evidence._words import CONSEQUENCE, UNLIKE, URGENCY, WARNING, model_name, not_assessed, unusual_images

NAME = "summary_image"
KIND = "AI summary"
SERIES_NUMBER = 9004
UNPAIRED = frozenset(
    (
        *(
            "ABDOMEN",
            "BRAIN",
            "CHEST",
            "CSPINE",
            "HEAD",
            "HEART",
            "LSPINE",
            "MEDIASTINUM",
            "NECK",
            "PELVIS",
            "PROSTATE",
        ),
        *("SKULL", "SPINE", "SSPINE", "STERNUM", "TSPINE", "WHOLEBODY"),
    )
)


@unjudged()
def encode(case: Case) -> list[Dataset]:
    """Return one Secondary Capture image."""
    source = case.sources[0]
    ds = hd.sc.SCImage.from_ref_dataset(
        ref_dataset=stand_in(source),
        pixel_array=draw(_lines(case)),
        photometric_interpretation="MONOCHROME2",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **series_arguments(case, NAME, KIND, SERIES_NUMBER),
    )
    ds.PatientOrientation = []  # a page of text has none; highdicom does not build without
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.ConversionType = "WSD"
    ds.BurnedInAnnotation = "YES"
    ds.RecognizableVisualFeatures = "NO"
    ds.DerivationDescription = "Page of text written from AI results; shows no image"
    ds.WindowCenter, ds.WindowWidth = "128", "256"
    images = (stand_in(source) for source in case.sources)
    referenced = case.referenced
    ds.SourceImageSequence = [_reference(image) for image in images if image.SOPInstanceUID in referenced]
    _add_body_part(ds, source)
    complete(ds, case)
    ds.DateOfSecondaryCapture, ds.TimeOfSecondaryCapture = ds.ContentDate, ds.ContentTime
    return [ds]


def _lines(case: Case) -> Iterator[Line]:
    yield Line("AI triage summary", size=44)
    yield Line(WARNING, size=48, space=14, banner=True)
    yield from _identity(case)
    yield Line("Suspected findings", size=24, ink=DIM, space=26)
    yield Line(_suspicion(case), size=40)
    if unusual := unusual_images(case.results):
        setting = next(result.when_unusual for result in case.results if result.anomaly)
        yield Line(unusual, size=32)
        yield Line(CONSEQUENCE[setting].capitalize())
    yield Line("Urgency suggested", size=24, ink=DIM, space=22)
    yield Line(URGENCY[case.priority], size=40)
    yield from _coverage(case)
    yield from _provenance(case)


def _identity(case: Case) -> Iterator[Line]:
    source = case.sources[0]
    yield Line(f"Patient: {_name(source)}", size=32, space=20)
    yield Line(f"Patient ID: {spelled(text(source, 'PatientID')) or '(none)'}", size=32)
    yield Line(f"Study date: {_date(text(source, 'StudyDate'))}")
    yield Line(f"Accession number: {spelled(text(source, 'AccessionNumber')) or '(none)'}")


def _suspicion(case: Case) -> str:
    findings = [finding for result in case.results for finding in result.findings]
    withheld = any(result.withheld for result in case.results)
    if suspected := ", ".join(_label(f) for f in findings if f.is_suspected):
        return suspected
    if not findings:
        return f"not assessed: image {UNLIKE}" if withheld else "no finding was looked for"
    return "none of the findings that were assessed" if withheld else "none of the findings looked for"


def _label(finding: Finding) -> str:
    return f"{finding.label} (on an image {UNLIKE})" if finding.is_from_unusual else finding.label


def _coverage(case: Case) -> Iterator[Line]:
    """Yield what was and what was not assessed: silence must not read as an all-clear."""
    negative = [_label(f) for result in case.results for f in result.findings if not f.is_suspected]
    assessed = {uid for result in case.results for uid in result.assessed}
    questions = ["the findings named above"] if any(result.findings for result in case.results) else []
    questions += ["how unusual it is"] if any(result.anomaly for result in case.results) else []
    if negative:
        yield Line("Looked for and not suspected", size=24, ink=DIM, space=22)
        yield Line(", ".join(negative))
    yield Line("Assessed", size=24, ink=DIM, space=16)
    yield Line(f"{len(assessed)} image{'' if len(assessed) == 1 else 's'}: {', '.join(questions) or 'nothing'}")
    yield Line("Not assessed", size=24, ink=DIM, space=16)
    for sentence in not_assessed(case.results):
        yield Line(sentence)
    yield Line("Everything that this page does not name. A finding that is not suspected is not excluded.")


def _provenance(case: Case) -> Iterator[Line]:
    yield Line("Made by", size=20, ink=DIM, space=24)
    for result in case.results:
        yield Line(model_name(result.bundle), size=20, ink=DIM, space=2)
    node = case.node
    at = local_time(case).strftime("%Y-%m-%d %H:%M:%S %Z")
    made = f"{node.model_name} {node.software_version}, {node.station_name}, {at}, study version {case.version_number}"
    yield Line(made, size=20, ink=DIM, space=2)


def _name(source: Dataset) -> str:
    """Return the name as the source has it, its parts in their order; the first component group that says something."""
    element = copied(source, "PatientName")
    if element is None or not isinstance(element.value, PersonName):
        return "(none)"
    name = element.value
    groups = (group.strip("^ ") for group in (name.alphabetic, name.ideographic, name.phonetic))
    given = next((group for group in groups if group), "")
    return given.replace("^", ", ", 1).replace("^", " ") or "(none)"


def _date(value: str) -> str:
    is_plain = len(value) == 8 and value.isascii() and value.isdigit()
    return f"{value[:4]}-{value[4:6]}-{value[6:]}" if is_plain else value or "(none)"


def _reference(image: Dataset) -> Dataset:
    purpose = hd.sr.CodedConcept.from_code(codes.DCM.SourceImageForImageProcessingOperation)
    item = Dataset()
    item.ReferencedSOPClassUID = image.SOPClassUID
    item.ReferencedSOPInstanceUID = image.SOPInstanceUID
    item.PurposeOfReferenceCodeSequence = [purpose]
    return item


def _add_body_part(ds: Dataset, source: Dataset) -> None:
    """Add Body Part Examined, and Laterality unless the part has no sides (Type 2C: empty is "unknown", C.7.3.1)."""
    part = lawful_text(source, "BodyPartExamined")
    if part:
        ds.BodyPartExamined = part
    if part not in UNPAIRED:
        side = text(source, "Laterality") or text(source, "ImageLaterality")
        ds.Laterality = side if side in ("L", "R") else None
