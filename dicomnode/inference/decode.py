"""A DICOM file to display values: what the limited child process of `decoding_process` does. Knows no torch."""

import errno
import re
from pathlib import Path

from dicomnode.errors import SpoolFileMissing, UnreadableImage, UnsuitableInput
from dicomnode.inference.display import FloatArray, Voi, display
from dicomnode.inference.frame import read_frame

LOST = frozenset({errno.ENOENT, errno.EACCES, errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT})
MAX_REASON = 300
PREFACE = "Unable to decode as exceptions were raised by all available plugins: "
NO_MEMORY = re.compile(r"memory|alloc|(pydicom|pylibjpeg|pyjpegls|pillow):( (pylibjpeg|pyjpegls|pillow):|$)", re.I)
"""What decoders say when they get no memory: a plug-in of pydicom's without words raised a `MemoryError`."""


def decode(path: Path, voi: Voi, max_pixels: int, frame: int = 0) -> FloatArray:
    """Return frame `frame` (from 0) of the image in `path` as (rows, columns) in 0..1, where 1 is white.

    Raises `UnreadableImage` with the reason, whatever a decoder does, `UnsuitableInput` for a colour image,
    `SpoolFileMissing` for a file that is gone or that its disk does not give, and `MemoryError`.
    """
    try:
        stored, ds = read_frame(path, frame, max_pixels)
        return display(stored, ds, voi)
    except (UnreadableImage, UnsuitableInput, MemoryError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as exc:
        # pylibjpeg-rle panics with a BaseException, others raise what they like
        if isinstance(exc, OSError) and exc.errno in LOST:
            raise SpoolFileMissing(f"{path.name} cannot be read: {exc.strerror}") from exc
        words = " ".join(str(exc).split())
        if NO_MEMORY.search(words):
            raise MemoryError(words) from exc
        words = words.removeprefix(PREFACE) if PREFACE in words else f"{type(exc).__name__}: {words}"
        raise UnreadableImage(f"the pixels cannot be decoded: {words[:MAX_REASON]}") from exc
