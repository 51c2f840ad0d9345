"""The registry of architectures: a name in a manifest becomes a network with the parameters given there, never code.

Every network maps a batch (B, channels, rows, columns) to (B, outputs); one file a family. `monai:<class>` gives the
allow-listed classes of `monai.networks.nets`.
"""

from collections.abc import Callable, Mapping

from torch import nn

from dicomnode.errors import BundleError
from dicomnode.inference.networks.anomaly_autoencoder import AnomalyAutoencoder
from dicomnode.inference.networks.dense_autoencoder import DenseAutoencoder
from dicomnode.inference.networks.googlenet import GoogLeNet
from dicomnode.inference.networks.mnist_cnn import MnistCNN
from dicomnode.inference.networks.residual_cnn import ResidualCNN
from dicomnode.inference.networks.vgg import VGG

Parameter = int | float | bool | str | tuple[int, ...]

FAMILIES: Mapping[str, Callable[..., nn.Module]] = {
    "residual_cnn": ResidualCNN,
    "mnist_cnn": MnistCNN,
    "vgg": VGG,
    "googlenet": GoogLeNet,
    "anomaly_autoencoder": AnomalyAutoencoder,
    "dense_autoencoder": DenseAutoencoder,
}
MONAI_CLASSES = frozenset(
    {"DenseNet", "DenseNet121", "DenseNet169", "EfficientNetBN", "ResNet", "SEResNet50", "SEResNext50"}
)


def build(name: str, parameters: Mapping[str, Parameter]) -> nn.Module:
    """Return the untrained network `name`; raise `BundleError` for an unknown name or parameters it does not take."""
    family = _monai_class(name.removeprefix("monai:")) if name.startswith("monai:") else FAMILIES.get(name)
    if family is None:
        known = ", ".join([*sorted(FAMILIES), *(f"monai:{known}" for known in sorted(MONAI_CLASSES))])
        raise BundleError(f"there is no architecture {name!r}; known are {known}")
    try:
        return family(**parameters)
    except (TypeError, ValueError, AssertionError, RuntimeError, OverflowError) as exc:
        raise BundleError(f"architecture {name!r} does not take {dict(parameters)}: {exc}") from exc


def _monai_class(name: str) -> Callable[..., nn.Module] | None:
    if name not in MONAI_CLASSES:
        return None
    from monai.networks import nets  # noqa: PLC0415  0.6 s, needed by few bundles

    found: Callable[..., nn.Module] = getattr(nets, name)

    def network(**parameters: Parameter) -> nn.Module:
        if parameters.get("norm") != "instance":
            return found(**parameters)
        return found(**{**parameters, "norm": ("instance", {"affine": True})})  # its initialization needs the weights

    return network
