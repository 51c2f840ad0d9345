"""*AI triage findings*: what the bundles say, as a coded report that machines and viewers read.

One measurement group a class, positive and negative, and one for the anomaly score; urgency and run status of the study
stand at the root. Groups of TID 1410 do not belong in here: validators then judge every group by its rules.

Standard: PS3.16 TID 1500, TID 1501; PS3.3 A.35.13 (Comprehensive 3D SR), C.17.2 (SR Document General).
"""

from collections.abc import Iterator

import highdicom as hd
import numpy as np
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom import Dataset
from pydicom.sr.codedict import codes

from dicomnode.domain import codes as concept
from dicomnode.domain.findings import AnomalyFinding, BundleIdentity, BundleResult, Code, Finding
from dicomnode.domain.study import derived_uid
from dicomnode.evidence import Case, _words
from dicomnode.evidence._header import complete, series_arguments
from dicomnode.evidence._source import fits_image_library, requests, stand_in, unjudged

NAME = "measurement_report"
KIND = "AI triage findings"
SERIES_NUMBER = 9001
CONTAINS = hd.sr.RelationshipTypeValues.CONTAINS
_PROCEDURES = {"CT": concept.CT_PROCEDURE, "MR": concept.MR_PROCEDURE}


class _Document(hd.sr.Comprehensive3DSR):
    """The document without highdicom's copy of the patient, which fails for private SOP classes; `complete` copies."""

    def copy_patient_and_study_information(self, dataset: Dataset) -> None:
        """Copy nothing."""


@unjudged()
def encode(case: Case) -> list[Dataset]:
    """Return one Comprehensive 3D SR, or none if no bundle assessed anything (TID 1500 wants a measurement)."""
    stand_ins = [stand_in(source) for source in case.sources]
    images = {str(image.SOPInstanceUID): image for image in stand_ins}
    groups = list(_groups(case, images))
    if not groups:
        return []
    referenced = case.referenced
    key_images = [image for uid, image in images.items() if uid in referenced]
    report = hd.sr.MeasurementReport(
        observation_context=_observer(case),
        procedure_reported=_concept(_PROCEDURES.get(key_images[0].Modality, concept.IMAGING_PROCEDURE)),
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
        referenced_images=key_images if fits_image_library(key_images) else None,
    )
    report[0].ContentSequence.append(_study_level(case))
    ds = _document(case, list(images.values()))
    ds.ContentSequence = report[0].ContentSequence
    _separate(ds)
    complete(ds, case)
    return [ds]


def _document(case: Case, images: list[Dataset]) -> Dataset:
    """Return the document with an empty root: highdicom copies and searches a tree three times, 2/3 of its time."""
    has_anomaly = any(result.anomaly for result in case.results)
    root = hd.sr.ContainerContentItem(codes.DCM.ImagingMeasurementReport, template_id="1500")
    root.ContentSequence = hd.sr.ContentSequence()
    ds = _Document(
        evidence=images,
        content=root,
        is_complete=True,
        is_final=False,
        is_verified=False,
        coding_schemes=[_private_scheme()] if has_anomaly else None,
        requested_procedures=requests(case.sources[0]) or None,
        **series_arguments(case, NAME, KIND, SERIES_NUMBER),
    )
    if case.predecessors:
        ds.PredecessorDocumentsSequence = _predecessors(case)
    return ds


def _groups(case: Case, images: dict[str, Dataset]) -> Iterator[hd.sr.MeasurementsAndQualitativeEvaluations]:
    for result in case.results:
        for finding in result.findings:
            yield _class_group(case, result, finding, images[finding.sop_instance_uid])
        if result.anomaly:
            yield _anomaly_group(case, result, result.anomaly, images[result.anomaly.sop_instance_uid])


def _class_group(
    case: Case, result: BundleResult, finding: Finding, image: Dataset
) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    presence = concept.PRESENT if finding.is_suspected else concept.ABSENT
    group = hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(case, result.bundle, finding.label),
        finding_type=_concept(finding.code),
        finding_sites=[hd.sr.FindingSite(anatomic_location=_concept(finding.site))] if finding.site else None,
        algorithm_id=_algorithm(result.bundle),
        source_images=[hd.sr.SourceImageForMeasurementGroup.from_source_image(image)],
        measurements=[
            _number(concept.PROBABILITY, _words.percent(finding.probability), concept.PERCENT, image),
            _number(concept.THRESHOLD_VALUE, _words.percent(finding.threshold), concept.PERCENT),
        ],
        qualitative_evaluations=[hd.sr.QualitativeEvaluation(_concept(concept.PRESENCE), _concept(presence))],
    )
    group[0].ContentSequence.append(_comment(_words.finding_sentence(finding, result.when_unusual)))
    return group


