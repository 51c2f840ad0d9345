"""Bundles over the instances of a study: what each one says, with the image that caused it.

Outputs are rounded to `DECIMALS` decimals at this edge: float32 sums differ in the last bits with the batch that an
image falls in and with the number of threads, and a result must not.
"""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from torch import Tensor

from dicomnode.config import AnalysisSettings
from dicomnode.domain.findings import AnomalyFinding, BundleResult, Code, Finding, Prediction
from dicomnode.errors import UnreadableImage, UnsuitableInput
from dicomnode.failpoint import failpoint
from dicomnode.inference.anomaly import percentile
from dicomnode.inference.batcher import Answer, Batcher, Run
from dicomnode.inference.bundle import Bundle
from dicomnode.inference.codes import ImageCode, as_bytes, coder
from dicomnode.inference.decoding_process import Decoders
from dicomnode.inference.display import FloatArray
from dicomnode.inference.explain import NO_METHOD, Explainer, Explanation, Wanted
from dicomnode.inference.manifest import AnomalyOutput, ClassifierOutput, ClassTable, CodeTable
from dicomnode.inference.select import Refusal, SourceInstance, most_telling, refusal

DECIMALS = 4
LAST_STAGE = 1000
"""Stage of a refusal after selection: it tells more than any header."""


@dataclass
class _Plan:
    """What one bundle does with the instances of a study."""

    bundle: Bundle
    accepted: list[SourceInstance]
    refusals: list[Refusal]


@dataclass(frozen=True)
class Examined:
    """What the bundles say about a study, and the codes of its images."""

    results: tuple[BundleResult, ...]
    codes: tuple[ImageCode, ...]


class Analyzer:
    """Bundles that share decoding and batches; `analyze` may be called from many threads inside the `with` block."""

    def __init__(self, bundles: Sequence[Bundle], settings: AnalysisSettings) -> None:
        names = [bundle.identity.name for bundle in bundles]
        if len(set(names)) != len(names):
            raise ValueError(f"two bundles have the same name: {names}")
        self._bundles = tuple(bundles)
        self._settings = settings
        self._batcher: Batcher | None = None
        self._decoders: Decoders | None = None
        self._coders = {b.identity.name: run for b in self._bundles if (run := coder(b)) is not None}
        self._explainers: dict[str, Explainer] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._decoders = Decoders(self._settings)
        networks: dict[str, Run] = {bundle.identity.name: bundle.run for bundle in self._bundles}
        networks |= {_coder_name(name): run for name, run in self._coders.items()}
        self._batcher = Batcher(networks, self._settings.batch_images, self._settings.batch_wait_ms)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._batcher is not None:
            self._batcher.close()
        if self._decoders is not None:
            self._decoders.close()

    def analyze(self, instances: Sequence[SourceInstance]) -> tuple[BundleResult, ...]:
        """Return what each bundle says, in their order; see `examine`."""
        return self.examine(instances).results

    def examine(self, instances: Sequence[SourceInstance]) -> Examined:
        """Return what each bundle says, in their order, and codes; the order of `instances` does not matter.

        A bundle that assessed nothing says why in `not_applicable`. No file makes it raise but one that is gone
        (`SpoolFileMissing`); `DecoderUnavailable` if no decoding process can be started.
        """
        if self._batcher is None or self._decoders is None:
            raise RuntimeError("the analyzer is used outside its `with` block")
        ordered = sorted(instances, key=lambda instance: instance.sop_instance_uid)
        plans = [_plan(bundle, ordered) for bundle in self._bundles]
        answers = self._run(self._batcher, plans)
        return Examined(
            tuple(_result(plan, answers) for plan in plans),
            tuple(code for plan in plans for code in _codes(plan, answers)),
        )

    def explain(self, path: Path, asked: Wanted) -> Explanation | None:
        """Return the map that explains a number of the image in `path`; None where the bundle names no method.

        Raises `UnsuitableInput` where there is none, and what the network raises.
        """
        bundle = next(bundle for bundle in self._bundles if bundle.identity.name == asked.bundle_name)
        if bundle.manifest.explanation == NO_METHOD:
            return None
        image = self._decode(path, bundle)
        if isinstance(image, UnsuitableInput):
            raise image
        with self._lock:
            explainer = self._explainers.get(asked.bundle_name) or Explainer(bundle)
            self._explainers[asked.bundle_name] = explainer
        return explainer.explain(image, bundle.prepare(image), asked.label)

    def _run(self, batcher: Batcher, plans: Sequence[_Plan]) -> dict[Path, dict[str, Answer]]:
        """Decode each wanted image once, run its networks, and return the answers by file and bundle."""
        wanted: dict[Path, list[Bundle]] = {}
        for plan in plans:
            for instance in plan.accepted:
                wanted.setdefault(instance.path, []).append(plan.bundle)
        waiting: list[tuple[Path, Future[dict[str, Answer]]]] = []
        answers: dict[Path, dict[str, Answer]] = {}
        for path, bundles in wanted.items():
            inputs, refused = self._inputs(path, bundles)
            answers[path] = refused
            waiting.append((path, batcher.submit(inputs)))
        failpoint("analyze.decoded")
        for path, future in waiting:
            answers[path] |= future.result()
        return answers

    def _inputs(self, path: Path, bundles: Sequence[Bundle]) -> tuple[dict[str, Tensor], dict[str, Answer]]:
        """Return the inputs of each bundle, decoded once a VOI and prepared once a preprocessing, and the failures."""
        decoded: dict[object, FloatArray | UnsuitableInput] = {}
        prepared: dict[object, Tensor] = {}
        inputs: dict[str, Tensor] = {}
        refused: dict[str, Answer] = {}
        for bundle in bundles:
            how = bundle.manifest.preprocessing
            if how.voi not in decoded:
                decoded[how.voi] = self._decode(path, bundle)
            image = decoded[how.voi]
            if isinstance(image, UnsuitableInput):
                refused[bundle.identity.name] = image
                continue
            wanted = (how, bundle.manifest.tensor.channels)
            if wanted not in prepared:
                prepared[wanted] = bundle.prepare(image)
            inputs[bundle.identity.name] = prepared[wanted]
            if bundle.identity.name in self._coders:
                inputs[_coder_name(bundle.identity.name)] = prepared[wanted]
        return inputs, refused

    def _decode(self, path: Path, bundle: Bundle) -> FloatArray | UnsuitableInput:
        assert self._decoders is not None  # noqa: S101  `analyze` asked
        try:
            return self._decoders.decode(path, bundle.manifest.preprocessing.voi)
        except UnsuitableInput as exc:
            return exc
        except UnreadableImage as exc:
            return UnsuitableInput(str(exc))


