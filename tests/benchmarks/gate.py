"""How often the anomaly gate flags what is no chest radiograph, by kind; genuine chests beside it. Needs shared/data.

python -m tests.benchmarks.gate [--images 200] [--only MedNIST] [--bundle chest_xray_anomaly]
"""

import argparse
import csv
import io
import math
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dicomnode.config import AnalysisSettings
from dicomnode.errors import UnreadableImage, UnsuitableInput
from dicomnode.inference import bundle as bundles
from dicomnode.inference.bundle import Bundle
from dicomnode.inference.decode import decode
from dicomnode.inference.manifest import Voi
from dicomnode.inference.predict import Analyzer
from dicomnode.inference.select import SourceInstance
from tests.bundles import write_radiograph

Pixels = NDArray[np.uint8]
SHARED_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
DX = "1.2.840.10008.5.1.4.1.1.1.1"
MEDNIST = ("AbdomenCT", "BreastMRI", "CXR", "ChestCT", "Hand", "HeadCT")
NOT_RADIOGRAPHS = ("CT", "MR", "US", "PT", "NM", "XA", "OT")
"""Modalities of shared/data/dicom that hold no plain radiograph; CR and DX there are of several body parts."""
CHANGES: dict[str, Callable[[Pixels], Pixels]] = {
    "rotated 90": np.rot90,
    "rotated 180": lambda pixels: pixels[::-1, ::-1],
    "inverted": lambda pixels: 255 - pixels,
    "heavy crop": lambda pixels: np.kron(
        pixels[: pixels.shape[0] * 2 // 5, : pixels.shape[1] * 2 // 5], np.ones((3, 3), np.uint8)
    ),
}
LARGEST_PIXELS = 50_000_000


def genuine(count: int, data: Path = SHARED_DATA) -> Iterator[Pixels]:
    """Yield chest radiographs of the test split in their own aspect ratio."""
    with zipfile.ZipFile(data / "cxr/kermany224.zip") as archive, (data / "cxr/kermany_index.csv").open() as index:
        rows = [r for r in csv.DictReader(index) if r["split"] == "test" and r["aspect_w_over_h"]]
        for row in rows[:: max(1, len(rows) // count)][:count]:
            squashed = Image.open(io.BytesIO(archive.read(row["file"]))).convert("L")
            aspect = float(row["aspect_w_over_h"])
            yield np.asarray(squashed.resize((round(224 * max(aspect, 1)), round(224 * max(1 / aspect, 1)))))


def changed(name: str, count: int, data: Path = SHARED_DATA) -> Iterator[Pixels]:
    """Yield the genuine radiographs after a change that a gate must notice."""
    for pixels in genuine(count, data):
        yield np.ascontiguousarray(CHANGES[name](pixels))


def mednist(kind: str, count: int, data: Path = SHARED_DATA) -> Iterator[Pixels]:
    """Yield pictures of one kind of MedNIST, enlarged from 64 to 256 pixels."""
    with np.load(data / "wrong-input/mednist64_300each.npz") as kept:
        wanted = kept["labels"] == list(kept["classes"]).index(kind)
        for pixels in kept["images"][wanted][:count]:
            yield np.asarray(Image.fromarray(pixels).resize((256, 256), Image.Resampling.BICUBIC))


def blanks() -> Iterator[Pixels]:
    """Yield pictures without content: black, grey, white, noise."""
    yield from (np.full((256, 256), value, np.uint8) for value in (0, 128, 255))
    yield np.random.default_rng(1).integers(0, 256, (256, 256), np.uint8)


def flags(bundle: Bundle, pictures: Iterator[Pixels], folder: Path) -> list[bool]:
    """Return whether each picture, wrapped as a DX of a chest, is flagged: the whole way from the file to the score."""
    paths = [write_radiograph(folder, f"image{n}", pixels) for n, pixels in enumerate(pictures)]
    study = [SourceInstance(path, f"1.2.{n}", DX, "DX") for n, path in enumerate(paths)]
    with Analyzer([bundle], AnalysisSettings(threads=1)) as analyzer:
        (result,) = analyzer.analyze(study)
    assert len(result.predictions) == len(study), result.not_applicable
    return [prediction.value > prediction.threshold for prediction in result.predictions]


def forced_flags(bundle: Bundle, modality: str, data: Path = SHARED_DATA) -> list[bool]:
    """Return whether the images of `modality` in shared/data/dicom are flagged, forced past the selection."""
    assert bundle.manifest.anomaly is not None
    found = []
    with (data / "dicom/index.csv").open() as index:
        files = [row["file"] for row in csv.DictReader(index) if row["modality"] == modality]
    for file in files:
        try:
            image = decode(data / "dicom" / file, Voi(), LARGEST_PIXELS)
        except (UnreadableImage, UnsuitableInput):
            continue
        score = bundle.run(bundle.prepare(image)[None])[0, 0]
        found.append(bool(score > bundle.manifest.anomaly.threshold))
    return found


def kinds(bundle: Bundle, images: int) -> dict[str, Callable[[], list[bool]]]:
    """Return what says which images of a kind are flagged, by the name of the kind."""

    def wrapped(pictures: Iterator[Pixels]) -> list[bool]:
        with tempfile.TemporaryDirectory() as folder:
            return flags(bundle, pictures, Path(folder))

    found = {"genuine chest radiographs": lambda: wrapped(genuine(images))}
    for name in CHANGES:
        found[f"the same, {name}"] = partial(lambda name: wrapped(changed(name, images)), name)
    found["blank or noise"] = lambda: wrapped(blanks())
    for kind in MEDNIST:
        found[f"MedNIST {kind}"] = partial(lambda kind: wrapped(mednist(kind, images)), kind)
    for modality in (*NOT_RADIOGRAPHS, "CR", "DX"):
        found[f"public DICOM, {modality}"] = partial(forced_flags, bundle, modality)
    return found


def wilson(flagged: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson)."""
    z, share = 1.96, flagged / n
    middle, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n))


def main() -> None:
    """Print the table of docs/gate.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200, help="of each kind, at most")
    parser.add_argument("--only", default="", help="only the kinds whose name has this")
    parser.add_argument("--bundle", default="chest_xray_anomaly")
    arguments = parser.parse_args()
    bundle = bundles.load(bundles.builtin_directory() / arguments.bundle, threads=1)
    print("| kind | images | flagged | 95 % interval |\n|---|---|---|---|")
    for name, look in kinds(bundle, arguments.images).items():
        if arguments.only not in name:
            continue
        found = look()
        low, high = wilson(sum(found), len(found))
        print(f"| {name} | {len(found)} | {sum(found) / len(found):.1%} | {low:.1%} to {high:.1%} |", flush=True)


if __name__ == "__main__":
    main()
