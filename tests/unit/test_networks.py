"""Every architecture of the registry trains by its name."""

from typing import Any

import pytest
import torch
from torch import nn

from dicomnode.errors import BundleError
from dicomnode.inference.networks import FAMILIES, build
from dicomnode.inference.networks.scored_autoencoder import ScoredAutoencoder
from dicomnode.training.autoencoder import _loss as reconstruction_loss

RESNET = {
    "block": "basic",
    "layers": (1, 1, 1, 1),
    "block_inplanes": (4, 4, 8, 8),
    "spatial_dims": 2,
    "n_input_channels": 1,
    "num_classes": 2,
}
DENSENET = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2, "init_features": 4, "growth_rate": 4}
CASES: list[tuple[str, dict[str, Any], int]] = [
    ("residual_cnn", {"outputs": 2, "stem": 4, "channels": (4, 8)}, 32),
    ("mnist_cnn", {"outputs": 2}, 28),
    ("vgg", {"outputs": 2, "channels": (4, 8), "convolutions": (1, 2)}, 32),
    ("vgg", {"outputs": 2, "channels": (4, 8), "convolutions": (1, 2), "norm": "instance"}, 32),
    ("googlenet", {"outputs": 2, "width": 0.1}, 64),
    ("googlenet", {"outputs": 2, "width": 0.1, "norm": "instance"}, 64),
    ("monai:ResNet", RESNET, 64),
    ("monai:ResNet", {**RESNET, "norm": "instance"}, 64),
    ("monai:DenseNet", {**DENSENET, "block_config": (1, 1)}, 32),
    ("monai:DenseNet", {**DENSENET, "block_config": (1, 1), "norm": "instance"}, 32),
    ("anomaly_autoencoder", {"size": 28, "channels": (4, 8), "code": 4, "tile": 7}, 28),
    ("dense_autoencoder", {"size": 28, "code": 4}, 28),
]


def test_no_family_is_left_out() -> None:
    assert set(FAMILIES) <= {name for name, _, _ in CASES}


@pytest.mark.parametrize(("name", "parameters", "size"), CASES, ids=lambda value: str(value)[:40])
def test_a_network_learns_by_its_name(name: str, parameters: dict[str, Any], size: int) -> None:
    torch.manual_seed(1)
    network = build(name, parameters)
    images, labels = torch.rand(8, 1, size, size), torch.arange(8) % 2
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    before = [p.clone() for p in network.parameters()]
    for _ in range(2):
        if isinstance(network, ScoredAutoencoder):
            loss = reconstruction_loss(network, images, images)
        else:
            loss = nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert loss.isfinite()
    changed = [not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True)]
    assert sum(changed) > 0.9 * len(changed)


@pytest.mark.parametrize(("name", "parameters", "size"), [c for c in CASES if "autoencoder" in c[0]], ids=str)
def test_an_autoencoder_scores_what_it_knows_lower(name: str, parameters: dict[str, Any], size: int) -> None:
    torch.manual_seed(1)
    network = build(name, parameters).eval()
    assert isinstance(network, ScoredAutoencoder)
    known = torch.rand(64, 1, size, size) * 0.1
    with torch.inference_mode():
        network.fit_score(network.features(known), 0.1)
        scores, others = network(known), network(1 - known)
    assert scores.shape == (64, 1)
    assert scores.median() < others.min()


def test_a_unit_of_the_code_that_never_fires_leaves_the_score_finite() -> None:
    torch.manual_seed(1)
    network = build("dense_autoencoder", {"size": 28, "code": 4}).eval()
    assert isinstance(network, ScoredAutoencoder)
    network.to_code.bias.data[0] = -100.0  # type: ignore[union-attr, operator]
    with torch.inference_mode():
        images = torch.rand(32, 1, 28, 28)
        network.fit_score(network.features(images), 0.1)
        assert network(images).isfinite().all()


def test_a_network_by_itself_normalizes_each_image() -> None:
    network = build("vgg", {"outputs": 2, "channels": (4,), "convolutions": (1,), "norm": "instance"}).train()
    images = torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(network(images)[:1], network(images[:1]))


def test_an_unknown_normalization_is_refused() -> None:
    with pytest.raises(BundleError, match="norm is 'batch' or 'instance', not 'layer'"):
        build("vgg", {"outputs": 2, "norm": "layer"})