def _coder_name(bundle_name: str) -> str:
    """Return the name under which the batcher runs a bundle's coder: no bundle can have it."""
    return f"{bundle_name} code"


def _codes(plan: _Plan, answers: dict[Path, dict[str, Answer]]) -> Iterator[ImageCode]:
    name = plan.bundle.identity.name
    for instance in plan.accepted:
        given = answers[instance.path]
        code = given.get(_coder_name(name))
        if code is None or isinstance(code, UnsuitableInput) or isinstance(given[name], UnsuitableInput):
            continue
        yield ImageCode(name, instance.sop_instance_uid, as_bytes(code))


def _plan(bundle: Bundle, instances: Sequence[SourceInstance]) -> _Plan:
    plan = _Plan(bundle, [], [])
    for instance in instances:
        refused = refusal(instance, bundle.manifest.input)
        if refused is None:
            plan.accepted.append(instance)
        else:
            plan.refusals.append(refused)
    return plan


def _result(plan: _Plan, answers: dict[Path, dict[str, Answer]]) -> BundleResult:
    name, manifest = plan.bundle.identity.name, plan.bundle.manifest
    values: dict[str, list[float]] = {}
    for instance in plan.accepted:
        answer = answers[instance.path][name]
        if isinstance(answer, UnsuitableInput):
            plan.refusals.append(Refusal(str(answer), LAST_STAGE))
        else:
            values[instance.sop_instance_uid] = [round(float(value), DECIMALS) for value in answer]
    if not values:
        return BundleResult(plan.bundle.identity, not_applicable=most_telling(plan.refusals))
    if manifest.anomaly is not None:
        return _anomaly_result(plan.bundle, manifest.anomaly, values)
    assert manifest.classifier is not None  # noqa: S101  the manifest has one output
    return _classifier_result(plan.bundle, manifest.classifier, values)


def _classifier_result(bundle: Bundle, output: ClassifierOutput, values: dict[str, list[float]]) -> BundleResult:
    predictions: list[Prediction] = []
    findings: list[Finding] = []
    for known in output.classes:
        column, threshold = output.names.index(known.label), known.operating_point.threshold
        found = [Prediction(uid, known.label, row[column], threshold) for uid, row in values.items()]
        predictions += found
        findings.append(_finding(known, max(found, key=lambda prediction: prediction.value)))
    return BundleResult(bundle.identity, tuple(predictions), tuple(findings), assessed=tuple(values))


def _finding(known: ClassTable, worst: Prediction) -> Finding:
    site = None if known.site is None else _code(known.site)
    uid = worst.sop_instance_uid
    return Finding(known.label, _code(known.code), site, worst.value, worst.threshold, known.priority, uid)


def _anomaly_result(bundle: Bundle, output: AnomalyOutput, values: dict[str, list[float]]) -> BundleResult:
    found = [Prediction(uid, output.label, row[0], output.threshold) for uid, row in values.items()]
    worst = max(found, key=lambda prediction: prediction.value)
    anomaly = AnomalyFinding(
        label=output.label,
        score=worst.value,
        threshold=output.threshold,
        percentile=round(percentile(worst.value, output.quantiles), DECIMALS),
        sop_instance_uid=worst.sop_instance_uid,
    )
    return BundleResult(bundle.identity, tuple(found), anomaly=anomaly, assessed=tuple(values))


def _code(table: CodeTable) -> Code:
    return Code(table.value, table.scheme, table.meaning)
