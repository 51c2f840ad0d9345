"""A network of ours as ONNX: opset 18, the first dimension (the batch) open."""

import io
import warnings

import torch
from torch import nn

from dicomnode.inference.bundle import Bundle

OPSET = 18


def to_onnx(bundle: Bundle) -> bytes:
    """Return the network of `bundle` as an ONNX file; raise `BundleError` where it is none of torch."""
    tensor = bundle.manifest.tensor
    return network_to_onnx(bundle.network, (tensor.channels, tensor.rows, tensor.columns))


def network_to_onnx(network: nn.Module, shape: tuple[int, int, int]) -> bytes:
    """Return `network`, which takes (B, *shape), as an ONNX file; it must be in evaluation mode."""
    file = io.BytesIO()
    example = torch.zeros(2, *shape)
    dynamic = {"input": {0: "batch"}, "output": {0: "batch"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this exporter is deprecated; the newer one needs onnxscript (decision 0071)
        torch.onnx.export(
            network,
            (example,),
            file,  # type: ignore[arg-type]  # it writes to a buffer too
            dynamo=False,
            opset_version=OPSET,
            input_names=["input"],
            output_names=["output"],
            dynamic_axes=dynamic,
        )
    return file.getvalue()
