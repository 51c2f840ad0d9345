"""Small bundles with random weights, and image files of nobody."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import torch
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

from dicomnode.inference import bundle as bundles
from dicomnode.inference.export import network_to_onnx
from dicomnode.inference.manifest import ClassifierOutput, Preprocessing
from dicomnode.inference.networks import build
from dicomnode.inference.preprocess import Resize, prepare
from dicomnode.training import writer
from dicomnode.training.seal import seal

torch.set_num_threads(1)  # networks this small only wait for a second thread
SIDE = 32
STEPS = (Resize(step="resize", rows=SIDE, columns=SIDE),)
PNEUMONIA = {"value": "233604007", "scheme": "SCT", "meaning": "Pneumonia"}
INPUT = {
    "modalities": ["CR", "DX"],
    "sop_classes": ["1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1"],
    "body_parts": ["CHEST"],
    "views": ["PA", "AP"],
    "excluded_views": ["LATERAL", "LL", "RL"],
    "exclude": {"PresentationIntentType": ["FOR PROCESSING"]},
    "min_rows": 16,
    "min_columns": 16,
}


def manifest_values(name: str, kind: str) -> dict[str, Any]:
    """Return the manifest of a small bundle without its digests and reference cases."""
    point = {
        "threshold": 0.5,
        "rule": "half",
        "sensitivity": 0.9,
        "sensitivity_interval": [0.8, 0.95],
        "specificity": 0.9,
        "specificity_interval": [0.8, 0.95],
        "measured_on": "nothing",
    }
    finding = {"label": "Pneumonia", "code": PNEUMONIA, "priority": "urgent", "operating_point": point}
    output: dict[str, Any] = {
        "classifier": {"activation": "sigmoid", "names": ["Pneumonia"], "classes": [finding]},
        "anomaly": {
            "score_name": "distance",
            "unit": "standard deviations",
            "threshold": 2.0,
            "flag_quantile": 0.98,
            "quantiles": [0.03 * n for n in range(101)],
            "measured_on": "nothing",
        },
    }
    architecture = {
        "classifier": {"name": "residual_cnn", "parameters": {"outputs": 1, "stem": 4, "channels": [4, 8]}},
        "anomaly": {"name": "anomaly_autoencoder", "parameters": {"size": SIDE, "channels": [4, 8], "code": 4}},
    }
    return {
        "schema_version": 1,
        "name": name,
        "version": "1.0.0",
        "kind": kind,
        "title": f"A small {kind}",
        "status": "research",
        "intended_use": "tests",
        "not_for": ["patients"],
        "architecture": architecture[kind],
        "input": INPUT,
        "preprocessing": {"steps": [step.model_dump() for step in STEPS]},
        "tensor": {"rows": SIDE, "columns": SIDE},
        kind: output[kind],
        "training": {
            "data": "none",
            "licence": "CC0-1.0",
            "data_sha256": "0" * 64,
            "seed": 1,
            "epochs": 0,
            "libraries": {"torch": torch.__version__},
        },
        "licences": {"code": "Apache-2.0", "weights": "CC0-1.0"},
        "reference": {"tolerance": 1e-4, "cases": ["reference/gradient.safetensors"]},
    }


def write_bundle(folder: Path, values: dict[str, Any]) -> Path:
    """Write a small bundle with random weights that reproduces its reference case."""
    folder.mkdir(parents=True)
    torch.manual_seed(3)
    network = build(values["architecture"]["name"], values["architecture"]["parameters"]).eval()
    if values["kind"] == "anomaly":
        with torch.inference_mode():
            network.fit_score(network.features(torch.rand(64, 1, SIDE, SIDE)), 0.1)  # type: ignore[operator]
    writer.write_weights(folder, network.state_dict())
    (folder / "CARD.md").write_text("a card\n")
    pixels = torch.arange(40 * 50).remainder(256).reshape(40, 50).to(torch.uint8)
    output = ClassifierOutput.model_validate(values["classifier"]) if values["kind"] == "classifier" else None
    with torch.inference_mode():
        raw = network(prepare(bundles.reference_image({"pixels": pixels}), STEPS)[None]).double()
    case = {"pixels": pixels, "expected": bundles.activate(output, raw)[0]}
    writer.write_tensors(folder / "reference/gradient.safetensors", case)
    writer.write_manifest(folder, values)
    return folder


def write_random_bundle(folder: Path, values: dict[str, Any]) -> Path:
    """Write a classifier of any size with random weights; sealing makes its reference case."""
    folder.mkdir(parents=True)
    torch.manual_seed(3)
    network = build(values["architecture"]["name"], values["architecture"]["parameters"]).eval()
    writer.write_weights(folder, network.state_dict())
    (folder / "bundle.toml").write_text(writer.to_toml(values))
    seal(folder)
    return folder


def write_onnx_bundle(folder: Path, values: dict[str, Any], channels: int = 1) -> Path:
    """Write a bundle with a random network as ONNX; `values` are those of a small classifier."""
    folder.mkdir(parents=True)
    torch.manual_seed(3)
    parameters = {**values["architecture"]["parameters"], "input_channels": channels}
    network = build(values["architecture"]["name"], parameters).eval()
    (folder / "model.onnx").write_bytes(network_to_onnx(network, (channels, SIDE, SIDE)))
    (folder / "CARD.md").write_text("a card\n")
    values = {key: value for key, value in values.items() if key != "architecture"}
    values["tensor"] = {**values["tensor"], "channels": channels}
    steps = Preprocessing.model_validate(values["preprocessing"]).steps
    pixels = torch.arange(40 * 50).remainder(256).reshape(40, 50).to(torch.uint8)
    with torch.inference_mode():
        raw = network(prepare(bundles.reference_image({"pixels": pixels}), steps, channels)[None]).double()
    output = ClassifierOutput.model_validate(values["classifier"])
    case = {"pixels": pixels, "expected": bundles.activate(output, raw)[0]}
    writer.write_tensors(folder / "reference/gradient.safetensors", case)
    writer.write_manifest(folder, values)
    return folder


def write_radiograph(
    folder: Path, name: str = "image", pixels: np.ndarray[Any, Any] | None = None, **attributes: Any
) -> Path:
    """Write a DX image of `pixels` (rows, columns); an attribute that is None is removed."""
    values = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48) if pixels is None else pixels
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[name])
    meta.TransferSyntaxUID = attributes.pop("TransferSyntaxUID", ExplicitVRLittleEndian)
    ds = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.Modality, ds.BodyPartExamined, ds.ViewPosition = "DX", "CHEST", "PA"
    ds.PresentationIntentType = "FOR PRESENTATION"
    ds.PhotometricInterpretation, ds.SamplesPerPixel = "MONOCHROME2", 1
    ds.Rows, ds.Columns = values.shape
    ds.BitsAllocated = ds.BitsStored = values.dtype.itemsize * 8
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(values.dtype.kind == "i")
    ds.PixelData = values.tobytes()
    for keyword, value in attributes.items():
        if value is None:
            del ds[keyword]
        else:
            setattr(ds, keyword, value)
    path = folder / f"{name}.dcm"
    pydicom.dcmwrite(path, ds, enforce_file_format=True)
    return path
