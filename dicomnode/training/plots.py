"""The plots of an evaluation report as inline SVG that takes the colour of the page's text: readable light and dark."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from dicomnode.training.weighted import BINS, Labels, Scores, Values

INK = "#010203"
"""Stands for the text's colour until the SVG is written."""
POSITIVE, NEGATIVE, QUIET = "#d1495b", "#3a86c8", "#8a8a8a"
STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 9,
    "font.family": "sans-serif",
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
}
Curve = tuple[str, Scores, Labels]
"""A name, scores and labels 0 and 1."""


def roc(curves: Sequence[Curve], points: Sequence[tuple[float, float]], name: str) -> str:
    """Return the ROC curve of each class; `points` are (specificity, sensitivity) of the operating points."""

    def draw(ax: Axes) -> None:
        ax.plot([0, 1], [0, 1], ":", color=QUIET)
        for label, scores, labels in curves:
            hits, alarms = _cumulative(scores, labels)
            ax.plot(alarms / alarms[-1], hits / hits[-1], linewidth=1.5, label=label)
        for specificity, sensitivity in points:
            ax.plot(1 - specificity, sensitivity, "o", color=INK, markersize=5)
        ax.set(xlabel="1 - specificity", ylabel="sensitivity", xlim=(-0.01, 1), ylim=(0, 1.01))
        ax.legend(loc="lower right")

    return _one(draw, f"ROC curve, {name}")


def precision_recall(curves: Sequence[Curve], name: str) -> str:
    """Return the precision-recall curve of each class."""

    def draw(ax: Axes) -> None:
        for label, scores, labels in curves:
            hits, alarms = _cumulative(scores, labels)
            ax.step(hits[1:] / hits[-1], hits[1:] / (hits + alarms)[1:], where="pre", linewidth=1.5, label=label)
        ax.set(xlabel="sensitivity (recall)", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.01))
        ax.legend(loc="lower left")

    return _one(draw, f"precision-recall curve, {name}")


def reliability(scores: Scores, labels: Labels, name: str) -> str:
    """Return said against found probability in 15 equal bins; a bar below shows how many images a bin has."""
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    some = counts > 0
    said = np.bincount(bins, scores, minlength=BINS)[some] / counts[some]
    found = np.bincount(bins, labels, minlength=BINS)[some] / counts[some]

    def draw(ax: Axes) -> None:
        ax.plot([0, 1], [0, 1], ":", color=QUIET)
        places = (np.arange(BINS) + 0.5) / BINS
        ax.bar(places, counts / counts.sum(), 0.9 / BINS, color=QUIET, alpha=0.4, label="share of images")
        ax.plot(said, found, "o-", color=POSITIVE, markersize=4, label="found")
        ax.set(xlabel="probability said", ylabel="share that was positive", xlim=(0, 1), ylim=(0, 1.01))
        ax.legend(loc="upper left")

    return _one(draw, f"calibration, {name}")


def histogram(groups: Mapping[str, Scores], threshold: float | None, name: str) -> str:
    """Return how the probabilities of two groups lie, on a logarithmic count."""

    def draw(ax: Axes) -> None:
        edges = np.linspace(0, 1, 31)
        for (label, scores), color in zip(groups.items(), (NEGATIVE, POSITIVE), strict=False):
            ax.hist(scores, edges.tolist(), color=color, alpha=0.55, label=label)
        if threshold is not None:
            ax.axvline(threshold, color=INK, linestyle="--", linewidth=1, label=f"from {threshold:.4f}")
        ax.set(xlabel="probability", ylabel="images", yscale="log")
        ax.yaxis.set_major_formatter(_plain)
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.legend(loc="upper center")

    return _one(draw, f"probabilities by class, {name}")


def against_genuine(genuine: Scores, others: Mapping[str, Scores], threshold: float) -> str:
    """Return the anomaly scores of each kind of wrong input beside the genuine ones."""
    everything = np.concatenate([genuine, *others.values()])
    low, high = max(float(everything.min()), 1e-3), max(float(everything.max()), 1e-2)
    edges = np.geomspace(low * 0.95, high * 1.05, 41).tolist()
    rows = -(-len(others) // 3)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 0.5 + 1.6 * rows), layout="constrained")
        axes = figure.subplots(rows, 3, squeeze=False, sharex=True).ravel().tolist()
        for ax, (name, scores) in zip(axes, others.items(), strict=False):
            for label, values, color in (("genuine", genuine, NEGATIVE), ("this kind", scores, POSITIVE)):
                ax.hist(
                    values, edges, weights=np.full(len(values), 1 / len(values)), color=color, alpha=0.55, label=label
                )
            ax.axvline(threshold, color=INK, linestyle="--", linewidth=1)
            ax.set_title(name, fontsize=9)
            ax.set(xscale="log", yticks=[])
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_major_formatter(_plain)
            ax.xaxis.set_minor_formatter(NullFormatter())
        for ax in axes[len(others) :]:
            ax.set_axis_off()
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
        figure.supxlabel("anomaly score; dashed: the threshold", fontsize=9)
        return _svg(figure, "anomaly scores of each kind of wrong input beside the genuine images")


_plain = FuncFormatter(lambda value, _: f"{value:g}")
"""Ticks without powers: mathematical text is off, names come from files."""


def _cumulative(scores: Scores, labels: Labels) -> tuple[Values, Values]:
    """Return true and false positives at or above each different score, from none to all."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    hits = np.cumsum(labels[order])[ends]
    return np.append(0.0, hits), np.append(0.0, ends + 1 - hits)


def _one(draw: Callable[[Axes], None], title: str) -> str:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.4, 3.5), layout="constrained")
        draw(figure.subplots())
        return _svg(figure, title)


def _svg(figure: Figure, title: str) -> str:
    """Return a figure as an SVG element with `title` as its name, no two with the same ids, the same bytes again."""
    with mpl.rc_context({"svg.hashsalt": title}):
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    text = written.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    prefix = re.sub(r"\W+", "-", title)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1).replace(INK, "currentColor")
