"""`dicomnode evaluate` on the committed chest bundles gives the figures that were written down at training."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from dicomnode.cli.evaluate import evaluate
from dicomnode.inference.bundle import builtin_directory

pytestmark = pytest.mark.data
LAST_DECIMAL = 1.01e-4
"""Figures are rounded to four decimals, and float32 sums differ with the machine."""


def run(bundle: str, sets: list[str], data: Path, out: Path) -> Any:
    torch.set_num_threads(1)
    app = typer.Typer()
    app.command()(evaluate)
    chosen = [part for name in sets for part in ("--set", name)]
    result = CliRunner().invoke(app, [bundle, "--data", str(data), "--json", str(out), *chosen])
    assert result.exit_code == 0, result.output
    return json.loads(out.read_text())


def recorded(bundle: str) -> Any:
    return json.loads((builtin_directory() / bundle / "metrics.json").read_text())


def same(found: Any, expected: Any) -> None:
    """Every figure of `expected` stands in `found`, within rounding; `found` may say more."""
    if isinstance(expected, dict):
        for key, value in expected.items():
            same(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    else:
        assert found == pytest.approx(expected, abs=LAST_DECIMAL)


def test_the_pneumonia_bundle_gives_the_figures_of_its_card(shared_data: Path, tmp_path: Path) -> None:
    name = "PneumoniaMNIST-28 test"
    found = run("chest_xray_pneumonia", [name], shared_data, tmp_path / "figures.json")
    assert list(found["sets"]) == [name]
    same(found["sets"][name], recorded("chest_xray_pneumonia")["sets"][name])


def test_the_anomaly_bundle_gives_the_figures_of_its_card(shared_data: Path, tmp_path: Path) -> None:
    kinds = ["blank", "Hand"]
    found = run("chest_xray_anomaly", kinds, shared_data, tmp_path / "figures.json")["test"]
    expected = recorded("chest_xray_anomaly")["test"]
    same(found, expected | {"wrong inputs": {kind: expected["wrong inputs"][kind] for kind in kinds}})
    assert list(found["wrong inputs"]) == ["Hand", "blank"]
