"""The page of an evaluation: one HTML file without any external resource, to be kept, mailed or printed."""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from dicomnode.inference.manifest import AnomalyOutput, ClassifierOutput
from dicomnode.training import plots
from dicomnode.training.card import count_text, figure_text, share_text
from dicomnode.training.evaluate import Evaluation, Figures, Scored

WORST = 8
"""Pictures of each kind of error."""


@dataclass(frozen=True)
class Case:
    """An image that the bundle gets wrong: its picture as a data URL, the file's name, and what was said."""

    picture: str
    name: str
    said: str


@dataclass(frozen=True)
class Section:
    """A set on the page: figures, plots by caption, and the worst cases by heading."""

    name: str
    table: Figures
    plots: dict[str, Markup]
    worst: dict[str, list[Case]]


def report(found: Evaluation) -> str:
    """Return the page. It shows pictures of the worst cases: whoever may not see the images may not see it."""
    environment = Environment(
        loader=PackageLoader("dicomnode.training"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(figure=figure_text, share=share_text, count=count_text)
    manifest = found.bundle.manifest
    values = {"bundle": found.bundle.identity, "manifest": manifest, "refused": found.refused}
    if manifest.anomaly is not None:
        page = environment.get_template("anomaly.html")
        return page.render(**values, section=_anomaly(manifest.anomaly, found))
    assert manifest.classifier is not None  # noqa: S101  the manifest has one output
    sections = [
        _classifier(manifest.classifier, name, scored, found.figures[name]) for name, scored in found.sets.items()
    ]
    return environment.get_template("classifier.html").render(**values, sections=sections)


def _classifier(output: ClassifierOutput, name: str, scored: Scored, table: Figures) -> Section:
    labels, scores = scored.images.labels, scored.scores
    if len(output.names) == 1:
        column, threshold = scores[:, 0], output.classes[0].operating_point.threshold
        curves = [(output.names[0], column, labels)]
        groups = {f"not {output.names[0]}": column[labels == 0], output.names[0]: column[labels == 1]}
        said, right = column, labels
    else:
        present = [number for number in range(len(output.names)) if (labels == number).any()]
        curves = [(output.names[n], scores[:, n], (labels == n).astype(np.int64)) for n in present]
        said, right, threshold = scores.max(1), (scores.argmax(1) == labels).astype(np.int64), None
        groups = {"right": said[right == 1], "wrong": said[right == 0]}
    points = [
        (point["specificity"]["value"], point["sensitivity"]["value"])
        for point in table["operating points"].values()
        if None not in (point["specificity"]["value"], point["sensitivity"]["value"])
    ]
    curves = [curve for curve in curves if 0 < curve[2].sum() < len(curve[2])]
    shown = {
        "ROC curve; the dot is the operating point": plots.roc(curves, points, name),
        "Precision-recall curve": plots.precision_recall(curves, name),
        "Calibration: said against found": plots.reliability(said, right, name),
        "Probabilities by class, logarithmic count": plots.histogram(groups, threshold, name),
    }
    return Section(name, table, _marked(shown), dict(_wrong_answers(output, scored)))


def _wrong_answers(output: ClassifierOutput, scored: Scored) -> Iterator[tuple[str, list[Case]]]:
    """Yield the most confident wrong answers under a heading each."""
    labels, scores = scored.images.labels, scored.scores
    if len(output.names) > 1:
        answers = scores.argmax(1)
        wrong = np.flatnonzero(answers != labels)
        ranked = wrong[np.argsort(-scores.max(1)[wrong], kind="stable")][:WORST]
        said = [f"is {output.names[labels[n]]}, said {output.names[answers[n]]} {scores[n].max():.3f}" for n in ranked]
        yield "Most confident wrong answers", _cases(scored, ranked.tolist(), said)
        return
    column, threshold, label = scores[:, 0], output.classes[0].operating_point.threshold, output.names[0]
    for heading, wrong, order in (
        (f"Not {label}, but suspected with the largest probability", (labels == 0) & (column >= threshold), -column),
        (f"{label}, but not suspected, smallest probability first", (labels == 1) & (column < threshold), column),
    ):
        rows = np.flatnonzero(wrong)
        ranked = rows[np.argsort(order[rows], kind="stable")][:WORST]
        yield heading, _cases(scored, ranked.tolist(), [f"probability {column[n]:.3f}" for n in ranked])


def _anomaly(output: AnomalyOutput, found: Evaluation) -> Section:
    (first, genuine), *others = found.sets.items()
    scores = {name: scored.scores[:, 0] for name, scored in others}
    shown = {}
    if scores:
        caption = f"{output.score_name} ({output.unit}), genuine and each kind of wrong input"
        shown[caption] = plots.against_genuine(genuine.scores[:, 0], scores, output.threshold)
    return Section(first, found.figures["test"], _marked(shown), dict(_missed(output, found)))


def _missed(output: AnomalyOutput, found: Evaluation) -> Iterator[tuple[str, list[Case]]]:
    """Yield the genuine images that are flagged and, of each kind, the wrong inputs that are not."""
    for number, (name, scored) in enumerate(found.sets.items()):
        column = scored.scores[:, 0]
        wrong = column > output.threshold if number == 0 else column <= output.threshold
        heading = (
            "Genuine, but flagged, largest score first" if number == 0 else f"{name}: not flagged, smallest score first"
        )
        rows = np.flatnonzero(wrong)
        ranked = rows[np.argsort((-column if number == 0 else column)[rows], kind="stable")][:WORST]
        if number == 0 or len(ranked):
            yield heading, _cases(scored, ranked.tolist(), [f"score {column[n]:.3f}" for n in ranked])


def _cases(scored: Scored, rows: list[int], said: list[str]) -> list[Case]:
    names = scored.images.names
    return [
        Case(
            _picture(scored.images.images[row]),
            f"image {row}" if names is None or not names[row] else str(names[row]),
            text,
        )
        for row, text in zip(rows, said, strict=True)
    ]


def _picture(image: Tensor) -> str:
    """Return what the network saw, (channels, rows, columns) in 0..1, as a data URL."""
    pixels = (image[0].clamp(0, 1) * 255).round().byte().numpy()
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()


def _marked(shown: dict[str, str]) -> dict[str, Markup]:
    """Return SVG that we drew ourselves (matplotlib escapes the names in it) as safe to put into the page."""
    return {caption: Markup(svg) for caption, svg in shown.items()}  # noqa: S704
