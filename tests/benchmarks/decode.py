"""What the limited child process costs beside decoding in the worker itself, and the memory that an image takes.

python -m tests.benchmarks.decode [--rows 3000] [--columns 2500] [--repeat 7]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from dicomnode.config import AnalysisSettings
from dicomnode.errors import UnreadableImage
from dicomnode.inference.decode import decode
from dicomnode.inference.decoding_process import DecodingProcess
from dicomnode.inference.display import Voi
from tests.bundles import write_radiograph

SYNTAXES = {
    "uncompressed": ExplicitVRLittleEndian,
    "JPEG-LS": JPEGLSLossless,
    "JPEG 2000": JPEG2000Lossless,
    "RLE": RLELossless,
}
MEMORIES_MIB = (64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)


def main() -> None:
    """Print for each transfer syntax the seconds in the process and in a child, their ratio, and the memory needed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--columns", type=int, default=2500)
    parser.add_argument("--repeat", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, syntax in SYNTAXES.items():
            path = _write(Path(folder), arguments.rows, arguments.columns, syntax)
            _measure(name, path, arguments.repeat)


def _write(folder: Path, rows: int, columns: int, syntax: str) -> Path:
    """Write a smooth 16-bit picture with noise in its low bits, as a detector gives it."""
    rng = np.random.default_rng(1)
    ramp = np.linspace(2000, 60000, rows)[:, None] * np.linspace(0.5, 1, columns)
    pixels = (ramp + rng.normal(0, 30, (rows, columns))).astype(np.uint16)
    path = write_radiograph(folder, "image", pixels, WindowCenter=30000, WindowWidth=50000)
    if syntax != ExplicitVRLittleEndian:
        ds = pydicom.dcmread(path)
        ds.compress(syntax, generate_instance_uid=False)
        ds.save_as(path)
    return path


def _measure(name: str, path: Path, repeat: int) -> None:
    settings = AnalysisSettings()
    alone, child = [], []
    process = DecodingProcess(settings)
    process.decode(path, Voi())
    for _ in range(repeat):
        alone.append(_seconds(lambda: decode(path, Voi(), settings.max_image_pixels)))
        child.append(_seconds(lambda: process.decode(path, Voi())))
    process.close()
    inside, outside = statistics.median(alone), statistics.median(child)
    print(
        f"{name:14} in the process {inside:.3f} s, in a child {outside:.3f} s, ratio {outside / inside:.2f}; "
        f"enough memory: {_enough(path)} MiB"
    )


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _enough(path: Path) -> int | None:
    """Return the least of `MEMORIES_MIB` with which `path` can be decoded."""
    for memory_mib in MEMORIES_MIB:
        process = DecodingProcess(AnalysisSettings(decode_memory_mib=memory_mib))
        try:
            process.decode(path, Voi())
        except UnreadableImage:
            continue
        else:
            return memory_mib
        finally:
            process.close()
    return None


if __name__ == "__main__":
    main()
