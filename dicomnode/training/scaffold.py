"""A new bundle's folder to start from: a recipe to train, or the draft of a manifest around an ONNX file."""

import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dicomnode.errors import ConfigError
from dicomnode.inference import onnx
from dicomnode.inference.manifest import MANIFEST_NAME, MODEL_NAME
from dicomnode.training.draft import CARD, manifest_draft
from dicomnode.training.recipe import RECIPE_NAME, Recipe, load_recipe
from dicomnode.training.writer import CARD_NAME, to_toml

WORDS = {
    "about.name": "the name of the folder; small letters, digits, _",
    "about.version": "three numbers; raise it with every training that is used",
    "about.title": "one line for reports and screens, at most 64 characters",
    "about.status": "research or released",
    "about.intended_use": "what it is for, in a sentence that a radiologist understands",
    "about.not_for": "what it must not be used for",
    "about.explanation": "none, grad_cam (classifier) or residual (anomaly)",
    "architecture.name": "a name of the registry, or monai:CLASS",
    "architecture.parameters": "of the network's constructor",
    "input.modalities": "an empty list asks for nothing",
    "input.exclude": "an attribute's values that refuse an image",
    "preprocessing.steps": "in this order, the same in training and in the node",
    "data.set": "which data",
    "data.description": "where the data is from, goes into the manifest",
    "data.licence": "SPDX name of the data's licence",
    "fit.epochs": "at most so many; early stopping ends sooner",
    "fit.batch": "images in a step",
    "fit.learning_rate": "the highest of the one-cycle schedule",
    "fit.seed": "the same seed, the same weights",
    "licences.code": "SPDX name",
    "licences.weights": "SPDX name; weights derive from the data",
}
TO_FILL_IN = {
    "title": "TODO: what it finds",
    "intended_use": "TODO: what it is for, and who reads the result",
    "not_for": ["TODO: what it must not be used for"],
    "version": "0.1.0",
    "status": "research",
}


def new_recipe(folder: Path, source: Path) -> list[Path]:
    """Write train.toml and CARD.md into the new `folder`, after the recipe in `source`; return what was written."""
    values = load_recipe(source).model_dump(mode="json", exclude_none=True)
    values["about"] |= {"name": folder.name, **TO_FILL_IN}
    head = (
        f"# The recipe of {folder.name}, after that of {source.name}: fill in what says TODO, change what you like,\n"
        f"# then `dicomnode train {folder.name}`. A key behind # shows its default.\n"
    )
    recipe = head + "\n".join(_annotated((), Recipe, values)) + "\n"
    return _write(folder, {RECIPE_NAME: recipe.encode(), CARD_NAME: CARD.format(name=folder.name).encode()})


def new_onnx(folder: Path, kind: str, file: Path) -> list[Path]:
    """Write the draft of a manifest around the ONNX `file` into the new `folder`; return what was written."""
    data = file.read_bytes()
    taken, given = onnx.described(f"{folder.name}: {file.name}", data)
    draft = manifest_draft(folder.name, kind, taken, given)
    card = CARD.format(name=folder.name)
    return _write(folder, {MODEL_NAME: data, MANIFEST_NAME: draft.encode(), CARD_NAME: card.encode()})


def _write(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} exists and is not empty")
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in files]


def _annotated(path: tuple[str, ...], model: type[BaseModel], values: Mapping[str, typing.Any]) -> Iterator[str]:
    """Yield the TOML lines of `values` with a comment on every key of `model`, tables last."""
    tables: list[tuple[str, FieldInfo]] = []
    for key, field in model.model_fields.items():
        if _model_of(field) is not None or isinstance(values.get(key), dict):
            tables.append((key, field))
        else:
            yield from _line(path, key, field, values)
    for key, field in tables:
        inner = _model_of(field)
        if key not in values:
            continue
        about = (inner.__doc__ or "").strip().splitlines()[0] if inner is not None else _words(path, key, field)
        yield from ("", f"# {about}".rstrip(), f"[{'.'.join((*path, key))}]")
        if inner is not None:
            yield from _annotated((*path, key), inner, values[key])
        elif values[key]:
            yield to_toml(values[key]).strip()


def _line(path: tuple[str, ...], key: str, field: FieldInfo, values: Mapping[str, typing.Any]) -> Iterator[str]:
    words = _words(path, key, field)
    comment = f"  # {words}" if words else ""
    if key in values:
        yield to_toml({key: values[key]}).strip() + comment
    elif not field.is_required() and field.default is not None:
        yield f"# {to_toml({key: field.default}).strip()}{comment}"
    else:
        yield f"# {key} ={comment or '  # not set'}"


def _words(path: tuple[str, ...], key: str, field: FieldInfo) -> str:
    return field.description or WORDS.get(".".join((*path, key)), "")


def _model_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the table that a field holds, None where it holds a plain value."""
    kinds = typing.get_args(field.annotation) if isinstance(field.annotation, types.UnionType) else (field.annotation,)
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
