"""`dicomnode evaluate` on a site's own folder: table, JSON, page, and what it says where it cannot."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from dicomnode.cli.evaluate import evaluate
from dicomnode.errors import BundleError, ConfigError
from dicomnode.inference import bundle as bundles
from dicomnode.training import writer
from dicomnode.training.baseline import BASELINE_NAME, fit_baseline
from dicomnode.training.labelled import labelled_folder
from tests.bundles import write_radiograph

app = typer.Typer()
app.command()(evaluate)
RNG = np.random.default_rng(3)
NASTY = "<script>alert($x$)&"


def pictures(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    for n in range(count):
        Image.fromarray(RNG.integers(0, 256, (40, 50)).astype(np.uint8)).save(folder / f"p{n}.png")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "own"
    pictures(root / "Pneumonia", 12)
    pictures(root / NASTY, 11)
    (root / "patients.csv").write_text(f'file,patient,scanner\n{NASTY}/p0.png,one,old\n{NASTY}/p1.png,one,"<b>"\n')
    return root


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def nothing(done: int, total: int) -> None:
    pass


def test_an_own_folder_gives_a_table_json_and_a_page(classifier_folder: Path, folder: Path, tmp_path: Path) -> None:
    page, figures = tmp_path / "page.html", tmp_path / "figures.json"
    result = run(classifier_folder, "--data", folder, "--json", figures, "--html", page)
    assert result.exit_code == 0, result.output
    assert "no baseline in this bundle" in result.output
    table = json.loads(figures.read_text())["sets"]["folder"]
    assert (table["images"], table["positives"], table["patients"]) == (23, 12, 22)
    assert table["subgroups"]["scanner: old"]["metrics"]["specificity"] is None
    text = page.read_text()
    assert "<script" not in text
    assert "<b>" not in text
    assert "scanner: &lt;b&gt;" in text
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", text)
    assert text.count('<svg role="img" aria-label=') == 4
    assert all("alt=" in image for image in re.findall(r"<img[^>]*>", text))
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_the_baseline_of_a_bundle_stands_beside_its_score(classifier_folder: Path, folder: Path) -> None:
    bundle = bundles.load(classifier_folder)
    weights = fit_baseline(labelled_folder(folder, bundle, nothing).sets["folder"])
    writer.write_tensors(classifier_folder / BASELINE_NAME, weights)
    values = bundle.manifest.model_dump(mode="json", exclude={"files"})
    writer.write_manifest(classifier_folder, values)
    result = run(classifier_folder, "--data", folder)
    assert result.exit_code == 0, result.output
    assert re.search(r"linear baseline, AUC +1\.000", result.output)  # on the images that it was fitted to


def test_a_baseline_of_another_shape_is_refused(classifier_folder: Path, folder: Path) -> None:
    values = bundles.load(classifier_folder).manifest.model_dump(mode="json", exclude={"files"})
    shutil.copy(classifier_folder / "weights.safetensors", classifier_folder / BASELINE_NAME)
    writer.write_manifest(classifier_folder, values)
    result = run(classifier_folder, "--data", folder)
    assert isinstance(result.exception, BundleError)
    assert BASELINE_NAME in str(result.exception)


def test_dicom_files_pass_the_bundles_selection_and_the_refused_are_counted(
    classifier_folder: Path, tmp_path: Path
) -> None:
    root = tmp_path / "own"
    for name in ("Pneumonia", "normal"):
        (root / name).mkdir(parents=True)
        for n in range(3):
            write_radiograph(root / name, f"{name}{n}", PatientID=f"secret{n // 2}", PatientSex="F", PatientAge="003Y")
    write_radiograph(root / "normal", "lateral", ViewPosition="LL")
    (root / "normal/notes.txt").write_text("no image")
    (root / "normal/broken.png").write_bytes(b"\x89PNG no")
    found = labelled_folder(root, bundles.load(classifier_folder), nothing)
    images = found.sets["folder"]
    assert len(images) == 6
    assert len(set(images.patients)) == 2
    assert {"view: PA", "sex: F", "age: 1 to 5 years"} <= set(images.groups)
    assert images.names is not None
    assert all(name.startswith("2.25.") or name[0].isdigit() for name in images.names)  # SOP Instance UIDs
    assert found.refused["lateral view"] == 1
    assert sum(found.refused.values()) == 3


def test_an_anomaly_bundle_takes_genuine_and_other_folders(anomaly_folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "own"
    pictures(root / "genuine", 12)
    pictures(root / "noise", 4)
    page, figures = tmp_path / "page.html", tmp_path / "figures.json"
    result = run(anomaly_folder, "--data", root, "--json", figures, "--html", page)
    assert result.exit_code == 0, result.output
    table = json.loads(figures.read_text())["test"]
    assert table["images"] == 12
    assert table["wrong inputs"]["noise"]["images"] == 4
    assert "anomaly scores of each kind" in page.read_text()


def test_sixteen_bit_pictures_are_not_clipped(classifier_folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "own"
    for name in ("Pneumonia", "normal"):
        (root / name).mkdir(parents=True)
        values = np.linspace(0, 65535, 40 * 50).reshape(40, 50).astype(np.uint16)
        Image.fromarray(values).save(root / name / "p.png")
    images = labelled_folder(root, bundles.load(classifier_folder), nothing).sets["folder"].images
    assert 0.4 < images.mean() < 0.6


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (None, "there is no such folder"),
        ((), "needs a folder 'Pneumonia' and one of other images; the folders are none"),
        (("Pnuemonia", "normal"), "the folders are Pnuemonia, normal"),
    ],
    ids=["missing", "empty", "misspelt"],
)
def test_a_folder_that_is_not_the_bundles_is_refused_in_words(
    classifier_folder: Path, tmp_path: Path, folders: tuple[str, ...] | None, message: str
) -> None:
    root = tmp_path / "own"
    if folders is not None:
        root.mkdir()
        for name in folders:
            pictures(root / name, 1)
    result = run(classifier_folder, "--data", root)
    assert isinstance(result.exception, ConfigError)
    assert message in str(result.exception)


def test_an_anomaly_folder_without_genuine_images_is_refused(anomaly_folder: Path, tmp_path: Path) -> None:
    pictures(tmp_path / "own/noise", 1)
    result = run(anomaly_folder, "--data", tmp_path / "own")
    assert "an anomaly bundle needs a folder 'genuine'; the folders are noise" in str(result.exception)


def test_an_unknown_set_and_an_unknown_bundle_are_named_with_the_known_ones(
    classifier_folder: Path, folder: Path
) -> None:
    assert "there is no set 'x'" in str(run(classifier_folder, "--data", folder, "--set", "x").exception)
    assert "there is no bundle 'nothing'; known are" in str(run("nothing", "--data", folder).exception)


def test_a_changed_bundle_is_refused(classifier_folder: Path, folder: Path) -> None:
    (classifier_folder / "CARD.md").write_text("another card")
    result = run(classifier_folder, "--data", folder)
    assert isinstance(result.exception, BundleError)
    assert "CARD.md: SHA-256" in str(result.exception)
