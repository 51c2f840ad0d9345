"""Model bundles: a folder of data that is trusted only after every check.

The manifest is valid -> the folder holds nothing else -> SHA-256 of every file -> weights -> reference cases come out
again -> ready. Each failure is a `BundleError` that names bundle, file and reason. No pickle is read and no code run.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import dicomnode
from dicomnode.domain.findings import BundleIdentity
from dicomnode.errors import BundleError
from dicomnode.inference import onnx
from dicomnode.inference.manifest import (
    MANIFEST_NAME,
    MODEL_NAME,
    WEIGHTS_NAME,
    Architecture,
    ClassifierOutput,
    Manifest,
    parse,
)
from dicomnode.inference.networks import build
from dicomnode.inference.preprocess import FloatArray, prepare

MAX_MANIFEST_BYTES = 1 << 20
MAX_FILE_BYTES = 1 << 30
RANGE_SLACK = 1e-3


Forward = Callable[[Tensor], Tensor]
"""A network, whatever runs it: inputs (B, channels, rows, columns) to raw outputs (B, K)."""


@dataclass(frozen=True)
class Bundle:
    """A bundle that passed every check; `forward` runs its network and may be used from one thread at a time.

    `module` is the network in evaluation mode, None where the bundle holds an ONNX file; `backend` says what runs it.
    """

    folder: Path
    manifest: Manifest
    identity: BundleIdentity
    module: nn.Module | None
    forward: Forward
    backend: str

    @property
    def network(self) -> nn.Module:
        """The network as a module, with gradients and layers; raise `BundleError` for an ONNX file, which has none."""
        if self.module is None:
            raise BundleError(f"{self.identity.name}: {MODEL_NAME}: has no layers or gradients to look at")
        return self.module

    def prepare(self, image: FloatArray) -> Tensor:
        """Return the network's input (channels, rows, columns) for display values in 0..1, (rows, columns)."""
        return prepare(image, self.manifest.preprocessing.steps, self.manifest.tensor.channels)

    def run(self, batch: Tensor) -> NDArray[np.float64]:
        """Return calibrated probabilities, or anomaly scores, (B, outputs), for inputs (B, channels, rows, columns)."""
        with torch.inference_mode():
            outputs = self.forward(batch).double()  # (B, outputs)
        return activate(self.manifest.classifier, outputs).numpy()