def _anomaly_group(
    case: Case, result: BundleResult, anomaly: AnomalyFinding, image: Dataset
) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    """Return the group of a score; only an unusual image has a finding, and no score is ever called normal."""
    unusual = hd.sr.QualitativeEvaluation(_concept(concept.NORMALITY), _concept(concept.ABNORMALLY_HIGH))
    group = hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(case, result.bundle, anomaly.label),
        finding_type=_concept(concept.ABNORMAL) if anomaly.is_unusual else None,
        algorithm_id=_algorithm(result.bundle),
        source_images=[hd.sr.SourceImageForMeasurementGroup.from_source_image(image)],
        measurements=[
            _number(concept.ANOMALY_SCORE, round(anomaly.score, 4), concept.SCORE_UNIT, image),
            _number(concept.THRESHOLD_VALUE, round(anomaly.threshold, 4), concept.SCORE_UNIT),
        ],
        qualitative_evaluations=[unusual] if anomaly.is_unusual else None,
    )
    group[0].ContentSequence.append(_comment(_words.anomaly_sentence(anomaly, result.when_unusual)))
    return group


def _study_level(case: Case) -> hd.sr.ContainerContentItem:
    """Return what holds for the whole study: urgency, run status, what was not assessed. TID 1500 row 12."""
    container = hd.sr.ContainerContentItem(_concept(concept.QUALITATIVE_EVALUATIONS), relationship_type=CONTAINS)
    items = [
        _code(concept.PRIORITY, concept.PRIORITY_VALUES[case.priority]),
        _code(concept.PROCESSING_SUMMARY, concept.processing_summary(case.results)),
        *(_comment(sentence) for sentence in _words.not_assessed(case.results)),
    ]
    container.ContentSequence = hd.sr.ContentSequence(items)
    return container


def _observer(case: Case) -> hd.sr.ObservationContext:
    node = case.node
    attributes = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=node.device_uid,
        name=node.ae_title,
        manufacturer_name=node.manufacturer,
        model_name=node.model_name,
        serial_number=node.serial_number,
    )
    return hd.sr.ObservationContext(observer_device_context=hd.sr.ObserverContext(codes.DCM.Device, attributes))


def _tracking(case: Case, bundle: BundleIdentity, label: str) -> hd.sr.TrackingIdentifier:
    return hd.sr.TrackingIdentifier(uid=case.uid("tracking", bundle.name, label), identifier=label)


def _algorithm(bundle: BundleIdentity) -> hd.sr.AlgorithmIdentification:
    digests = (f"bundle sha256 {bundle.digest}", f"weights sha256 {bundle.weights_digest}")
    return hd.sr.AlgorithmIdentification(
        name=bundle.name,
        version=bundle.version,
        family=_concept(concept.ARTIFICIAL_INTELLIGENCE),
        parameters=[*bundle.parameters, *digests],
    )


def _number(name: Code, value: float, unit: Code, image: Dataset | None = None) -> hd.sr.Measurement:
    """Return a measurement; with `image` its field is the whole image, as a closed line (viewers need a place)."""
    whole = None
    if image is not None:
        w, h = float(image.Columns), float(image.Rows)
        line = np.array([[0.0, 0.0], [w, 0.0], [w, h], [0.0, h], [0.0, 0.0]])  # (5, 2): column, row
        reference = hd.sr.SourceImageForRegion.from_source_image(image)
        whole = [hd.sr.CoordinatesForMeasurement(hd.sr.GraphicTypeValues.POLYLINE, line, reference)]
    return hd.sr.Measurement(name=_concept(name), value=float(value), unit=_concept(unit), referenced_coordinates=whole)


def _comment(words: str) -> hd.sr.TextContentItem:
    return hd.sr.TextContentItem(name=_concept(concept.COMMENT), value=words, relationship_type=CONTAINS)


def _code(name: Code, value: Code) -> hd.sr.CodeContentItem:
    return hd.sr.CodeContentItem(name=_concept(name), value=_concept(value), relationship_type=CONTAINS)


def _concept(code: Code) -> hd.sr.CodedConcept:
    return hd.sr.CodedConcept(code.value, code.scheme, code.meaning)


def _private_scheme() -> CodingSchemeIdentificationItem:
    return CodingSchemeIdentificationItem(
        designator=concept.CODING_SCHEME,
        name="dicomnode private codes",
        version="1",
        uid=derived_uid("coding scheme", concept.CODING_SCHEME),
        responsible_organization="dicomnode project",
    )


def _predecessors(case: Case) -> list[Dataset]:
    """Return items of Predecessor Documents Sequence, one a study and series. Standard: PS3.3 C.17.2.3."""
    items = []
    for before in case.predecessors:
        instance, series, study = Dataset(), Dataset(), Dataset()
        instance.ReferencedSOPClassUID = before.sop_class_uid
        instance.ReferencedSOPInstanceUID = before.sop_instance_uid
        series.SeriesInstanceUID = before.series_instance_uid
        series.ReferencedSOPSequence = [instance]
        study.StudyInstanceUID = before.study_instance_uid
        study.ReferencedSeriesSequence = [series]
        items.append(study)
    return items


def _separate(ds: Dataset) -> None:
    """Mark every container SEPARATE: highdicom writes CONTINUOUS, and viewers then run the values together."""
    if ds.get("ValueType") == "CONTAINER":
        ds.ContinuityOfContent = "SEPARATE"
    for item in ds.get("ContentSequence", ()):
        _separate(item)
