"""Nearest codes, and codes whose distance means something."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dicomnode.config import AnalysisSettings
from dicomnode.inference import bundle as bundles
from dicomnode.inference.codes import as_bytes, coder
from dicomnode.inference.predict import Analyzer
from dicomnode.inference.select import SourceInstance
from dicomnode.inference.similar import nearest

DX = "1.2.840.10008.5.1.4.1.1.1.1"


def stored(*values: float) -> bytes:
    return as_bytes(np.array(values))


def test_nearest_first_with_the_distance_to_the_nearest_of_our_images() -> None:
    ours = [stored(0, 0), stored(10, 0)]
    theirs = [stored(0, 5), stored(10, 1), stored(3, 4), stored(0, 0)]
    assert list(nearest(ours, theirs)) == [(3, 0.0), (1, 1.0), (0, 5.0), (2, 5.0)]


def test_order_is_that_of_a_plain_search() -> None:
    generator = np.random.default_rng(1)
    codes = generator.normal(0, 3, (500, 16)).astype("<f4")
    found = [position for position, _ in nearest([codes[7].tobytes()], [code.tobytes() for code in codes])]
    assert found == list(np.argsort(np.linalg.norm(codes - codes[7], axis=1), kind="stable"))


def test_nothing_is_near_nothing() -> None:
    assert list(nearest([], [stored(1)])) == list(nearest([stored(1)], [])) == []


def test_code_of_the_training_kind_is_white(anomaly_folder: Path) -> None:
    bundle = bundles.load(anomaly_folder)
    torch.manual_seed(3)
    batch = torch.rand(4000, 1, 32, 32)
    with torch.inference_mode():
        bundle.network.fit_score(bundle.network.features(batch), 0.0)  # type: ignore[operator]
    run = coder(bundle)
    assert run is not None
    codes = run(batch)
    assert np.cov(codes.T) == pytest.approx(np.eye(codes.shape[1]) / codes.shape[1], abs=0.02)


def test_code_of_a_network_without_statistics_is_as_it_encodes(anomaly_folder: Path) -> None:
    bundle = bundles.load(anomaly_folder)
    del bundle.network.whitening
    run = coder(bundle)
    assert run is not None
    batch = torch.rand(2, 1, 32, 32)
    with torch.inference_mode():
        expected = bundle.network.encode(batch).numpy()  # type: ignore[operator]
    assert run(batch) == pytest.approx(expected, abs=1e-5)


def test_classifier_gives_no_code(classifier_folder: Path) -> None:
    assert coder(bundles.load(classifier_folder)) is None


def test_every_assessed_image_has_a_code_by_the_autoencoder(
    classifier_folder: Path, anomaly_folder: Path, radiograph: Callable[..., Any]
) -> None:
    rng = np.random.default_rng(5)
    study = [
        SourceInstance(radiograph(f"image{n}", rng.integers(0, 4096, (64, 48)).astype("uint16")), f"1.2.{n}", DX, "DX")
        for n in range(3)
    ]
    loaded = [bundles.load(classifier_folder), bundles.load(anomaly_folder)]
    with Analyzer(loaded, AnalysisSettings()) as analyzer:
        examined = analyzer.examine(study)
        again = analyzer.examine(study[:1])
    assert [(c.bundle_name, c.sop_instance_uid) for c in examined.codes] == [
        ("small_anomaly", uid) for uid in ("1.2.0", "1.2.1", "1.2.2")
    ]
    one, other = (np.frombuffer(e.codes[0].code, "<f4") for e in (examined, again))
    assert one == pytest.approx(other, abs=1e-4)
    assert len(one) == 4