def channels_last(network: nn.Module) -> Forward:
    """Return `network` run eagerly in the memory format that its convolutions like; `network` takes that format."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(batch: Tensor) -> Tensor:
        outputs: Tensor = network(batch.contiguous(memory_format=torch.channels_last))
        return outputs

    return forward


def activate(classifier: ClassifierOutput | None, outputs: Tensor) -> Tensor:
    """Return calibrated probabilities for logits (B, outputs); scores and what is a probability stay as they are."""
    if classifier is None or classifier.activation == "none":
        return outputs
    logits = outputs * classifier.calibration.scale + classifier.calibration.offset
    return logits.softmax(1) if classifier.activation == "softmax" else logits.sigmoid()


def builtin_directory() -> Path:
    """Return the folder of our own bundles: inside an installed package, else of the repository."""
    package = Path(dicomnode.__file__).resolve().parent
    packed = package / "_models"
    return packed if packed.is_dir() else package.parent / "models"


def installed(directories: Sequence[Path]) -> dict[str, Path]:
    """Return the bundles of a site's own `directories` and ours by name; the site's go first."""
    return find([*directories, builtin_directory()])


def find(directories: Sequence[Path]) -> dict[str, Path]:
    """Return the bundles in `directories` by name; where two have the same name the first directory wins."""
    found: dict[str, Path] = {}
    for directory in directories:
        for manifest in sorted(directory.glob(f"*/{MANIFEST_NAME}")):
            found.setdefault(manifest.parent.name, manifest.parent)
    return found


def load(folder: Path, *, threads: int = 0) -> Bundle:
    """Return the bundle in `folder` after every check; raise `BundleError`.

    `threads` of one forward pass are set for the whole process (0 leaves torch's choice).
    """
    manifest, manifest_digest = read_manifest(folder)
    contents = dict(read_files(folder, manifest))
    bundle = assemble(folder, manifest, manifest_digest, contents, threads=threads)
    for case in manifest.reference.cases:
        _reproduce(bundle, case, contents[case])
    return bundle


def assemble(
    folder: Path, manifest: Manifest, manifest_digest: str, contents: Mapping[str, bytes], *, threads: int = 0
) -> Bundle:
    """Return a bundle of `contents` (bytes by file name); its reference cases are not looked at yet."""
    if threads:
        torch.set_num_threads(threads)
    identity = _identity(manifest, manifest_digest)
    if manifest.architecture is None:
        forward = onnx.load(manifest, contents[MODEL_NAME], threads)
        return Bundle(folder, manifest, identity, None, forward, onnx.BACKEND)
    network = _network(folder.name, manifest.architecture, contents[WEIGHTS_NAME])
    return Bundle(folder, manifest, identity, network, channels_last(network), "channels_last")


def read_manifest(folder: Path) -> tuple[Manifest, str]:
    """Return the valid manifest of `folder` and the SHA-256 of its file; raise `BundleError`."""
    data = _read(folder, MANIFEST_NAME, MAX_MANIFEST_BYTES)
    manifest = parse(data, f"{folder.name}: {MANIFEST_NAME}")
    if manifest.name != folder.name:
        raise BundleError(f"{folder.name}: {MANIFEST_NAME}: name is {manifest.name!r}, the folder {folder.name!r}")
    return manifest, hashlib.sha256(data).hexdigest()


def read_files(folder: Path, manifest: Manifest) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of every file after its checks; what is hashed here is what is used."""
    unlisted = sorted(set(_names(folder)) - {*manifest.files, MANIFEST_NAME})
    if unlisted:
        raise BundleError(f"{folder.name}: {unlisted[0]}: is not listed in {MANIFEST_NAME}")
    for name, expected in manifest.files.items():
        data = _read(folder, name, MAX_FILE_BYTES)
        digest = hashlib.sha256(data).hexdigest()
        if digest != expected:
            raise BundleError(f"{folder.name}: {name}: SHA-256 is {digest}, {MANIFEST_NAME} says {expected}")
        yield name, data


def _names(folder: Path) -> Iterator[str]:
    for path, directories, files in os.walk(folder):
        for name in directories:
            if (Path(path) / name).is_symlink():
                raise BundleError(f"{folder.name}: {name}: is a symbolic link")
        for name in files:
            yield (Path(path) / name).relative_to(folder).as_posix()


def _read(folder: Path, name: str, limit: int) -> bytes:
    path = folder / name
    try:
        if path.is_symlink() or not path.is_file():
            raise BundleError(f"{folder.name}: {name}: {'is no plain file' if path.exists() else 'is missing'}")
        if path.stat().st_size > limit:
            raise BundleError(f"{folder.name}: {name}: is larger than {limit} bytes")
        return path.read_bytes()
    except OSError as exc:
        raise BundleError(f"{folder.name}: {name}: cannot be read: {exc.strerror}") from exc


def _network(name: str, architecture: Architecture, weights: bytes) -> nn.Module:
    try:
        network = build(architecture.name, architecture.parameters)
    except BundleError as exc:
        raise BundleError(f"{name}: {MANIFEST_NAME}: {exc}") from exc
    tensors = tensors_of(name, WEIGHTS_NAME, weights)
    bad = [key for key, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        raise BundleError(f"{name}: {WEIGHTS_NAME}: {bad[0]} holds a number that is not finite")
    try:
        network.load_state_dict(tensors)
    except RuntimeError as exc:
        raise BundleError(f"{name}: {WEIGHTS_NAME}: does not fit {architecture.name}: {exc}") from exc
    return network.eval().requires_grad_(requires_grad=False)


def tensors_of(bundle: str, name: str, data: bytes) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file's bytes; raise `BundleError` that names the file."""
    try:
        return dict(safetensors.torch.load(data))
    except (safetensors.SafetensorError, ValueError, KeyError) as exc:
        raise BundleError(f"{bundle}: {name}: is no safetensors file: {exc}") from exc


def _identity(manifest: Manifest, digest: str) -> BundleIdentity:
    lines = [f"input {manifest.tensor.rows}x{manifest.tensor.columns}", f"architecture {manifest.network_name}"]
    if manifest.classifier is not None:
        lines += [f"threshold {c.label} {c.operating_point.threshold:.4f}" for c in manifest.classifier.classes]
    if manifest.anomaly is not None:
        lines.append(f"threshold {manifest.anomaly.threshold:.4f} {manifest.anomaly.unit}")
    return BundleIdentity(
        manifest.name,
        manifest.version,
        manifest.kind,
        manifest.title,
        digest,
        manifest.files[manifest.network_file],
        tuple(lines),
    )


def reference_image(case: Mapping[str, Tensor]) -> FloatArray:
    """Return the image of a reference case, (rows, columns) in 0..1."""
    pixels = case["pixels"].numpy()
    return pixels.astype(np.float32) / float(np.iinfo(pixels.dtype).max)


def _reproduce(bundle: Bundle, name: str, data: bytes) -> None:
    case = tensors_of(bundle.manifest.name, name, data)
    where = f"{bundle.manifest.name}: {name}"
    if set(case) != {"pixels", "expected"}:
        raise BundleError(f"{where}: holds {sorted(case)}, not `pixels` (uint8, rows x columns) and `expected`")
    outputs = outputs_of(bundle, name, case)
    expected = case["expected"].double().numpy()
    if expected.shape != outputs.shape:
        raise BundleError(f"{where}: {expected.shape} expected, the manifest has {outputs.shape}")
    largest = float(np.abs(outputs - expected).max())
    if not largest <= bundle.manifest.reference.tolerance:
        raise BundleError(f"{where}: gives {outputs.tolist()}, expected {expected.tolist()}")


def outputs_of(bundle: Bundle, name: str, case: Mapping[str, Tensor]) -> NDArray[np.float64]:
    """Return what the bundle gives for the reference case `name`, (outputs,); raise `BundleError` where it cannot."""
    try:
        outputs = bundle.run(reference_input(bundle, name, case)[None])  # (1, outputs)
    except (RuntimeError, ValueError) as exc:
        raise BundleError(f"{bundle.manifest.name}: {name}: the network fails on it: {exc}") from exc
    count = 1 if bundle.manifest.classifier is None else len(bundle.manifest.classifier.names)
    if outputs.shape != (1, count) or not np.isfinite(outputs).all():
        raise BundleError(f"{bundle.manifest.name}: {name}: gives {outputs.tolist()}, the manifest has {count} outputs")
    if bundle.manifest.classifier is not None and (outputs.min() < 0 or outputs.max() > 1):
        raise BundleError(f"{bundle.manifest.name}: {name}: gives {outputs.tolist()}: no probabilities; see activation")
    first: NDArray[np.float64] = outputs[0]
    return first


def reference_input(bundle: Bundle, name: str, case: Mapping[str, Tensor]) -> Tensor:
    """Return the network's input for a reference case, (channels, rows, columns); raise `BundleError`."""
    where = f"{bundle.manifest.name}: {name}"
    if case["pixels"].dtype != torch.uint8 or case["pixels"].ndim != 2:
        raise BundleError(f"{where}: pixels are {case['pixels'].dtype} {tuple(case['pixels'].shape)}, not uint8 (R, C)")
    tensor = bundle.prepare(reference_image(case))
    described = bundle.manifest.tensor
    wanted = (described.channels, described.rows, described.columns)
    if tensor.shape != wanted:
        raise BundleError(f"{where}: the preprocessing gives {tuple(tensor.shape)}, the manifest says {wanted}")
    low, high = float(tensor.min()), float(tensor.max())
    if low < described.minimum - RANGE_SLACK or high > described.maximum + RANGE_SLACK:
        raise BundleError(
            f"{where}: the preprocessing gives {low:.4f} to {high:.4f}, [tensor] says {described.minimum} to "
            f"{described.maximum}"
        )
    return tensor


def reference_inputs(bundle: Bundle) -> Tensor:
    """Return the inputs of all reference cases as one batch, (N, channels, rows, columns)."""
    cases = bundle.manifest.reference.cases
    found = {name: tensors_of(bundle.manifest.name, name, _read(bundle.folder, name, MAX_FILE_BYTES)) for name in cases}
    return torch.stack([reference_input(bundle, name, case) for name, case in found.items()])
