"""Seals a bundle after an edit by hand: digests and reference outputs are made anew, and all checks run."""

import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from dicomnode.errors import BundleError
from dicomnode.inference import bundle as bundles
from dicomnode.inference.bundle import Bundle
from dicomnode.inference.manifest import MANIFEST_NAME, MODEL_NAME, WEIGHTS_NAME, parse
from dicomnode.training.writer import to_toml

FILES_TABLE = re.compile(r"^\[files\][ \t]*\n(?:(?!\[).*(?:\n|\Z))*", re.MULTILINE)


@dataclass(frozen=True)
class Sealed:
    """What a seal changed: files with a new digest, and how far the outputs of each reference case moved."""

    bundle: Bundle
    changed: tuple[str, ...]
    moved: Mapping[str, float]


def seal(folder: Path, *, weights: bool = False) -> Sealed:
    """Make the manifest and the reference outputs fit the files of `folder`; nothing is written unless all fits.

    Raises `BundleError`; also where the network's file changed and `weights` does not allow it.
    """
    text = _text(folder)
    before = _digests_before(folder, text)
    contents = _contents(folder)
    _require_same_network(folder, before, contents, allowed=weights)
    plain = FILES_TABLE.sub("", text).rstrip() + "\n"
    for name in _listed_cases(folder, plain):
        contents.setdefault(name, safetensors.torch.save({"pixels": _pattern(name), "expected": torch.zeros(0)}))
    manifest = parse(_with_files(plain, contents).encode(), f"{folder.name}: {MANIFEST_NAME}")
    bundle = bundles.assemble(folder, manifest, "", contents)
    moved = {}
    for name in manifest.reference.cases:
        contents[name], moved[name] = _reference(bundle, name, contents[name])
    _write(folder, contents, _with_files(plain, contents))
    after = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    return Sealed(bundles.load(folder), tuple(changed), moved)


def _text(folder: Path) -> str:
    file = folder / MANIFEST_NAME
    if not file.is_file():
        raise BundleError(f"{folder.name}: {MANIFEST_NAME}: is missing; `dicomnode model new` writes a draft")
    text = file.read_text(encoding="utf-8")
    lines = [number for number, line in enumerate(text.splitlines(), 1) if "TODO" in line.partition("# ")[0]]
    if lines:
        raise BundleError(f"{folder.name}: {MANIFEST_NAME}: TODO on line {', '.join(map(str, lines))}: fill it in")
    return text


def _digests_before(folder: Path, text: str) -> dict[str, str]:
    try:
        return dict(tomllib.loads(text).get("files", {}))
    except (tomllib.TOMLDecodeError, TypeError, ValueError) as exc:
        raise BundleError(f"{folder.name}: {MANIFEST_NAME}: not valid TOML: {exc}") from exc


def _contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file but the manifest; a symbolic link is refused."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise BundleError(f"{folder.name}: {name}: is a symbolic link")
        if path.is_file() and name != MANIFEST_NAME:
            found[name] = path.read_bytes()
    return found


def _require_same_network(
    folder: Path, before: Mapping[str, str], contents: Mapping[str, bytes], *, allowed: bool
) -> None:
    for name in (WEIGHTS_NAME, MODEL_NAME):
        digest = hashlib.sha256(contents[name]).hexdigest() if name in contents else None
        if before and before.get(name) != digest and not allowed:
            raise BundleError(f"{folder.name}: {name}: is another network than was sealed; --weights accepts it")


def _listed_cases(folder: Path, text: str) -> list[str]:
    try:
        cases = tomllib.loads(text)["reference"]["cases"]
    except (KeyError, TypeError):
        raise BundleError(f"{folder.name}: {MANIFEST_NAME}: the table [reference] has no `cases`") from None
    return [str(name) for name in cases]


def _pattern(name: str) -> Tensor:
    """Return a picture of nobody, (150, 200) grey levels; another for each name."""
    rows, columns = np.mgrid[0:150, 0:200]
    if "gradient" in name:
        return torch.from_numpy(((rows + columns) * 255 // 348).astype(np.uint8))
    phase = int.from_bytes(hashlib.sha256(name.encode()).digest()[:1], "big") / 40
    return torch.from_numpy(((np.sin(rows / 9 + phase) * np.cos(columns / 14) / 2 + 0.5) * 255).astype(np.uint8))


def _reference(bundle: Bundle, name: str, data: bytes) -> tuple[bytes, float]:
    """Return a reference case with the outputs of now and how far they moved; within the tolerance it stays."""
    case = bundles.tensors_of(bundle.manifest.name, name, data)
    if set(case) != {"pixels", "expected"}:
        raise BundleError(f"{bundle.manifest.name}: {name}: holds {sorted(case)}, not `pixels` and `expected`")
    outputs = bundles.outputs_of(bundle, name, case)
    expected = case["expected"].double().numpy()
    moved = float(np.abs(outputs - expected).max()) if expected.shape == outputs.shape else float("inf")
    if moved <= bundle.manifest.reference.tolerance:
        return data, moved
    return safetensors.torch.save({"pixels": case["pixels"], "expected": torch.from_numpy(outputs.copy())}), moved


def _with_files(plain: str, contents: Mapping[str, bytes]) -> str:
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(contents.items())}
    return plain + to_toml({"files": digests})


def _write(folder: Path, contents: Mapping[str, bytes], manifest: str) -> None:
    for name, data in contents.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    (folder / MANIFEST_NAME).write_text(manifest, encoding="utf-8")
