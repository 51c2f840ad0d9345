"""Which instances of a study a bundle looks at, and in plain words why not the others.

Real headers leave things out. A body part that `BodyPartExamined` does not name may be named by the anatomic region or
in free text; a view that is nowhere named is accepted on an image of the right body part (the anomaly score is there
for the rest); a lateral view is refused wherever it is written.
Standard: PS3.3 C.7.3.1, C.8.7.1 (CR), C.8.11.5 (DX positioning); PS3.16 CID 4010 (views).
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import UID

from dicomnode.errors import SpoolFileMissing
from dicomnode.inference.header import read_header
from dicomnode.inference.manifest import Selection

KEYWORDS = (
    "AnatomicRegionSequence",
    "BodyPartExamined",
    "Columns",
    "Modality",
    "NumberOfFrames",
    "PatientAge",
    "PatientOrientation",
    "ProtocolName",
    "Rows",
    "SamplesPerPixel",
    "SeriesDescription",
    "StudyDescription",
    "ViewCodeSequence",
    "ViewPosition",
)
SYNONYMS = {"CHEST": {"CHEST", "THORAX", "TORAX", "LUNG", "LUNGS", "CXR"}}
"""What else a body part is called, in free text and by vendors."""
# fmt: off
OTHER_PARTS = frozenset({
    "ABDOMEN", "ANKLE", "ARM", "BREAST", "CLAVICLE", "CSPINE", "ELBOW", "FEMUR", "FINGER", "FOOT", "HAND", "HEAD",
    "HIP", "HUMERUS", "KNEE", "LEG", "LSPINE", "NECK", "PELVIS", "SHOULDER", "SKULL", "SPINE", "TSPINE", "WRIST",
})
# fmt: on
VIEW_CODES = {"272479007": "PA", "399348003": "AP", "399067008": "LATERAL", "399173006": "LL", "399198007": "RL"}
LATERAL_WORDS = frozenset({"LATERAL", "LAT", "LL", "RL"})
FRONTAL_WORDS = frozenset({"PA", "AP", "FRONTAL"})
UNNAMED = frozenset({"", "UNKNOWN", "UNDEFINED", "OTHER", "NONE"})
DAYS = {"D": 1.0, "W": 7.0, "M": 30.4375, "Y": 365.25}


@dataclass(frozen=True, slots=True)
class SourceInstance:
    """An instance of a study: where its file lies, and what its row already says."""

    path: Path
    sop_instance_uid: str
    sop_class_uid: str
    modality: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an instance is not looked at; of several in a study, the one that came furthest tells most."""

    reason: str
    stage: int


def refusal(instance: SourceInstance, selection: Selection) -> Refusal | None:
    """Return why `selection` refuses `instance`, None where it takes it, whatever the file holds.

    Raises `SpoolFileMissing` if the file is gone.
    """
    reason = _refused_by_row(instance, selection)
    if reason:
        return Refusal(reason, 0)
    try:
        ds = read_header(instance.path, [*KEYWORDS, *selection.exclude])
        return _refused_by_header(ds, selection)
    except FileNotFoundError as exc:
        raise SpoolFileMissing(f"{instance.path.name} cannot be read: {exc.strerror}") from exc
    except Exception as exc:  # noqa: BLE001  a file can make its reader raise anything, RecursionError too
        return Refusal(f"the header cannot be read ({type(exc).__name__})", 1)


def most_telling(refusals: Sequence[Refusal]) -> str:
    """Return the commonest reason among those that came furthest."""
    furthest = max((refused.stage for refused in refusals), default=0)
    reasons = Counter(refused.reason for refused in refusals if refused.stage == furthest)
    return min(reasons, key=lambda reason: (-reasons[reason], reason)) if reasons else "no image in the study"


def _refused_by_row(instance: SourceInstance, selection: Selection) -> str:
    if selection.modalities and instance.modality and instance.modality not in selection.modalities:
        return f"modality {instance.modality}, not {_either(selection.modalities)}"
    if selection.sop_classes and instance.sop_class_uid not in selection.sop_classes:
        return f"{UID(instance.sop_class_uid).name} is not accepted"
    return ""


def _refused_by_header(ds: Dataset, selection: Selection) -> Refusal | None:
    checks = (_modality, _excluded, _shape, _age, _body_part, _view)
    for stage, check in enumerate(checks, start=1):
        reason = check(ds, selection)
        if reason:
            return Refusal(reason, stage)
    return None


