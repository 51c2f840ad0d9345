"""A network as ONNX: read as data, checked to the last tensor, run by ONNX Runtime on the CPU.

Only operators of the default domain, no external data, no functions, no chance: what the bytes say is all there is.
ONNX and its runtime are the optional extra `onnx`.
"""

from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dicomnode.errors import BundleError
from dicomnode.inference.manifest import MODEL_NAME, Manifest

BACKEND = "onnxruntime"
DEFAULT_DOMAINS = ("", "ai.onnx")
MAX_NODES = 20_000
MAX_LEVELS = 16
CHANCE = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
NOT_INSTALLED = "needs ONNX Runtime, which is not installed: `pip install 'dicomnode[onnx]'`"
Shape = tuple[int | None, ...]
"""Dimensions of an input or output; None where the file leaves one open."""
Proto = Any  # a message of the ONNX format: the library's classes are made at run time


def load(manifest: Manifest, data: bytes, threads: int) -> Callable[[Tensor], Tensor]:
    """Return the network in `data` after every check, run on `threads` (0: all); raise `BundleError`."""
    check(manifest, data)
    return session(manifest.name, data, threads)


def session(name: str, data: bytes, threads: int) -> Callable[[Tensor], Tensor]:
    """Return the network in `data`, (B, channels, rows, columns) to (B, K), unchecked; raise `BundleError`."""
    runtime = imported("onnxruntime", name)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the cores are not ours alone
    try:
        opened = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as exc:
        raise BundleError(f"{name}: {MODEL_NAME}: ONNX Runtime does not take it: {exc}") from exc
    (taken,) = [given.name for given in opened.get_inputs()]

    def forward(batch: Tensor) -> Tensor:
        try:
            outputs = opened.run(None, {taken: batch.contiguous().numpy()})
        except Exception as exc:
            raise RuntimeError(f"ONNX Runtime: {exc}") from exc
        return torch.from_numpy(outputs[0])  # (B, K)

    return forward


def check(manifest: Manifest, data: bytes) -> None:
    """Raise `BundleError`, with the file and the reason, for a network that must not be run."""
    where = f"{manifest.name}: {MODEL_NAME}"
    model = _parsed(where, data)
    _check_operators(where, model)
    _check_tensors(where, model)
    _check_well_formed(where, model)
    taken, given = shapes(where, model)
    tensor = manifest.tensor
    count = 1 if manifest.classifier is None else len(manifest.classifier.names)
    _check_shape(f"{where}: its input", taken, (tensor.channels, tensor.rows, tensor.columns))
    _check_shape(f"{where}: its output", given, (count,))


def described(where: str, data: bytes) -> tuple[Shape, Shape]:
    """Return the shapes of input and output of an ONNX file; raise `BundleError`."""
    return shapes(where, _parsed(where, data))


def shapes(where: str, model: Proto) -> tuple[Shape, Shape]:
    """Return the shapes of the one float32 input and the one float32 output; raise `BundleError`."""
    constant = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constant]
    return _one("input", where, inputs), _one("output", where, model.graph.output)


def imported(library: str, name: str) -> ModuleType:
    """Return a library of the extra; raise `BundleError` that says how to install it."""
    try:
        return __import__(library)
    except ImportError as exc:
        raise BundleError(f"{name}: {MODEL_NAME}: {NOT_INSTALLED}") from exc


def is_installed() -> bool:
    """Return whether the extra `onnx` is there."""
    try:
        imported("onnx", "")
        imported("onnxruntime", "")
    except BundleError:
        return False
    return True


def _parsed(where: str, data: bytes) -> Proto:
    onnx = imported("onnx", where.partition(":")[0])
    try:
        model = onnx.load_model_from_string(data)
    except Exception as exc:
        raise BundleError(f"{where}: is no ONNX file: {exc}") from exc
    if not model.graph.node:
        raise BundleError(f"{where}: is no ONNX file: it has no graph")
    return model


