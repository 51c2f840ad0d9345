"""An ONNX file is refused for all that is not plain numbers and ONNX's own operators; else it gives torch's outputs."""

import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from dicomnode.errors import BundleError
from dicomnode.inference import bundle as bundles
from dicomnode.inference.networks import build
from dicomnode.training import writer

Edit = Callable[[Any], object]
SMALL: dict[str, Any] = {"outputs": 1, "stem": 4, "channels": (4, 8), "input_channels": 3}


def edited(folder: Path, edit: Edit) -> None:
    """Change the model; the digests are written anew, so that nothing else is wrong."""
    model = onnx.load(folder / "model.onnx")
    replaced = edit(model)
    (folder / "model.onnx").write_bytes(replaced if isinstance(replaced, bytes) else model.SerializeToString())
    values = tomllib.loads((folder / "bundle.toml").read_text())
    del values["files"]
    writer.write_manifest(folder, values)


def external_data(model: Any) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret.bin")


def in_a_branch(*nodes: Any) -> Edit:
    """Put `nodes` into the branches of an If; the output of the graph stays what it is."""

    def edit(model: Any) -> None:
        constant = helper.make_node("Constant", [], ["inner"], value_float=1.0)
        out = helper.make_tensor_value_info("inner", TensorProto.FLOAT, [])
        branch = helper.make_graph([constant, *nodes], "branch", [], [out])
        model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
        model.graph.node.append(helper.make_node("If", ["yes"], ["unused"], then_branch=branch, else_branch=branch))

    return edit


def external_constant() -> Any:
    tensor = TensorProto(name="far", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="far.bin")
    return helper.make_node("Constant", [], ["far"], value=tensor)


def nan_weight(model: Any) -> None:
    tensor = next(t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT)
    values = numpy_helper.to_array(tensor).copy()
    values.flat[0] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def fixed_batch(model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def second_output(model: Any) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["extra"], value_floats=[1.0]))
    model.graph.output.add().CopyFrom(helper.make_tensor_value_info("extra", TensorProto.FLOAT, [1]))


def function(model: Any) -> None:
    node = helper.make_node("Relu", ["a"], ["b"])
    model.functions.append(helper.make_function("", "Mine", ["a"], ["b"], [node], model.opset_import))


REFUSALS: dict[str, tuple[Edit, str]] = {
    "external data": (external_data, r"lies in another file; save the model in one file"),
    "external data in a branch": (in_a_branch(external_constant()), r"'far' lies in another file"),
    "foreign opset": (
        lambda m: m.opset_import.append(helper.make_opsetid("com.microsoft", 1)),
        r"operators of the domain 'com\.microsoft'; only ONNX's own",
    ),
    "foreign operator": (
        lambda m: m.graph.node.append(helper.make_node("PyOp", [], ["y"], domain="ai.onnx.contrib")),
        r"'PyOp' is of the domain 'ai\.onnx\.contrib'",
    ),
    "foreign operator in a branch": (
        in_a_branch(helper.make_node("PyOp", [], ["y"], domain="ai.onnx.contrib")),
        r"'PyOp' is of the domain",
    ),
    "operator of chance": (in_a_branch(helper.make_node("RandomNormal", [], ["y"], shape=[1])), r"another result"),
    "function": (function, r"holds the function 'Mine'"),
    "NaN weight": (nan_weight, r"holds a number that is not finite"),
    "a batch of one": (fixed_batch, r"input takes batches of 1 only; export it with a dynamic first dimension"),
    "two outputs": (second_output, r"has 2 outputs"),
    "no ONNX": (lambda _: b"\x80\x04K\x01.", r"is no ONNX file"),
    "unknown operator": (lambda m: m.graph.node.append(helper.make_node("Foo", [], ["y"])), r"is not valid ONNX"),
    "tensor of another size": (
        lambda m: (
            m.graph.input[0].type.tensor_type.shape.dim[2].CopyFrom(onnx.TensorShapeProto.Dimension(dim_value=64))
        ),
        r"its input is batch x 3 x 64 x 32, the manifest says batch x 3 x 32 x 32",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_an_onnx_file_is_refused_by_name_file_and_reason(case: str, onnx_folder: Path) -> None:
    edit, reason = REFUSALS[case]
    edited(onnx_folder, edit)
    with pytest.raises(BundleError, match=rf"(?s)^small_onnx: model\.onnx: .*{reason}"):
        bundles.load(onnx_folder)


def test_a_listed_data_file_beside_the_model_does_not_help(onnx_folder: Path) -> None:
    (onnx_folder / "secret.bin").write_bytes(b"\0" * 64)
    edited(onnx_folder, external_data)
    with pytest.raises(BundleError, match="lies in another file"):
        bundles.load(onnx_folder)


def test_other_weights_do_not_reproduce_the_reference(onnx_folder: Path) -> None:
    def negated(model: Any) -> None:
        tensor = next(t for t in model.graph.initializer if t.name == "head.weight")
        tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor) - 1, tensor.name))

    edited(onnx_folder, negated)
    with pytest.raises(BundleError, match=r"small_onnx: reference/gradient\.safetensors: gives"):
        bundles.load(onnx_folder)


def test_without_the_extra_the_words_say_what_to_install(onnx_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(BundleError, match=r"small_onnx: model\.onnx: .*pip install 'dicomnode\[onnx\]'"):
        bundles.load(onnx_folder)


def test_an_onnx_bundle_gives_what_torch_gives_on_three_normalized_channels(onnx_folder: Path) -> None:
    loaded = bundles.load(onnx_folder, threads=1)
    assert loaded.backend == "onnxruntime"
    torch.manual_seed(3)
    network = build("residual_cnn", SMALL).eval()
    grey = torch.rand(5, 32, 32)
    inputs = torch.stack([loaded.prepare(image.numpy()) for image in grey])
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    by_hand = (grey[:, None].expand(-1, 3, -1, -1) - mean[:, None, None]) / std[:, None, None]
    with torch.inference_mode():
        expected = network(by_hand).sigmoid()
    np.testing.assert_allclose(loaded.run(inputs), expected.numpy(), atol=1e-6)


def test_layers_of_an_onnx_file_are_refused_in_words(onnx_folder: Path) -> None:
    loaded = bundles.load(onnx_folder)
    with pytest.raises(BundleError, match=r"model\.onnx: has no layers or gradients"):
        _ = loaded.network


def test_the_bundle_says_which_network_file_it_holds(onnx_folder: Path) -> None:
    assert "architecture ONNX" in bundles.load(onnx_folder).identity.parameters


def test_a_network_that_gives_logits_is_refused_where_probabilities_are_promised(onnx_folder: Path) -> None:
    manifest = onnx_folder / "bundle.toml"
    manifest.write_text(manifest.read_text().replace('activation = "sigmoid"', 'activation = "none"'))

    def large(model: Any) -> None:
        tensor = next(t for t in model.graph.initializer if t.name == "head.bias")
        tensor.CopyFrom(numpy_helper.from_array(np.array([5.0], np.float32), tensor.name))

    edited(onnx_folder, large)
    with pytest.raises(BundleError, match=r"gradient\.safetensors: gives .*: no probabilities; see activation"):
        bundles.load(onnx_folder)
