"""A bundle loads only if every check passes; each refusal names bundle, file and reason."""

import hashlib
import math
import pickle
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from dicomnode.errors import BundleError
from dicomnode.inference import bundle as bundles
from dicomnode.inference.manifest import Manifest
from dicomnode.inference.networks import build
from dicomnode.training import writer

Write = Callable[[dict[str, Any]], Path]
REFERENCE = "reference/gradient.safetensors"
COMMITTED = bundles.find([bundles.builtin_directory()])


def values_of(folder: Path) -> dict[str, Any]:
    values = tomllib.loads((folder / "bundle.toml").read_text())
    del values["files"]
    return values


def change(folder: Path, *path: str, value: object) -> None:
    """Change a key of the manifest; the digests are written anew, so that nothing else is wrong."""
    values = values_of(folder)
    table = values
    for key in path[:-1]:
        table = table[key]
    table[path[-1]] = value
    writer.write_manifest(folder, values)


def flip_a_weight(folder: Path) -> None:
    data = bytearray((folder / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(data)


def set_threshold(text: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        manifest = folder / "bundle.toml"
        manifest.write_text(manifest.read_text().replace("threshold = 0.5", f"threshold = {text}"))

    return edit


def list_a_file(name: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        manifest = folder / "bundle.toml"
        manifest.write_text(f'{manifest.read_text()}"{name}" = "{"0" * 64}"\n')

    return edit


def replace_weights(data: Callable[[dict[str, torch.Tensor]], bytes]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        weights = folder / "weights.safetensors"
        weights.write_bytes(data(safetensors.torch.load(weights.read_bytes())))
        writer.write_manifest(folder, values_of(folder))

    return edit


def without_head(tensors: dict[str, torch.Tensor]) -> bytes:
    del tensors["head.bias"]
    return safetensors.torch.save(tensors)


def with_a_nan(tensors: dict[str, torch.Tensor]) -> bytes:
    tensors["head.bias"][0] = math.nan
    return safetensors.torch.save(tensors)


def wrong_reference(folder: Path) -> None:
    case = safetensors.torch.load((folder / REFERENCE).read_bytes())
    writer.write_tensors(folder / REFERENCE, {**case, "expected": case["expected"] + 0.01})
    writer.write_manifest(folder, values_of(folder))


def link_the_card(folder: Path) -> None:
    card = folder / "CARD.md"
    card.rename(folder.parent / "card")
    card.symlink_to(folder.parent / "card")


REFUSALS: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped weight byte": (flip_a_weight, r"weights\.safetensors: SHA-256 is"),
    "unlisted file": (lambda f: (f / "evil.py").write_text("x"), r"evil\.py: is not listed"),
    "unlisted file deep down": (lambda f: (f / "reference/x").write_text("x"), r"reference/x: is not listed"),
    "missing file": (lambda f: (f / "CARD.md").unlink(), r"CARD\.md: is missing"),
    "missing manifest": (lambda f: (f / "bundle.toml").unlink(), r"bundle\.toml: is missing"),
    "symbolic link": (link_the_card, r"CARD\.md: is no plain file"),
    "manifest is no TOML": (lambda f: (f / "bundle.toml").write_text("name ="), r"bundle\.toml: not valid TOML"),
    "NaN threshold": (set_threshold("nan"), r"threshold: Input should be a finite number"),
    "infinite threshold": (set_threshold("inf"), r"threshold: Input should be"),
    "threshold above one": (set_threshold("1.5"), r"threshold: Input should be less than or equal to 1"),
    "unknown key": (lambda f: change(f, "input", "modalitys", value=["CR"]), r"input\.modalitys: Extra inputs"),
    "unknown top key": (lambda f: change(f, "run", value="os.system"), r"run: Extra inputs"),
    "path upwards": (list_a_file("../secret"), r"'\.\./secret' is no plain file name"),
    "absolute path": (list_a_file("/etc/passwd"), r"'/etc/passwd' is no plain file name"),
    "path with a detour": (list_a_file("reference/../../x"), r"is no plain file name"),
    "other name than the folder": (lambda f: change(f, "name", value="another"), r"name is 'another'"),
    "pickle as weights": (replace_weights(pickle.dumps), r"weights\.safetensors: is no safetensors"),
    "weights that do not fit": (replace_weights(without_head), r"weights\.safetensors: does not fit residual_cnn"),
    "NaN weight": (replace_weights(with_a_nan), r"weights\.safetensors: head\.bias holds a number that is not finite"),
    "wrong reference output": (wrong_reference, r"reference/gradient\.safetensors: gives"),
    "unknown architecture": (
        lambda f: change(f, "architecture", "name", value="os.system"),
        r"there is no architecture",
    ),
    "monai class not allowed": (
        lambda f: change(f, "architecture", "name", value="monai:ViT"),
        r"there is no architecture 'monai:ViT'",
    ),
    "parameter it does not take": (
        lambda f: change(f, "architecture", "parameters", "layers", value=3),
        r"does not take",
    ),
    "class without operating point or ignored": (
        lambda f: change(f, "classifier", "names", value=["Pneumonia", "Effusion"]),
        r"classifier: .*Effusion",
    ),
    "tensor of another size": (
        lambda f: change(f, "tensor", "rows", value=64),
        r"the preprocessing ends at \(32, 32\)",
    ),
    "another value range": (
        lambda f: change(f, "tensor", "maximum", value=0.5),
        r"gradient\.safetensors: the preprocessing gives 0\.\d+ to 0\.\d+, \[tensor\] says 0\.0 to 0\.5",
    ),
    "other kind": (lambda f: change(f, "kind", value="anomaly"), r"a bundle of kind anomaly"),
    "reference not listed": (
        lambda f: change(f, "reference", "cases", value=["reference/none"]),
        r"\[files\] does not list reference/none",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_changed_bundle_is_refused_by_name_file_and_reason(case: str, classifier_folder: Path) -> None:
    edit, reason = REFUSALS[case]
    bundles.load(classifier_folder)
    edit(classifier_folder)
    with pytest.raises(BundleError, match=rf"^small_classifier: .*{reason}"):
        bundles.load(classifier_folder)


def test_a_pickle_in_place_of_weights_is_never_run(classifier_folder: Path, tmp_path: Path) -> None:
    class Planted:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
            return Path.touch, (tmp_path / "planted",)

    replace_weights(lambda _: pickle.dumps(Planted()))(classifier_folder)
    with pytest.raises(BundleError):
        bundles.load(classifier_folder)
    assert not (tmp_path / "planted").exists()


def test_a_loaded_bundle_says_which_it_is(classifier_folder: Path) -> None:
    identity = bundles.load(classifier_folder).identity
    manifest = (classifier_folder / "bundle.toml").read_bytes()
    weights = (classifier_folder / "weights.safetensors").read_bytes()
    assert (identity.name, identity.version, identity.kind) == ("small_classifier", "1.0.0", "classifier")
    assert identity.digest == hashlib.sha256(manifest).hexdigest()
    assert identity.weights_digest == hashlib.sha256(weights).hexdigest()


def test_a_loaded_network_is_in_evaluation_mode(classifier_folder: Path) -> None:
    network = bundles.load(classifier_folder).network
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_softmax_over_classes_of_which_one_is_ignored(make_bundle: Write, small_manifest: Callable[..., Any]) -> None:
    values = small_manifest("two_classes", "classifier")
    values["architecture"]["parameters"]["outputs"] = 2
    values["classifier"] |= {"activation": "softmax", "names": ["Normal", "Pneumonia"], "ignored": ["Normal"]}
    loaded = bundles.load(make_bundle(values))
    probabilities = loaded.run(torch.rand(5, 1, 32, 32))
    assert probabilities.shape == (5, 2)
    np.testing.assert_allclose(probabilities.sum(1), 1)


def test_calibration_moves_the_probability(make_bundle: Write, small_manifest: Callable[..., Any]) -> None:
    plain = bundles.load(make_bundle(small_manifest("plain", "classifier")))
    values = small_manifest("moved", "classifier")
    values["classifier"]["calibration"] = {"method": "platt", "scale": 1.0, "offset": 1.0, "fitted_on": "nothing"}
    batch = torch.rand(3, 1, 32, 32)
    before, after = plain.run(batch), bundles.load(make_bundle(values)).run(batch)
    np.testing.assert_allclose(np.log(after / (1 - after)), np.log(before / (1 - before)) + 1)


def test_a_monai_network_is_built_by_name() -> None:
    parameters: dict[str, Any] = {"block": "basic", "layers": (1, 1, 1, 1), "block_inplanes": (4, 4, 8, 8)}
    network = build("monai:ResNet", {**parameters, "spatial_dims": 2, "n_input_channels": 1, "num_classes": 3})
    assert network.eval()(torch.rand(2, 1, 64, 64)).shape == (2, 3)


def test_the_first_directory_wins(make_bundle: Write, small_manifest: Callable[..., Any], tmp_path: Path) -> None:
    ours = make_bundle(small_manifest("twin", "classifier"))
    other = tmp_path / "other/twin"
    other.mkdir(parents=True)
    (other / "bundle.toml").touch()
    assert bundles.find([tmp_path / "other", ours.parent]) == {"twin": other}
    assert bundles.find([ours.parent, tmp_path / "other", tmp_path / "missing"]) == {"twin": ours}


def test_the_schema_forbids_unknown_keys() -> None:
    schema = Manifest.model_json_schema()
    assert schema["additionalProperties"] is False
    assert all(
        table.get("additionalProperties") is False for table in schema["$defs"].values() if "properties" in table
    )


@pytest.mark.parametrize("name", COMMITTED)
def test_a_committed_bundle_loads(name: str) -> None:
    loaded = bundles.load(COMMITTED[name])
    assert loaded.identity.name == name
    assert re.search(r"^\| ", (COMMITTED[name] / "CARD.md").read_text(), re.MULTILINE), "the card holds no figures"
    assert (COMMITTED[name] / "weights.safetensors").stat().st_size < 25e6


def test_our_two_bundles_are_there() -> None:
    assert {"chest_xray_anomaly", "chest_xray_pneumonia"} <= COMMITTED.keys()
