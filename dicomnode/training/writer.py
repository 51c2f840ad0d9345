"""Writes a bundle's folder: weights, reference cases, metrics, card and, last, the manifest with every digest."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from pydantic import BaseModel
from torch import Tensor

from dicomnode.errors import ConfigError
from dicomnode.inference.manifest import MANIFEST_NAME, METRICS_NAME, WEIGHTS_NAME
from dicomnode.training.recipe import RECIPE_NAME

CARD_NAME = "CARD.md"
FIGURES = re.compile(r"(<!-- figures -->\n).*?(<!-- /figures -->)", re.DOTALL)


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file."""
    file.parent.mkdir(exist_ok=True)
    plain = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    file.write_bytes(safetensors.torch.save(plain))


def write_weights(folder: Path, state: Mapping[str, Tensor]) -> None:
    """Write the weights of a network."""
    write_tensors(folder / WEIGHTS_NAME, state)


def write_metrics(folder: Path, metrics: Mapping[str, object]) -> None:
    """Write the metric table."""
    (folder / METRICS_NAME).write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")


def write_card(folder: Path, figures: str) -> None:
    """Replace what stands between the marks `figures` of CARD.md; raise `ConfigError` where there are none."""
    file = folder / CARD_NAME
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    if not FIGURES.search(text):
        raise ConfigError(f"{file}: has no line `<!-- figures -->` with `<!-- /figures -->` after it")
    file.write_text(FIGURES.sub(lambda found: f"{found[1]}{figures}{found[2]}", text), encoding="utf-8")


def write_manifest(folder: Path, values: Mapping[str, object]) -> None:
    """Write `bundle.toml` from `values`, adding the digests of the files that lie in `folder`."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    files.pop(MANIFEST_NAME, None)
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    header = f"# Written by `dicomnode train` from {RECIPE_NAME}; a change of any byte makes the bundle refused.\n"
    (folder / MANIFEST_NAME).write_text(header + to_toml({**values, "files": digests}), encoding="utf-8")


def to_toml(values: Mapping[str, object]) -> str:
    """Return `values` as TOML: simple keys first, then a table for each mapping; None is left out."""
    return "\n".join(_table((), _plain(values))) + "\n"


def _plain(value: object) -> dict[str, object]:
    """Return `value` as JSON sees it, without None."""
    dumped = json.loads(json.dumps(value, default=_dump))
    plain = _without_none(dumped)
    assert isinstance(plain, dict)  # noqa: S101  a mapping went in
    return plain


def _dump(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} has no place in a manifest")


def _without_none(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value


def _table(path: tuple[str, ...], values: Mapping[str, object]) -> list[str]:
    lines = [f"{_key(key)} = {_inline(item)}" for key, item in values.items() if not isinstance(item, dict)]
    for key, item in values.items():
        if isinstance(item, dict):
            inner = (*path, _key(key))
            lines += ["", f"[{'.'.join(inner)}]", *_table(inner, item)]
    return lines


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _text(key)


def _inline(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(key)} = {_inline(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_inline(item) for item in value) + "]"
    return _text(value) if isinstance(value, str) else json.dumps(value)


def _text(value: str) -> str:
    """Return a TOML basic string: as in JSON, but DEL is escaped too."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
