"""Maps lie where the image is, and come from the weights."""

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dicomnode.config import AnalysisSettings
from dicomnode.domain.codes import LUNG
from dicomnode.domain.findings import AnomalyFinding, BundleIdentity, BundleResult, Finding, Priority
from dicomnode.errors import UnsuitableInput
from dicomnode.inference import bundle as bundles
from dicomnode.inference.bundle import Bundle, builtin_directory, reference_image, tensors_of
from dicomnode.inference.explain import Explainer, Wanted, explained_layer, grad_cam, to_source, wanted
from dicomnode.inference.networks import build
from dicomnode.inference.predict import Analyzer
from dicomnode.inference.preprocess import CenterSquare, ClipPercentile, Resize, Step, prepare

SQUARE, CLIP = CenterSquare(step="center_square"), ClipPercentile(step="clip_percentile", low=0.5, high=99.5)
CHEST = "chest_xray_pneumonia"


def small(rows: int = 64, columns: int = 64) -> Resize:
    return Resize(step="resize", rows=rows, columns=columns)


@pytest.mark.parametrize(
    ("steps", "shape", "spot"),
    [
        ((SQUARE, small(), CLIP), (900, 700), (300, 200)),
        ((SQUARE, small(), CLIP), (600, 1001), (80, 700)),
        ((small(32, 64),), (500, 300), (70, 250)),
        ((small(96, 128), SQUARE, small(48, 48)), (480, 640), (300, 400)),
        ((SQUARE, small()), (64, 64), (10, 50)),
        ((SQUARE, small()), (40, 30), (20, 15)),
    ],
    ids=["tall", "wide and odd", "stretched", "resized, then square", "as it is", "smaller than the input"],
)
def test_bright_spot_comes_back_to_its_place(
    steps: tuple[Step, ...], shape: tuple[int, int], spot: tuple[int, int]
) -> None:
    rows, columns = np.indices(shape)
    width = max(shape) / 40
    image = np.exp(-(((rows - spot[0]) ** 2 + (columns - spot[1]) ** 2) / width**2)).astype(np.float32)

    found = to_source(prepare(image, steps)[0].numpy(), steps, shape)

    weight = found / found.sum()
    centre = ((weight * rows).sum(), (weight * columns).sum())
    assert found.shape == shape
    assert centre == pytest.approx(spot, abs=max(0.6, max(shape) / 400))


def test_what_the_network_does_not_see_is_zero() -> None:
    found = to_source(np.ones((64, 64), np.float32), (SQUARE, small()), (100, 60))
    assert found[:20].max() == found[80:].max() == 0
    assert found[20:80].min() == 1


def test_a_step_without_a_way_back_is_said() -> None:
    class Swirl:
        step = "swirl"

    with pytest.raises(UnsuitableInput, match="no way back through the step swirl"):
        to_source(np.ones((8, 8), np.float32), (Swirl(),), (8, 8))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def chest() -> Bundle:
    return bundles.load(builtin_directory() / CHEST)


def reference(bundle: Bundle, name: str) -> np.ndarray[Any, Any]:
    data = (bundle.folder / f"reference/{name}.safetensors").read_bytes()
    return reference_image(tensors_of(CHEST, name, data))


def picture(content: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(content)), dtype=np.float64)


def test_chest_map_has_the_size_of_the_image_and_is_the_same_twice(chest: Bundle) -> None:
    image = np.kron(reference(chest, "mean_of_label_1"), np.ones((3, 2), np.float32))
    explainer = Explainer(chest)
    found = explainer.explain(image, chest.prepare(image), "Pneumonia")
    grey = picture(found.png)
    assert (found.rows, found.columns) == grey.shape == image.shape
    assert (found.method, grey.max()) == ("grad_cam", 255)
    assert found.maximum > 0
    assert explainer.explain(image, chest.prepare(image), "Pneumonia") == found


def test_map_changes_when_the_weights_are_random(chest: Bundle) -> None:
    image = reference(chest, "mean_of_label_1")
    true = picture(Explainer(chest).explain(image, chest.prepare(image), "Pneumonia").png)
    alike = []
    for seed in range(8):
        torch.manual_seed(seed)
        explainer = Explainer(chest)
        for module in explainer._network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                module.reset_parameters()
        random = picture(explainer.explain(image, chest.prepare(image), "Pneumonia").png)
        alike.append(np.corrcoef(true.ravel(), random.ravel())[0, 1] if random.std() > 0 else 0.0)
    assert float(np.median(alike)) < 0.5
    assert max(alike) < 0.9


