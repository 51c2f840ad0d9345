"""Analysis end to end, decode to rows, against the bare forward pass of the same network; backends beside each other.

python -m tests.benchmarks.inference [--images 8] [--rounds 5] [--sides 256 1024 2048] [--bundle NAME] [--threads 1]

Everything is measured in turns in one run: trust the ratios. Goal: end to end within 1.5 times the bare forward for a
network of 224 pixels.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from dicomnode.config import AnalysisSettings
from dicomnode.db import migrate
from dicomnode.db.session import Database
from dicomnode.db.tables import Series, SOPInstance, Study, StudyVersion, StudyVersionInstance
from dicomnode.flow.analyze import Analysis
from dicomnode.flow.bundles import BundleSet, BundlesInUse, OpenSet
from dicomnode.inference import backends
from dicomnode.inference import bundle as bundles
from dicomnode.inference.bundle import Bundle
from dicomnode.inference.decode import decode
from tests.bundles import manifest_values, write_radiograph, write_random_bundle

DX = "1.2.840.10008.5.1.4.1.1.1.1"
AT = datetime(2026, 1, 2, tzinfo=UTC)
SIDE = 224
RESNET18 = {
    "name": "monai:ResNet",
    "parameters": {
        "block": "basic",
        "layers": [2, 2, 2, 2],
        "block_inplanes": [64, 128, 256, 512],
        "spatial_dims": 2,
        "n_input_channels": 1,
        "num_classes": 1,
    },
}


def main() -> None:
    """Print the backends and, for each size of the source image, the times and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 1024, 2048])
    parser.add_argument("--bundle", default="", help="an installed bundle; else a ResNet-18 with random weights")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--backend", default="auto")
    arguments = parser.parse_args()
    settings = AnalysisSettings(
        batch_images=arguments.images, threads=arguments.threads, backend=arguments.backend, batch_wait_ms=30
    )
    with tempfile.TemporaryDirectory() as folder:
        bundle = bundles.load(_folder(Path(folder), arguments.bundle), threads=settings.threads)
        chosen, choice = backends.choose(bundle, settings)
        eager, _ = backends.choose(bundle, settings.model_copy(update={"backend": "eager"}))
        print(
            f"{bundle.identity.name}, {settings.threads} thread(s); backends (an image alone + its share of a batch):"
        )
        for one in choice.measured:
            figures = (
                "" if one.ms is None or one.difference is None else f"{one.ms:8.2f} ms, differs by {one.difference:.1e}"
            )
            print(f"  {one.name:14}{'*' if one.name == choice.chosen else ' '} {figures} {one.reason}")
        print("source     end to end   bare forward   eager float32   e2e/bare   e2e/eager   (ms an image, medians)")
        for side in arguments.sides:
            _compare(Path(folder) / str(side), side, chosen, eager, settings, arguments.rounds)


def _compare(folder: Path, side: int, chosen: Bundle, eager: Bundle, settings: AnalysisSettings, rounds: int) -> None:
    folder.mkdir()
    count = settings.batch_images
    rng = np.random.default_rng(side)
    files = [
        write_radiograph(
            folder, f"image{n}", rng.integers(0, 4096, (side, side)).astype(np.uint16), BitsStored=12, HighBit=11
        )
        for n in range(count)
    ]
    voi = chosen.manifest.preprocessing.voi
    batch = torch.stack([chosen.prepare(decode(file, voi, settings.max_image_pixels)) for file in files])
    database = Database(f"sqlite:///{folder / 'rows.sqlite'}")
    migrate.upgrade(database)
    in_use = BundlesInUse(OpenSet(BundleSet((chosen,)), settings))
    analysis = Analysis(database, folder, in_use, settings)
    pool = ThreadPoolExecutor(2 * count)

    def end_to_end() -> None:
        versions = _queued(database, files)
        began.append(time.perf_counter())
        assert all(pool.map(analysis.analyze, versions))

    began: list[float] = []
    contestants: dict[str, Callable[[], None]] = {
        "end to end": end_to_end,
        "bare": lambda: _forward(chosen, batch, began),
        "eager": lambda: _forward(eager, batch, began),
    }
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, run in contestants.items():
            run()
            if number:  # the first round warms
                taken[name].append((time.perf_counter() - began[-1]) * 1000 / count)
    whole, bare, plain = (statistics.median(values) for values in taken.values())
    print(
        f"{side:4} px {whole:13.2f} {bare:14.2f} {plain:15.2f} {whole / bare:10.2f} {whole / plain:11.2f}"
        f"   end to end {min(taken['end to end']):.1f} to {max(taken['end to end']):.1f}"
    )
    pool.shutdown()
    in_use.close()
    database.close()


def _forward(bundle: Bundle, batch: torch.Tensor, began: list[float]) -> None:
    began.append(time.perf_counter())
    with torch.inference_mode():
        bundle.forward(batch)


def _queued(database: Database, files: list[Path]) -> list[int]:
    """Return the ids of study versions of one image each, closed and waiting for analysis."""
    versions = []
    with database.write() as session:
        for file in files:
            uid = f"1.2.{time.perf_counter_ns()}"
            study = Study(study_instance_uid=uid, first_received_at=AT)
            session.add(study)
            session.flush()
            series = Series(study_id=study.id, series_instance_uid=f"{uid}.1", modality="DX")
            version = StudyVersion(
                study_id=study.id,
                number=1,
                uid=f"{uid}.9",
                state="QUEUED",
                state_changed_at=AT,
                source_ae_title="X",
                opened_at=AT,
                last_instance_at=AT,
            )
            session.add_all([series, version])
            session.flush()
            instance = SOPInstance(
                study_id=study.id,
                series_id=series.id,
                sop_instance_uid=f"{uid}.2",
                revision=1,
                is_current=True,
                sop_class_uid=DX,
                transfer_syntax_uid="1.2.840.10008.1.2.1",
                path=file.name,
                size_bytes=1,
                sha256="",
                calling_ae_title="X",
                calling_address="",
                received_at=AT,
            )
            session.add(instance)
            session.flush()
            session.add(StudyVersionInstance(version_id=version.id, sop_instance_id=instance.id))
            versions.append(version.id)
    return versions


def _folder(folder: Path, name: str) -> Path:
    if name:
        return bundles.installed(())[name]
    values = manifest_values("resnet18", "classifier") | {"architecture": RESNET18}
    values["preprocessing"] = {
        "steps": [{"step": "center_square"}, {"step": "resize", "rows": SIDE, "columns": SIDE}],
    }
    values["tensor"] = {"rows": SIDE, "columns": SIDE}
    return write_random_bundle(folder / "resnet18", values)


if __name__ == "__main__":
    main()
