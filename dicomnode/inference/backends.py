"""What runs a network: eager torch, ONNX Runtime, bfloat16 or compiled code, chosen by measurement.

Eager float32 is the measure: what differs from it on the reference cases by more than their tolerance is out, and
`auto` takes another backend only where it is faster and the difference cannot be seen in a result (decision 0070).
The choice is kept in a file, so that every start and every host with the same folder calculates alike.
"""

import copy
import json
import os
import shutil
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor

from dicomnode.config import AnalysisSettings
from dicomnode.errors import BundleError
from dicomnode.inference import onnx
from dicomnode.inference.bundle import Bundle, Forward, activate, channels_last, reference_inputs
from dicomnode.inference.export import to_onnx
from dicomnode.log import get_logger

log = get_logger(__name__)

EAGER, CHANNELS_LAST, BFLOAT16, COMPILED = "eager", "channels_last", "bfloat16", "compiled"
SAFE_DIFFERENCE = 5e-6
"""A twentieth of the last decimal of a result: what `auto` accepts."""
FASTER = 0.9
ROUNDS = 5
LIMIT_S = 0.5
"""A backend is measured no longer than this, but twice at least."""


@dataclass(frozen=True)
class Measured:
    """What one backend did on the reference cases.

    `ms` is what an image alone costs and an image's share of a full batch, added; `difference` is the largest of the
    outputs against eager float32; `reason` says why the backend is out.
    """

    name: str
    ms: float | None = None
    difference: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Choice:
    """The backend of a bundle and how it was found."""

    chosen: str
    measured: tuple[Measured, ...]


def choose(bundle: Bundle, settings: AnalysisSettings, folder: Path | None = None) -> tuple[Bundle, Choice]:
    """Return `bundle` run by the backend that `settings` names, or by the fastest safe one, and the choice.

    A choice of `auto` is read from and kept in `folder`. A backend that cannot run or differs too much is replaced by
    eager torch and the reason is logged.
    """
    if bundle.module is None:
        return bundle, Choice(bundle.backend, (Measured(bundle.backend),))
    if settings.backend != "auto":
        return _use(bundle, settings, folder, settings.backend, None)
    kept = None if folder is None else _kept(folder, bundle, settings)
    if kept is not None:
        return _use(bundle, settings, folder, kept.chosen, kept)
    choice, forwards = measure(bundle, settings, folder)
    if folder is not None:
        _keep(folder, bundle, settings, choice)
    return replace(bundle, forward=forwards[choice.chosen], backend=choice.chosen), choice


def measure(
    bundle: Bundle, settings: AnalysisSettings, folder: Path | None = None, *, compiled: bool = False
) -> tuple[Choice, dict[str, Forward]]:
    """Return which backend is the fastest safe one, with the figures of each, and those that can run."""
    inputs = reference_inputs(bundle)
    forwards: dict[str, Forward] = {}
    out: list[Measured] = []
    for name, make in makers(bundle, settings, folder, compiled=compiled).items():
        made = _made(name, make)
        if isinstance(made, Measured):
            out.append(made)
        else:
            forwards[name] = made
    differences = {name: difference(bundle, forward, forwards[EAGER], inputs) for name, forward in forwards.items()}
    times = _times(forwards, inputs, settings.batch_images)
    measured = [_judged(bundle, name, times[name], differences[name]) for name in forwards]
    allowed = [m for m in measured if not m.reason and m.difference is not None and m.difference <= SAFE_DIFFERENCE]
    fastest = min(allowed, key=lambda m: times[m.name])
    chosen = fastest.name if times[fastest.name] <= FASTER * times[EAGER] else EAGER
    return Choice(chosen, (*measured, *out)), forwards


@dataclass(frozen=True)
class Exported:
    """A network as an ONNX file, with the largest difference of its results from eager float32's."""

    content: bytes
    difference: float


def export(bundle: Bundle) -> Exported:
    """Return the network of `bundle` as ONNX, compared on the reference cases; raise `BundleError`."""
    content = _exported(bundle)
    run = onnx.session(bundle.identity.name, content, 0)
    return Exported(content, difference(bundle, run, _eager(bundle), reference_inputs(bundle)))


def makers(
    bundle: Bundle, settings: AnalysisSettings, folder: Path | None, *, compiled: bool
) -> Mapping[str, Callable[[], Forward]]:
    """Return what makes each backend; compiled code only if asked for or already in its cache."""
    found: dict[str, Callable[[], Forward]] = {
        EAGER: lambda: _eager(bundle),
        CHANNELS_LAST: lambda: channels_last(copy.deepcopy(bundle.network)),
        BFLOAT16: lambda: _bfloat16(bundle),
        onnx.BACKEND: lambda: onnx.session(bundle.identity.name, _exported(bundle), settings.threads),
    }
    if compiled or (folder is not None and _stamp(folder, bundle).is_file()):
        found[COMPILED] = lambda: _compiled(bundle, folder)
    return found


