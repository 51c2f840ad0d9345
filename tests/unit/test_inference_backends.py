"""Backends: those that give other results are out, and `auto` keeps its choice."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dicomnode.config import AnalysisSettings
from dicomnode.inference import backends
from dicomnode.inference import bundle as bundles
from dicomnode.inference.bundle import Bundle, Forward

QUICK = AnalysisSettings(batch_images=2, threads=1)


@pytest.fixture
def bundle(classifier_folder: Path) -> Bundle:
    return bundles.load(classifier_folder, threads=1)


def made_of(bundle: Bundle, **forwards: Forward) -> Callable[..., dict[str, Callable[[], Forward]]]:
    return lambda *_, **__: {name: lambda f=forward: f for name, forward in forwards.items()}


def test_every_backend_that_is_not_out_gives_what_eager_gives(bundle: Bundle) -> None:
    choice, forwards = backends.measure(bundle, QUICK)
    assert {"eager", "channels_last", "bfloat16", "onnxruntime"} == {m.name for m in choice.measured}
    batch = torch.rand(5, 1, 32, 32)
    with torch.inference_mode():
        eager = forwards["eager"](batch)
        for name in ("channels_last", "onnxruntime"):
            torch.testing.assert_close(forwards[name](batch), eager, atol=1e-5, rtol=1e-5)
    assert all(m.ms is not None and m.ms > 0 for m in choice.measured)


def test_a_fast_backend_that_differs_by_more_than_the_tolerance_is_out(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = made_of(bundle, eager=bundle.forward, onnxruntime=lambda batch: torch.full((len(batch), 1), 3.0))
    monkeypatch.setattr(backends, "makers", made)
    choice, _ = backends.measure(bundle, QUICK)
    assert choice.chosen == "eager"
    assert [m.reason.partition(" by ")[0] for m in choice.measured] == ["", "differs"]


def test_auto_never_takes_what_a_result_could_show(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the tolerance of the reference, but too much for a result: only for those who ask for it."""
    nearly = 4e-5  # of a logit: 1e-5 of the probability
    made = made_of(bundle, eager=slow(bundle.forward), onnxruntime=lambda batch: bundle.forward(batch) + nearly)
    monkeypatch.setattr(backends, "makers", made)
    choice, _ = backends.measure(bundle, QUICK)
    assert choice.chosen == "eager"
    asked, _ = backends.choose(bundle, QUICK.model_copy(update={"backend": "onnxruntime"}))
    assert asked.backend == "onnxruntime"


def slow(forward: Forward) -> Forward:
    def run(batch: torch.Tensor) -> torch.Tensor:
        for _ in range(20):
            forward(batch)
        return forward(batch)

    return run


def test_auto_takes_the_fastest_of_those_that_agree(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    made = made_of(bundle, eager=slow(bundle.forward), onnxruntime=bundle.forward)
    monkeypatch.setattr(backends, "makers", made)
    chosen, choice = backends.choose(bundle, QUICK)
    assert chosen.backend == choice.chosen == "onnxruntime"


def test_a_choice_is_kept_and_not_measured_again(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, first = backends.choose(bundle, QUICK, tmp_path)
    monkeypatch.setattr(backends, "measure", None)
    again, second = backends.choose(bundle, QUICK, tmp_path)
    assert second == first
    assert again.backend == first.chosen


@pytest.mark.parametrize("damage", ["{", '{"conditions": {}}', "[]"])
def test_a_kept_choice_that_holds_no_longer_is_measured_anew(bundle: Bundle, tmp_path: Path, damage: str) -> None:
    backends.choose(bundle, QUICK, tmp_path)
    (file,) = tmp_path.glob("*.json")
    file.write_text(damage)
    _, choice = backends.choose(bundle, QUICK, tmp_path)
    assert json.loads(file.read_text())["chosen"] == choice.chosen


def test_a_backend_that_cannot_run_is_replaced_by_eager(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/no/such/compiler")
    chosen, choice = backends.choose(bundle, QUICK.model_copy(update={"backend": "compiled"}))
    assert chosen.backend == "eager"
    assert "no C++ compiler" in choice.measured[0].reason
    assert chosen.run(torch.rand(2, 1, 32, 32)).shape == (2, 1)


def test_compiled_code_is_no_candidate_until_its_cache_is_warm(bundle: Bundle, tmp_path: Path) -> None:
    assert "compiled" not in backends.makers(bundle, QUICK, tmp_path, compiled=False)
    assert "compiled" in backends.makers(bundle, QUICK, tmp_path, compiled=True)


def test_an_onnx_bundle_has_one_backend(onnx_folder: Path) -> None:
    _, choice = backends.choose(bundles.load(onnx_folder), QUICK)
    assert choice.chosen == "onnxruntime"
