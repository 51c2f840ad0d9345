"""The measured figures of a model card, as Markdown."""

from collections.abc import Mapping
from typing import Any

from dicomnode.inference.manifest import AnomalyOutput, ClassifierOutput

Figures = Mapping[str, Any]  # as read back from metrics.json


def classifier_figures(sets: Mapping[str, Figures], output: ClassifierOutput) -> str:
    """Return the metric table of every set, with its floors."""
    point = output.classes[0].operating_point
    names = list(next(iter(sets.values()))["metrics"])
    lines = [
        f"Operating point: {output.classes[0].label} from probability {point.threshold:.4f} ({point.rule}).",
        "In brackets: 95 % bootstrap interval by patient.",
        "",
        f"| set | images (positive) | {' | '.join(names)} |",
        f"|---|---|{'---|' * len(names)}",
    ]
    for name, table in sets.items():
        cells = [
            f"{m['value']:.3f} [{m['interval'][0]:.3f}, {m['interval'][1]:.3f}]" for m in table["metrics"].values()
        ]
        lines.append(f"| {name} | {table['images']} ({table['positives']}) | {' | '.join(cells)} |")
    lines += ["", "Shortcut floors, what a number that is no lung reaches:", ""]
    for name, table in sets.items():
        if table["floors"]:
            lines.append(f"- {name}: " + ", ".join(f"{floor} {value:.3f}" for floor, value in table["floors"].items()))
    return "\n".join([*lines, ""])


def anomaly_figures(table: Figures, output: AnomalyOutput) -> str:
    """Return the share of genuine images flagged and the table of wrong inputs."""
    low, high = table["genuine flagged interval"]
    lines = [
        f"Threshold {output.threshold:.4f}: quantile {output.flag_quantile} of {output.measured_on}.",
        f"Genuine test images flagged: {table['genuine flagged']:.1%} of {table['images']} "
        f"(95 % bootstrap interval by patient {low:.1%} to {high:.1%}).",
        f"Mean squared error of the reconstruction on test images: {table['reconstruction MSE']:.6f} "
        f"[{table['reconstruction MSE interval'][0]:.6f}, {table['reconstruction MSE interval'][1]:.6f}].",
    ]
    if "pneumonia by the score, AUC" in table:
        lines.append(f"The score does not find pneumonia: AUC {table['pneumonia by the score, AUC']:.3f}.")
    lines += [
        "",
        "| wrong input | images | AUC against the genuine test images | flagged |",
        "|---|---|---|---|",
    ]
    for name, row in table["wrong inputs"].items():
        lines.append(f"| {name} | {row['images']} | {row['AUC']:.3f} | {row['flagged']:.1%} |")
    return "\n".join([*lines, ""])


def many_classes_figures(sets: Mapping[str, Figures], output: ClassifierOutput) -> str:
    """Return the figures of exclusive classes: of all, and of each reported class at its operating point."""
    lines = ["In brackets: 95 % bootstrap interval by patient.", ""]
    names = list(next(iter(sets.values()))["metrics"])
    lines += [f"| set | images | {' | '.join(names)} |", f"|---|---|{'---|' * len(names)}"]
    for name, table in sets.items():
        lines.append(f"| {name} | {table['images']} | {' | '.join(map(_cell, table['metrics'].values()))} |")
    name, last = list(sets.items())[-1]
    lines += [
        "",
        f"Each class against the rest, {name}, suspected from its threshold "
        f"({output.classes[0].operating_point.rule}):",
        "",
    ]
    lines += ["| class | threshold | images | AUC | sensitivity | specificity |", "|---|---|---|---|---|---|"]
    for known in output.classes:
        row = last["classes"][known.label]
        cells = " | ".join(_cell(row[key]) for key in ("AUC", "sensitivity", "specificity"))
        lines.append(f"| {known.label} | {known.operating_point.threshold:.4f} | {row['positives']} | {cells} |")
    return "\n".join([*lines, ""])


def _cell(measured: Figures) -> str:
    text = f"{measured['value']:.4f}"
    return (
        text if "interval" not in measured else f"{text} [{measured['interval'][0]:.4f}, {measured['interval'][1]:.4f}]"
    )
