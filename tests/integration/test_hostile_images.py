"""Files that harm decoders, and all real ones that we have, through a real decoding process."""

import csv
import os
import signal
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import jpeg_ls
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from dicomnode.config import AnalysisSettings
from dicomnode.errors import UnreadableImage, UnsuitableInput
from dicomnode.inference.decode import decode
from dicomnode.inference.decoding_process import DecodingProcess
from dicomnode.inference.display import Voi
from tests.bundles import write_radiograph
from tests.needs import require

SIDE = 14000
"""Rows and columns of 196 million pixels, just inside analysis.max_image_pixels."""
SMALL = np.arange(256, dtype=np.uint8).reshape(16, 16)
Open = Callable[..., DecodingProcess]


@pytest.fixture
def opened() -> Iterator[Open]:
    """A function that opens a decoding process."""
    made = []

    def make(**settings: float) -> DecodingProcess:
        made.append(DecodingProcess(AnalysisSettings(**settings)))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for process in made:
        process.close()


def saved(form: str, folder: Path) -> bytes:
    Image.fromarray(SMALL).save(folder / "small", form, **({"no_jp2": True} if form == "JPEG2000" else {}))
    return (folder / "small").read_bytes()


def jpeg(folder: Path) -> bytes:
    data = saved("JPEG", folder)
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + SIDE.to_bytes(2, "big") * 2 + data[at + 4 :]


def jpeg_2000(folder: Path) -> bytes:
    data = saved("JPEG2000", folder)
    at = data.index(b"\xff\x4f\xff\x51")
    size = SIDE.to_bytes(4, "big") * 2
    return data[: at + 8] + size + data[at + 16 : at + 24] + size + data[at + 32 :]


def jpeg_ls_endless(_folder: Path) -> bytes:
    data = bytes(jpeg_ls.encode(SMALL))
    at = data.index(b"\xff\xf7") + 5
    return data[:at] + SIDE.to_bytes(2, "big") * 2 + data[at + 4 :]


def rle(_folder: Path) -> bytes:
    return (1).to_bytes(4, "little") + (64).to_bytes(4, "little") + bytes(56) + b"\x81\0" * (SIDE * SIDE // 128 + 1)


def hostile(folder: Path, frame: bytes, syntax: str) -> Path:
    """Write an image that is as large as its codestream says."""
    path = write_radiograph(folder, "hostile", SMALL)
    ds = pydicom.dcmread(path)
    ds.Rows = ds.Columns = SIDE
    ds.file_meta.TransferSyntaxUID = syntax
    ds.PixelData = encapsulate([frame])
    ds["PixelData"].is_undefined_length = True
    ds.save_as(path)
    return path


def deflated(folder: Path) -> Path:
    """Write 196 megabytes of pixels in a file of 200 kilobytes."""
    path = write_radiograph(folder, "deflated", SMALL, TransferSyntaxUID=DeflatedExplicitVRLittleEndian)
    raw = path.read_bytes()
    start = 144 + int.from_bytes(raw[140:144], "little")
    data = zlib.decompress(raw[start:], -zlib.MAX_WBITS).replace(
        b"\x28\0\x10\0US\2\0\x10\0\x28\0\x11\0US\2\0\x10\0",
        b"\x28\0\x10\0US\2\0" + SIDE.to_bytes(2, "little") + b"\x28\0\x11\0US\2\0" + SIDE.to_bytes(2, "little"),
    )
    pixels = b"\xe0\x7f\x10\0OB\0\0" + (SIDE * SIDE).to_bytes(4, "little") + bytes(SIDE * SIDE)
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    path.write_bytes(raw[:start] + deflate.compress(data[: data.index(b"\xe0\x7f\x10\0")] + pixels) + deflate.flush())
    return path


MEMORY = "asked for more than the 64 MiB of analysis.decode_memory_mib"
HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "JPEG": (lambda folder: hostile(folder, jpeg(folder), JPEGBaseline8Bit), MEMORY),
    "JPEG 2000": (lambda folder: hostile(folder, jpeg_2000(folder), JPEG2000Lossless), f"{MEMORY}|cannot be decoded"),
    "RLE": (lambda folder: hostile(folder, rle(folder), RLELossless), MEMORY),
    "deflated": (deflated, MEMORY),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_file_that_takes_too_much_memory_is_a_reason(case: str, opened: Open, tmp_path: Path) -> None:
    write, expected = HOSTILE[case]
    process = opened(decode_memory_mib=64)
    with pytest.raises(UnreadableImage, match=expected):
        process.decode(write(tmp_path), Voi())
    assert process.decode(write_radiograph(tmp_path, "good"), Voi()).shape == (64, 48)


def test_a_decoder_that_does_not_end_is_ended(opened: Open, tmp_path: Path) -> None:
    process = opened(decode_deadline_s=1, decode_memory_mib=2048)
    with pytest.raises(UnreadableImage, match=r"longer than the 1 s|more processor time"):
        process.decode(hostile(tmp_path, jpeg_ls_endless(tmp_path), JPEGLSLossless), Voi())
    assert process.decode(write_radiograph(tmp_path, "good"), Voi()).shape == (64, 48)


def test_the_child_is_limited_and_a_stop_of_the_service_does_not_end_it(opened: Open, tmp_path: Path) -> None:
    process, good = opened(decode_memory_mib=64), write_radiograph(tmp_path, "good")
    process.decode(good, Voi())
    pid = process.pid
    assert pid is not None
    limits = {line[:26].strip(): line[26:].split() for line in Path(f"/proc/{pid}/limits").read_text().splitlines()}
    assert limits["Max core file size"][:2] == limits["Max file size"][:2] == ["0", "0"]
    assert 64 << 20 < int(limits["Max address space"][0]) < 1 << 30
    assert 60 < int(limits["Max cpu time"][0]) < 80
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(pid, number)
    process.decode(good, Voi())
    assert process.pid == pid


WORKER = """
import sys, threading
from pathlib import Path
from dicomnode.config import AnalysisSettings
from dicomnode.inference.decoding_process import DecodingProcess
from dicomnode.inference.display import Voi
good, hostile = (Path(argument) for argument in sys.argv[1:])
process = DecodingProcess(AnalysisSettings(decode_deadline_s=3600, decode_memory_mib=2048))
process.decode(good, Voi())
print(process.pid, flush=True)
process.decode(hostile, Voi())
"""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def cpu_ticks(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])


