"""The checkpoint of a training: one file, replaced whole after every epoch, so that a killed training goes on.

It is a safetensors file (no pickle) whose header holds the facts as JSON. A resumed training gives the very weights of
one that was never killed: the states of optimizer, schedule and random generators are in it, in full precision.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dicomnode.log import get_logger

log = get_logger(__name__)
FOLDER_NAME = ".training"
FILE_NAME = "checkpoint.safetensors"


def place(bundle: Path) -> Path:
    """Return where the checkpoint of the training of `bundle` lies: beside it, in no bundle."""
    return bundle.parent / FOLDER_NAME / bundle.name / FILE_NAME


def save(file: Path, key: str, tensors: Mapping[str, Tensor], facts: Mapping[str, object]) -> None:
    """Replace `file` at once: a kill leaves the old checkpoint or the new one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    data = safetensors.torch.save(plain, {"key": key, "facts": json.dumps(facts)})
    beside = file.with_suffix(".new")
    with beside.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    beside.replace(file)


def load(file: Path, key: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return tensors and facts of the checkpoint for `key`; None, with a line in the log, where there is none."""
    if not file.is_file():
        return None
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            header = opened.metadata() or {}
            if header.get("key") != key:
                log.warning("checkpoint ignored: it is of another recipe or other data", file=str(file))
                return None
            return {name: opened.get_tensor(name) for name in opened.keys()}, json.loads(header["facts"])  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as exc:
        log.warning("checkpoint ignored: it cannot be read", file=str(file), reason=str(exc))
        return None


def remove(file: Path) -> None:
    """Remove the checkpoint of a finished training, and its folders where nothing else is in them."""
    file.unlink(missing_ok=True)
    file.with_suffix(".new").unlink(missing_ok=True)
    for folder in (file.parent, file.parent.parent):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def with_prefix(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `state` under names that begin with `prefix`."""
    return {f"{prefix}.{name}": tensor for name, tensor in state.items()}


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what stands in `tensors` under names that begin with `prefix`."""
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return the moments of every parameter by its number."""
    states = optimizer.state_dict()["state"]
    return {f"optimizer.{n}.{name}": tensor for n, state in states.items() for name, tensor in state.items()}


def restore_optimizer(optimizer: Optimizer, network: nn.Module, tensors: Mapping[str, Tensor], groups: object) -> None:
    """Put the moments back, in the memory layout of their parameters: another layout sums in another order."""
    states: dict[int, dict[str, Tensor]] = {}
    parameters = list(network.parameters())
    for name, tensor in without_prefix("optimizer", tensors).items():
        number, what = name.split(".", 1)
        like = parameters[int(number)]
        kept = tensor if what == "step" else torch.empty_like(like).copy_(tensor)
        states.setdefault(int(number), {})[what] = kept.detach()
    optimizer.load_state_dict({"state": states, "param_groups": groups})
