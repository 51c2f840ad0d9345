"""`dicomnode model new`, `seal` and `export`: a folder begun, sealed after an edit, given away as ONNX."""

import re
import shutil
import tomllib
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner, Result

from dicomnode.cli.model import app
from dicomnode.errors import BundleError, ConfigError
from dicomnode.inference import bundle as bundles
from dicomnode.inference.export import network_to_onnx
from dicomnode.inference.networks import build
from dicomnode.training.recipe import Recipe, load_recipe
from dicomnode.training.seal import seal


def model(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("kind", ["classifier", "anomaly"])
def test_a_new_recipe_is_valid_and_names_every_key(kind: str, tmp_path: Path) -> None:
    result = model("new", "my_net", "--folder", tmp_path, "--kind", kind)
    assert result.exit_code == 0, result.output
    recipe = load_recipe(tmp_path / "my_net")
    assert recipe.about.name == "my_net"
    assert (recipe.classifier is None) == (kind == "anomaly")
    text = (tmp_path / "my_net/train.toml").read_text()
    for table in ("fit", "augmentation", "input"):
        fields = type(getattr(recipe, table)).model_fields
        assert all(re.search(rf"^(# )?{key} =|^\[{table}\.{key}\]", text, re.MULTILINE) for key in fields)
    assert set(tomllib.loads(text)) <= set(Recipe.model_fields)
    assert "<!-- figures -->" in (tmp_path / "my_net/CARD.md").read_text()


def test_new_takes_another_recipe_and_refuses_to_overwrite(tmp_path: Path) -> None:
    assert model("new", "mine", "--folder", tmp_path, "--from", "chest_xray_anomaly").exit_code == 0
    assert load_recipe(tmp_path / "mine").anomaly is not None
    again = model("new", "mine", "--folder", tmp_path)
    assert isinstance(again.exception, ConfigError)
    assert "exists and is not empty" in str(again.exception)
    assert "is no name of a bundle" in str(model("new", "My-Net", "--folder", tmp_path).exception)
    assert "there is no bundle 'x'" in str(model("new", "other", "--folder", tmp_path, "--from", "x").exception)


@pytest.mark.parametrize("kind", ["classifier", "anomaly"])
def test_an_onnx_file_becomes_a_bundle_once_the_draft_is_filled_in(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    outputs = 3 if kind == "classifier" else 1
    network = build("residual_cnn", {"outputs": outputs, "stem": 4, "channels": (4, 8), "input_channels": 3}).eval()
    file = tmp_path / "given.onnx"
    file.write_bytes(network_to_onnx(network, (3, 64, 48)))
    assert model("new", "brought", "--folder", tmp_path, "--kind", kind, "--onnx", file).exit_code == 0
    folder = tmp_path / "brought"
    manifest = folder / "bundle.toml"
    refused = model("seal", folder)
    assert "TODO on line" in str(refused.exception)
    assert "rows = 64, columns = 48" in manifest.read_text()
    manifest.write_text(manifest.read_text().replace("TODO", "done"))
    sealed = model("seal", folder)
    assert sealed.exit_code == 0, sealed.exception
    assert "reference/gradient.safetensors: made" in sealed.output
    loaded = bundles.load(folder)
    assert (loaded.manifest.tensor.channels, loaded.manifest.tensor.rows, loaded.manifest.tensor.columns) == (3, 64, 48)
    assert loaded.run(torch.rand(2, 3, 64, 48)).shape == (2, outputs)
    assert model("verify", folder).exit_code == 0


def test_seal_accepts_an_edited_card_and_leaves_the_rest(classifier_folder: Path) -> None:
    reference = (classifier_folder / "reference/gradient.safetensors").read_bytes()
    (classifier_folder / "CARD.md").write_text("another card")
    with pytest.raises(BundleError):
        bundles.load(classifier_folder)
    assert seal(classifier_folder).changed == ("CARD.md",)
    bundles.load(classifier_folder)
    assert (classifier_folder / "reference/gradient.safetensors").read_bytes() == reference
    assert seal(classifier_folder).changed == ()


def test_seal_makes_the_outputs_anew_after_another_calibration(classifier_folder: Path) -> None:
    manifest = classifier_folder / "bundle.toml"
    calibration = '\n[classifier.calibration]\nmethod = "platt"\nscale = 1.0\noffset = 1.0\n\n[files]'
    manifest.write_text(manifest.read_text().replace("\n[files]", f"# mine\n{calibration}"))
    sealed = seal(classifier_folder)
    assert sealed.moved["reference/gradient.safetensors"] > 0.01
    assert "# mine" in manifest.read_text()
    assert bundles.load(classifier_folder).manifest.classifier.calibration.offset == 1.0  # type: ignore[union-attr]


def test_seal_refuses_other_weights_unless_told(classifier_folder: Path) -> None:
    file = classifier_folder / "weights.safetensors"
    tensors = safetensors.torch.load(file.read_bytes())
    tensors["head.bias"] += 1
    file.write_bytes(safetensors.torch.save(tensors))
    before = (classifier_folder / "bundle.toml").read_bytes()
    with pytest.raises(BundleError, match=r"small_classifier: weights\.safetensors: is another network.*--weights"):
        seal(classifier_folder)
    assert (classifier_folder / "bundle.toml").read_bytes() == before
    assert model("seal", classifier_folder, "--weights").exit_code == 0
    bundles.load(classifier_folder)


def test_seal_writes_nothing_where_the_manifest_is_wrong(classifier_folder: Path) -> None:
    manifest = classifier_folder / "bundle.toml"
    manifest.write_text(manifest.read_text().replace("threshold = 0.5", "threshold = nan"))
    before = {path: path.read_bytes() for path in classifier_folder.rglob("*") if path.is_file()}
    (classifier_folder / "CARD.md").write_text("another card")
    with pytest.raises(BundleError, match="threshold: Input should be a finite number"):
        seal(classifier_folder)
    assert manifest.read_bytes() == before[manifest]


def test_seal_refuses_a_symbolic_link(classifier_folder: Path) -> None:
    (classifier_folder / "secret").symlink_to("/etc/passwd")
    with pytest.raises(BundleError, match="small_classifier: secret: is a symbolic link"):
        seal(classifier_folder)


def test_export_gives_the_same_outputs_in_onnx_runtime(classifier_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "out.onnx"
    result = model("export", classifier_folder, file)
    assert result.exit_code == 0, result.exception
    assert "largest difference from eager float32" in result.output
    loaded = bundles.load(classifier_folder)
    batch = torch.rand(5, 1, 32, 32)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"input": batch.numpy()})
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), loaded.run(batch), atol=1e-6)


def test_an_exported_network_comes_back_as_a_bundle(classifier_folder: Path, tmp_path: Path) -> None:
    """The file that `export` writes passes the checks of an ONNX bundle, and gives what the bundle gives."""
    model("export", classifier_folder, tmp_path / "out.onnx")
    folder = shutil.copytree(classifier_folder, tmp_path / "again/small_classifier")
    (folder / "weights.safetensors").unlink()
    shutil.copy(tmp_path / "out.onnx", folder / "model.onnx")
    manifest = folder / "bundle.toml"
    text = re.sub(r"\[architecture\]\n.*?\n(?=\[(?!architecture))", "", manifest.read_text(), flags=re.DOTALL)
    manifest.write_text(text)
    sealed = seal(folder, weights=True)
    assert sealed.bundle.backend == "onnxruntime"
    assert sealed.moved["reference/gradient.safetensors"] < 1e-6