def wait_for(claim: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not claim():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_child_ends_with_its_worker_in_the_middle_of_a_decoder(tmp_path: Path) -> None:
    good = write_radiograph(tmp_path, "good")
    endless = hostile(tmp_path, jpeg_ls_endless(tmp_path), JPEGLSLossless)
    command = [sys.executable, "-c", WORKER, str(good), str(endless)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        pid = int(worker.stdout.readline())
        started = cpu_ticks(pid)
        wait_for(lambda: cpu_ticks(pid) > started + 50)  # half a second of work: it is inside the decoder
        worker.kill()
    wait_for(lambda: not is_alive(pid))


@pytest.mark.data
def test_every_real_file_gives_pixels_or_a_reason(opened: Open, shared_data: Path) -> None:
    with (shared_data / "dicom/index.csv").open(newline="") as index:
        rows = list(csv.DictReader(index))
    process = opened()
    found = [outcome(process, shared_data / "dicom" / row["file"]) for row in rows]
    assert Counter(kind for kind, _ in found) == {"pixels": 161, "UnreadableImage": 109, "UnsuitableInput": 37}
    assert all(" " in words and "analysis.decode" not in words for _, words in found)
    refused = [row["file"] for row, (kind, _) in zip(rows, found, strict=True) if kind != "pixels" and is_known(row)]
    assert not refused


def outcome(process: DecodingProcess, path: Path) -> tuple[str, str]:
    """Return what became of a file, and its size or the reason."""
    try:
        shown = process.decode(path, Voi())
    except (UnreadableImage, UnsuitableInput) as exc:
        return type(exc).__name__, str(exc)
    return "pixels", f"{shown.shape[0]} x {shown.shape[1]}"


def is_known(row: dict[str, str]) -> bool:
    """Return whether pydicom alone makes grey values of the file; it guesses where there is no transfer syntax."""
    return row["pixel_decode"].startswith("ok") and row["photometric"].startswith("MONO") and bool(row["ts"])


WINDOW, WHOLE_RANGE = ("+Wi", "1"), ("+Wm",)
KNOWN = {
    "8 bit": ("xra/*c92ae952__test1.dcm", "dcmj2pnm", WHOLE_RANGE),
    "lossless JPEG, MONOCHROME1": ("xra/*446803e2__RG3_JPLL", "dcmj2pnm", WINDOW),
    "JPEG-LS, MONOCHROME1": ("cov/*4d3b7469__RG3_JLSL", "dcml2pnm", WINDOW),
    "lossy JPEG, MONOCHROME1": ("cov/*77bfc3c6__Monochrome1-Jpeg.dcm", "dcmj2pnm", WINDOW),
    "12-bit JPEG Extended that must be repaired": ("cov/*1e7c43a8__MR2_JPLY", "dcmj2pnm", WINDOW),
    "Modality LUT of signed values": ("cov/*9c65b39d__mlut_18.dcm", "dcmj2pnm", WHOLE_RANGE),
    "deflated, signed, with padding": ("cov/*98bc8dcd__CTImage.dcm_Deflated*", "dcmj2pnm", WINDOW),
}


@pytest.mark.data
@pytest.mark.dcmtk
@pytest.mark.parametrize("case", KNOWN)
def test_a_real_image_looks_as_dcmtk_shows_it(case: str, shared_data: Path, tmp_path: Path) -> None:
    pattern, program, view = KNOWN[case]
    require(program)
    (path,) = (shared_data / "dicom/files").glob(pattern)
    shown = decode(path, Voi(), 10_000_000)
    subprocess.run([program, "-O", "+op", *view, str(path), str(tmp_path / "shown.pgm")], check=True)
    expected = np.asarray(Image.open(tmp_path / "shown.pgm")) / 255
    np.testing.assert_allclose(shown, expected, atol=3 / 255)
