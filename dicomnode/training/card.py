"""The measured figures of a model card, as Markdown, from the tables of `training/evaluate.py`."""

from collections.abc import Iterator, Mapping
from typing import Any

from dicomnode.inference.manifest import AnomalyOutput, ClassifierOutput

Figures = Mapping[str, Any]  # as read back from metrics.json


def classifier_figures(sets: Mapping[str, Figures], output: ClassifierOutput) -> str:
    """Return the metric table of every set, with its floors, linear baseline and subgroups."""
    points = [
        f"Operating point: {known.label} from probability {known.operating_point.threshold:.4f} "
        f"({known.operating_point.rule})."
        for known in output.classes
    ]
    names = list(next(iter(sets.values()))["metrics"])
    lines = [
        *points,
        "In brackets: 95 % bootstrap interval by patient.",
        "",
        f"| set | images{' (positive)' if len(output.names) == 1 else ''} | {' | '.join(names)} |",
        f"|---|---|{'---|' * len(names)}",
    ]
    for name, table in sets.items():
        cells = [figure_text(table["metrics"][metric]) for metric in names]
        lines.append(f"| {name} | {count_text(table)} | {' | '.join(cells)} |")
    lines += [
        "",
        "Shortcut floors, what a number that is no anatomy reaches, and the linear baseline (28x28 pixels):",
        "",
    ]
    lines += [f"- {name}: {', '.join(beside)}" for name, table in sets.items() if (beside := list(_beside(table)))]
    lines += _subgroups(sets)
    return "\n".join([*lines, ""])


def _beside(table: Figures) -> Iterator[str]:
    yield from (f"{floor} {value:.3f}" for floor, value in table["floors"].items())
    yield from (f"baseline {name} {figure_text(figure)}" for name, figure in table.get("baseline", {}).items())


def _subgroups(sets: Mapping[str, Figures]) -> list[str]:
    rows = [
        f"- {name}, {group} ({count_text(part)}): "
        + ", ".join(f"{metric} {figure_text(figure)}" for metric, figure in part["metrics"].items())
        for name, table in sets.items()
        for group, part in table.get("subgroups", {}).items()
    ]
    return ["", "Subgroups:", "", *rows] if rows else []


def count_text(table: Figures) -> str:
    """Return the number of images, and of positive ones where the classifier has one output."""
    return f"{table['images']} ({table['positives']})" if "positives" in table else str(table["images"])


def figure_text(figure: Figures | None) -> str:
    """Return a value with its interval; None is a figure of too few images."""
    if figure is None:
        return "too few"
    if figure["value"] is None:
        return "not defined"
    if figure["interval"] is None:
        return f"{figure['value']:.3f}"
    low, high = figure["interval"]
    return f"{figure['value']:.3f} [{low:.3f}, {high:.3f}]"


def share_text(value: float, interval: tuple[float, float] | None) -> str:
    """Return a share in per cent with its interval."""
    return f"{value:.1%}" if interval is None else f"{value:.1%} [{interval[0]:.1%}, {interval[1]:.1%}]"


def anomaly_figures(table: Figures, output: AnomalyOutput) -> str:
    """Return the share of genuine images flagged and the table of wrong inputs."""
    low, high = table["genuine flagged interval"]
    lines = [
        f"Threshold {output.threshold:.4f}: quantile {output.flag_quantile} of {output.measured_on}.",
        f"Genuine test images flagged: {table['genuine flagged']:.1%} of {table['images']} "
        f"(95 % bootstrap interval by patient {low:.1%} to {high:.1%}).",
    ]
    if "reconstruction MSE" in table:
        least, most = table["reconstruction MSE interval"]
        lines.append(
            f"Mean squared error of the reconstruction on test images: {table['reconstruction MSE']:.6f} "
            f"[{least:.6f}, {most:.6f}]."
        )
    if "pneumonia by the score, AUC" in table:
        lines.append(f"The score does not find pneumonia: AUC {table['pneumonia by the score, AUC']:.3f}.")
    lines += [
        "",
        "| wrong input | images | AUC against the genuine test images | flagged | AUC of sharpness alone |",
        "|---|---|---|---|---|",
    ]
    for name, row in table["wrong inputs"].items():
        auc = figure_text({"value": row["AUC"], "interval": row["AUC interval"]})
        floor = row["AUC of sharpness alone"]
        lines.append(f"| {name} | {row['images']} | {auc} | {row['flagged']:.1%} | {floor:.3f} |")
    return "\n".join([*lines, ""])