def test_explaining_leaves_the_bundle_as_it_was(chest: Bundle) -> None:
    image = reference(chest, "mean_of_label_0")
    tensor = chest.prepare(image)
    before = chest.run(tensor[None])
    Explainer(chest).explain(image, tensor, "Pneumonia")
    assert (chest.run(tensor[None]) == before).all()
    assert not any(parameter.requires_grad for parameter in chest.network.parameters())


def test_residual_is_where_the_autoencoder_fails() -> None:
    anomaly = bundles.load(builtin_directory() / "chest_xray_anomaly")
    image = reference(anomaly, "mean_of_label_0").copy()
    rows, columns = image.shape
    top, left = rows // 3, columns // 2
    image[top : top + rows // 8, left : left + columns // 8] = 1.0
    found = Explainer(anomaly).explain(image, anomaly.prepare(image), "Unusual image")
    grey = picture(found.png)
    row, column = np.unravel_index(grey.argmax(), grey.shape)
    assert found.method == "residual"
    assert top - 8 <= row <= top + rows // 8 + 8
    assert left - 8 <= column <= left + columns // 8 + 8


@pytest.mark.parametrize("name", ["DenseNet121", "EfficientNetBN", "ResNet", "SEResNet50"])
def test_every_kind_of_monai_network_has_a_layer_that_explains(name: str) -> None:
    parameters: dict[str, dict[str, Any]] = {
        "ResNet": {"block": "basic", "layers": (1, 1, 1, 1), "block_inplanes": (8, 8, 16, 16), "num_classes": 2},
        "EfficientNetBN": {"model_name": "efficientnet-b0", "num_classes": 2, "pretrained": False},
        "SEResNet50": {"num_classes": 2},
    }
    given = {"spatial_dims": 2, "in_channels": 1} | parameters.get(name, {"out_channels": 2})
    if name == "ResNet":
        given = {"spatial_dims": 2, "n_input_channels": 1} | parameters[name]
    torch.manual_seed(1)
    network = build(f"monai:{name}", given).eval()
    found = grad_cam(network)(torch.rand(1, 1, 64, 64), class_idx=1)
    assert found.shape == (1, 1, 64, 64)


def test_network_without_a_family_is_explained_by_its_last_convolution() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 3, 3), nn.Flatten())
    assert explained_layer(network) == "2"
    with pytest.raises(UnsuitableInput, match="no convolution"):
        explained_layer(nn.Linear(2, 2))


def test_what_is_explained_follows_the_setting() -> None:
    one, two = (BundleIdentity(name, "1", name, name, "0", "0") for name in ("classifier", "anomaly"))
    yes = Finding("A", LUNG, None, 0.9, 0.5, Priority.URGENT, "1.1")
    anomaly = AnomalyFinding("odd", 1.0, 2.0, 50, "1.2")
    results = (
        BundleResult(one, findings=(yes, replace(yes, label="B", probability=0.1))),
        BundleResult(two, anomaly=anomaly),
    )
    assert wanted(results, "suspected") == (Wanted("classifier", "A", "1.1"),)
    assert [w.label for w in wanted(results, "all")] == ["A", "B", "odd"]
    assert wanted(results, "none") == ()
    unusual = (results[0], replace(results[1], anomaly=replace(anomaly, score=3.0)))
    assert [w.label for w in wanted(unusual, "suspected")] == ["A", "odd"]


@pytest.fixture
def analyzer(
    make_bundle: Callable[[dict[str, Any]], Path], small_manifest: Callable[[str, str], dict[str, Any]]
) -> Iterator[Analyzer]:
    classifier, anomaly = small_manifest("cls", "classifier"), small_manifest("odd", "anomaly")
    classifier["explanation"] = "grad_cam"
    loaded = [bundles.load(make_bundle(values)) for values in (classifier, anomaly)]
    with Analyzer(loaded, AnalysisSettings()) as opened:
        yield opened


def test_bundle_that_names_no_method_is_not_explained(analyzer: Analyzer, radiograph: Callable[..., Path]) -> None:
    path = radiograph()
    found = analyzer.explain(path, Wanted("cls", "Pneumonia", "1.1"))
    assert found is not None
    assert (found.rows, found.columns) == (64, 48)
    assert analyzer.explain(path, Wanted("odd", "Unusual image", "1.1")) is None


def test_image_that_cannot_be_read_is_a_reason(analyzer: Analyzer, tmp_path: Path) -> None:
    (tmp_path / "bad.dcm").write_bytes(b"no image")
    with pytest.raises(UnsuitableInput):
        analyzer.explain(tmp_path / "bad.dcm", Wanted("cls", "Pneumonia", "1.1"))