def difference(bundle: Bundle, forward: Forward, eager: Forward, inputs: Tensor) -> float:
    """Return the largest difference of results (probabilities, scores) of `forward` from those of `eager`."""
    with torch.inference_mode():
        results = [activate(bundle.manifest.classifier, run(inputs).double()) for run in (forward, eager)]
    return float((results[0] - results[1]).abs().max())


def _use(
    bundle: Bundle, settings: AnalysisSettings, folder: Path | None, name: str, kept: Choice | None
) -> tuple[Bundle, Choice]:
    """Return `bundle` run by the backend `name`, by eager torch where that cannot run or differs too much."""
    eager = _eager(bundle)
    made = _made(name, makers(bundle, settings, folder, compiled=name == COMPILED)[name])
    if not isinstance(made, Measured):
        found = _judged(bundle, name, None, difference(bundle, made, eager, reference_inputs(bundle)))
        if not found.reason:
            return replace(bundle, forward=made, backend=name), kept or Choice(name, (found,))
    else:
        found = made
    log.warning("backend not used", bundle=bundle.identity.name, backend=name, reason=found.reason)
    return replace(bundle, forward=eager, backend=EAGER), Choice(EAGER, (found,))


def _made(name: str, make: Callable[[], Forward]) -> Forward | Measured:
    try:
        return make()
    except (BundleError, RuntimeError) as exc:
        return Measured(name, reason=str(exc))


def _judged(bundle: Bundle, name: str, ms: float | None, differs: float) -> Measured:
    tolerance = bundle.manifest.reference.tolerance
    reason = "" if differs <= tolerance else f"differs by {differs:.2g}, the tolerance is {tolerance:.2g}"
    return Measured(name, ms, differs, reason)


def _times(forwards: Mapping[str, Forward], inputs: Tensor, batch_images: int) -> dict[str, float]:
    """Return the median milliseconds of each backend, measured in turns so that all meet the same machine."""
    alone, batch = inputs[:1], inputs[torch.arange(batch_images) % len(inputs)]
    taken: dict[str, list[float]] = {name: [] for name in forwards}
    with torch.inference_mode():
        for forward in forwards.values():
            forward(alone), forward(batch)
        for _ in range(ROUNDS):
            for name, forward in forwards.items():
                if len(taken[name]) < 2 or sum(taken[name]) < LIMIT_S * 1000:
                    taken[name].append(_ms(forward, alone) + _ms(forward, batch) / batch_images)
    return {name: round(statistics.median(values), 4) for name, values in taken.items()}


def _ms(forward: Forward, batch: Tensor) -> float:
    began = time.perf_counter()
    forward(batch)
    return (time.perf_counter() - began) * 1000


def _eager(bundle: Bundle) -> Forward:
    network: Forward = copy.deepcopy(bundle.network).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return network


def _bfloat16(bundle: Bundle) -> Forward:
    forward = channels_last(copy.deepcopy(bundle.network))

    def run(batch: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return forward(batch).float()

    return run


def _exported(bundle: Bundle) -> bytes:
    if not onnx.is_installed():
        raise BundleError(onnx.NOT_INSTALLED)
    return to_onnx(bundle)


def _compiled(bundle: Bundle, folder: Path | None) -> Forward:
    """Return compiled code, made now (20 to 100 s) or taken from its cache in `folder`."""
    if not shutil.which(os.environ.get("CXX", "g++")):
        raise BundleError("there is no C++ compiler (g++, or the one that CXX names)")
    if folder is not None:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "compiled")
    compiled: Forward = torch.compile(copy.deepcopy(bundle.network), dynamic=True)
    inputs = reference_inputs(bundle)
    try:
        with torch.inference_mode():
            for batch in (inputs[:1], inputs[torch.arange(4) % len(inputs)]):
                compiled(batch)
    except Exception as exc:
        raise RuntimeError(f"torch cannot compile it: {exc}") from exc
    if folder is not None:
        _stamp(folder, bundle).touch()
    return compiled


def _stamp(folder: Path, bundle: Bundle) -> Path:
    return folder / "compiled" / f"{bundle.identity.digest}.{version('torch')}"


def _conditions(settings: AnalysisSettings) -> dict[str, str]:
    """Return what a choice holds for: another library may calculate otherwise."""
    found = {"threads": str(settings.threads), "batch_images": str(settings.batch_images)}
    for library in ("torch", "onnxruntime"):
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = ""
    return found


def _kept(folder: Path, bundle: Bundle, settings: AnalysisSettings) -> Choice | None:
    try:
        values = json.loads((folder / f"{bundle.identity.digest}.json").read_text(encoding="utf-8"))
        if values["conditions"] != _conditions(settings):
            return None
        return Choice(values["chosen"], tuple(Measured(**one) for one in values["measured"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # there is none, or none that means anything: it is measured again


def _keep(folder: Path, bundle: Bundle, settings: AnalysisSettings, choice: Choice) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    values = {"bundle": bundle.identity.name, "conditions": _conditions(settings), **asdict(choice)}
    draft = folder / f"{bundle.identity.digest}.{os.getpid()}.tmp"
    draft.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    draft.replace(folder / f"{bundle.identity.digest}.json")
