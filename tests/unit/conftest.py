"""Fixtures of the unit tests. What needs torch is imported where it is used: most tests do without."""

import shutil
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


@pytest.fixture(scope="session")
def written_bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one small bundle of each kind, to be copied."""
    from tests.bundles import manifest_values, write_bundle

    folder = tmp_path_factory.mktemp("written")
    for kind in ("classifier", "anomaly"):
        write_bundle(folder / f"small_{kind}", manifest_values(f"small_{kind}", kind))
    return folder


@pytest.fixture(scope="session")
def written_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small bundle that holds an ONNX file of a network for three channels, to be copied."""
    from tests.bundles import manifest_values, write_onnx_bundle

    values = manifest_values("small_onnx", "classifier")
    normalize = {"step": "normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    values["preprocessing"]["steps"].append(normalize)
    values["tensor"] |= {"minimum": -2.2, "maximum": 2.7}
    return write_onnx_bundle(tmp_path_factory.mktemp("written") / "small_onnx", values, channels=3)


@pytest.fixture
def classifier_folder(written_bundles: Path, tmp_path: Path) -> Path:
    """A bundle of kind classifier, to be changed at will."""
    return shutil.copytree(written_bundles / "small_classifier", tmp_path / "models/small_classifier")


@pytest.fixture
def anomaly_folder(written_bundles: Path, tmp_path: Path) -> Path:
    """A bundle of kind anomaly, to be changed at will."""
    return shutil.copytree(written_bundles / "small_anomaly", tmp_path / "models/small_anomaly")


@pytest.fixture
def onnx_folder(written_onnx: Path, tmp_path: Path) -> Path:
    """A bundle that holds an ONNX file, to be changed at will."""
    return shutil.copytree(written_onnx, tmp_path / "models/small_onnx")


@pytest.fixture
def radiograph(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a DX image, see `write_radiograph`."""
    from tests.bundles import write_radiograph

    return partial(write_radiograph, tmp_path)