def _modality(ds: Dataset, selection: Selection) -> str:
    modality = _text(ds, "Modality")
    if selection.modalities and modality not in selection.modalities:
        return f"modality {modality or 'not named'}, not {_either(selection.modalities)}"
    return ""


def _excluded(ds: Dataset, selection: Selection) -> str:
    for keyword, values in selection.exclude.items():
        if _text(ds, keyword) in values:
            return f"{keyword} is {_text(ds, keyword)}"
    return ""


def _shape(ds: Dataset, selection: Selection) -> str:
    rows, columns = _number(ds, "Rows", 0), _number(ds, "Columns", 0)
    if not rows or not columns:
        return "no image in the object"
    if rows < selection.min_rows or columns < selection.min_columns:
        return f"{rows} x {columns} pixels, fewer than {selection.min_rows} x {selection.min_columns}"
    if _number(ds, "SamplesPerPixel", 1) != 1:
        return "colour image"
    if _number(ds, "NumberOfFrames", 1) > 1:
        return "more than one frame"
    return ""


def _age(ds: Dataset, selection: Selection) -> str:
    if selection.min_age_years is None and selection.max_age_years is None:
        return ""
    found = re.fullmatch(r"(\d{1,3})([DWMY])", _text(ds, "PatientAge"))
    if not found:
        return "the patient's age is not named"
    years = int(found[1]) * DAYS[found[2]] / DAYS["Y"]
    if selection.min_age_years is not None and years < selection.min_age_years:
        return f"the patient is younger than {selection.min_age_years:g} years"
    if selection.max_age_years is not None and years > selection.max_age_years:
        return f"the patient is older than {selection.max_age_years:g} years"
    return ""


def _body_part(ds: Dataset, selection: Selection) -> str:
    """Trust BodyPartExamined, then the anatomic region, then free text; silence is a refusal."""
    if not selection.body_parts:
        return ""
    wanted = {word for part in selection.body_parts for word in {part, *SYNONYMS.get(part, set())}}
    either = _either(selection.body_parts)
    named = _text(ds, "BodyPartExamined")
    if named not in UNNAMED:
        return "" if _words(named) & wanted else f"body part is {named[:16]}, not {either}"
    for text in (_meanings(ds, "AnatomicRegionSequence"), *_free_text(ds), _text(ds, "StudyDescription")):
        if _words(text) & wanted:
            return ""
        others = sorted(_words(text) & OTHER_PARTS)
        if others:
            return f"body part is {others[0]}, not {either}"
    return f"the header does not say that it shows {either}"


def _view(ds: Dataset, selection: Selection) -> str:
    """Trust ViewPosition, then the view code; free text and orientation may only refuse."""
    if not selection.views:
        return ""
    named = _text(ds, "ViewPosition") or _view_code(ds)
    if named:
        words = _words(named)
        if words & set(selection.excluded_views):
            return "lateral view" if words & {*LATERAL_WORDS, "LLD", "RLD"} else f"{named[:16]} view"
        return "" if words & set(selection.views) else f"view is {named[:32]}, not {_either(selection.views)}"
    if any(_words(text) & LATERAL_WORDS and not _words(text) & FRONTAL_WORDS for text in _free_text(ds)):
        return "lateral view"
    # rows that run to the front or the back of the patient: PS3.3 C.7.6.1.1.1
    return "lateral view" if _text(ds, "PatientOrientation")[:1] in ("A", "P") else ""


def _view_code(ds: Dataset) -> str:
    for item in ds.get("ViewCodeSequence") or ():
        return VIEW_CODES.get(_text(item, "CodeValue")) or _text(item, "CodeMeaning")
    return ""


def _free_text(ds: Dataset) -> tuple[str, str]:
    """Return what speaks of this image; StudyDescription speaks of the whole study ("CHEST PA AND LAT")."""
    return _text(ds, "SeriesDescription"), _text(ds, "ProtocolName")


def _meanings(ds: Dataset, keyword: str) -> str:
    return " ".join(_text(item, "CodeMeaning") for item in ds.get(keyword) or ())


def _text(ds: Dataset, keyword: str) -> str:
    value = ds.get(keyword)
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return "\\".join(str(part) for part in values if part is not None).strip().upper()


def _number(ds: Dataset, keyword: str, default: int) -> int:
    value = ds.get(keyword)
    return default if value is None else int(value)


def _words(text: str) -> set[str]:
    return set(re.findall(r"[A-Z]+", text))


def _either(values: Sequence[str]) -> str:
    return " or ".join(values)
