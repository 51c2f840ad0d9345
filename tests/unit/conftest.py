"""Fixtures of the unit tests. What needs torch is imported where it is used: most tests do without."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """A function that writes a small bundle from a manifest, into one folder of models."""
    from tests.bundles import write_bundle

    return lambda values: write_bundle(tmp_path / "models" / values["name"], values)


@pytest.fixture
def small_manifest() -> Callable[[str, str], dict[str, Any]]:
    """A function that gives the manifest of a small bundle by name and kind."""
    from tests.bundles import manifest_values

    return manifest_values


@pytest.fixture
def classifier_folder(
    make_bundle: Callable[[dict[str, Any]], Path], small_manifest: Callable[[str, str], dict[str, Any]]
) -> Path:
    """A bundle of kind classifier."""
    return make_bundle(small_manifest("small_classifier", "classifier"))


@pytest.fixture
def anomaly_folder(
    make_bundle: Callable[[dict[str, Any]], Path], small_manifest: Callable[[str, str], dict[str, Any]]
) -> Path:
    """A bundle of kind anomaly."""
    return make_bundle(small_manifest("small_anomaly", "anomaly"))


@pytest.fixture
def radiograph(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a DX image, see `write_radiograph`."""
    from tests.bundles import write_radiograph

    return partial(write_radiograph, tmp_path)