def _check_operators(where: str, model: Proto) -> None:
    foreign = [used.domain for used in model.opset_import if used.domain not in DEFAULT_DOMAINS]
    if foreign:
        raise BundleError(f"{where}: uses operators of the domain {foreign[0]!r}; only ONNX's own are allowed")
    if model.functions:
        raise BundleError(f"{where}: holds the function {model.functions[0].name!r}; export it with functions inlined")
    if model.training_info:
        raise BundleError(f"{where}: holds training information")
    for number, node in enumerate(_nodes(where, model)):
        if number >= MAX_NODES:
            raise BundleError(f"{where}: has more than {MAX_NODES} operators")
        if node.domain not in DEFAULT_DOMAINS:
            raise BundleError(f"{where}: the operator {node.op_type!r} is of the domain {node.domain!r}")
        if node.op_type in CHANCE:
            raise BundleError(f"{where}: the operator {node.op_type!r} gives another result every time")


def _check_tensors(where: str, model: Proto) -> None:
    onnx = imported("onnx", where)
    for tensor in _tensors(where, model):
        if tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise BundleError(f"{where}: the tensor {tensor.name!r} lies in another file; save the model in one file")
        if tensor.data_type in (onnx.TensorProto.STRING, onnx.TensorProto.UNDEFINED):
            raise BundleError(f"{where}: the tensor {tensor.name!r} holds no numbers")
        try:
            values = onnx.numpy_helper.to_array(tensor)
        except Exception as exc:
            raise BundleError(f"{where}: the tensor {tensor.name!r} cannot be read: {exc}") from exc
        if values.dtype.kind in "fc" and not np.isfinite(values).all():
            raise BundleError(f"{where}: the tensor {tensor.name!r} holds a number that is not finite")


def _check_well_formed(where: str, model: Proto) -> None:
    try:
        imported("onnx", where).checker.check_model(model, full_check=True)
    except Exception as exc:
        raise BundleError(f"{where}: is not valid ONNX: {exc}") from exc


def _graphs(where: str, model: Proto) -> Iterator[Proto]:
    """Yield the graph and every graph inside its operators (If, Loop, Scan)."""
    waiting = [(model.graph, 0)]
    while waiting:
        graph, level = waiting.pop()
        if level > MAX_LEVELS:
            raise BundleError(f"{where}: graphs lie more than {MAX_LEVELS} deep in each other")
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                inner = [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]
                waiting += [(graph, level + 1) for graph in inner]


def _nodes(where: str, model: Proto) -> Iterator[Proto]:
    for graph in _graphs(where, model):
        yield from graph.node


def _tensors(where: str, model: Proto) -> Iterator[Proto]:
    """Yield every tensor: of graphs and of attributes, sparse ones too."""
    for graph in _graphs(where, model):
        yield from graph.initializer
        yield from _dense(graph.sparse_initializer)
        for node in graph.node:
            for attribute in node.attribute:
                yield from attribute.tensors
                yield from _dense(attribute.sparse_tensors)
                if attribute.HasField("t"):
                    yield attribute.t
                if attribute.HasField("sparse_tensor"):
                    yield from _dense([attribute.sparse_tensor])


def _dense(sparse: Sequence[Proto]) -> Iterator[Proto]:
    for tensor in sparse:
        yield tensor.values
        yield tensor.indices


def _one(what: str, where: str, values: Sequence[Proto]) -> Shape:
    if len(values) != 1:
        raise BundleError(f"{where}: has {len(values)} {what}s ({', '.join(v.name for v in values)}), not one")
    kind = values[0].type.tensor_type
    if kind.elem_type != 1:  # TensorProto.FLOAT
        raise BundleError(f"{where}: its {what} {values[0].name!r} is no float32 tensor")
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)


def _check_shape(what: str, shape: Shape, wanted: tuple[int, ...]) -> None:
    if not shape:
        return  # the file says nothing of it: the reference cases will tell
    if len(shape) != 1 + len(wanted):
        raise BundleError(f"{what} has {len(shape)} dimensions, not {1 + len(wanted)}")
    if shape[0] is not None:
        raise BundleError(f"{what} takes batches of {shape[0]} only; export it with a dynamic first dimension")
    if any(had not in (None, needed) for had, needed in zip(shape[1:], wanted, strict=True)):
        raise BundleError(f"{what} is {_text(shape)}, the manifest says {_text((None, *wanted))}")


def _text(shape: Shape) -> str:
    return " x ".join("batch" if size is None else str(size) for size in shape)
