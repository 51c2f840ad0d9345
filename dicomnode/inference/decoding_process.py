"""Decoding in child processes with limits: whatever a file does to a decoder, the worker lives and has a reason.

Limited are address space, processor time and seconds on the clock of each file. A child is started when it is first
needed and serves many files; one that fails ends, and the next file gets a new one.
"""

import contextlib
import fcntl
import json
import os
import queue
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import IO, Any

import numpy as np

from dicomnode.config import AnalysisSettings
from dicomnode.errors import DecoderUnavailable, UnreadableImage
from dicomnode.inference.decoding_child import LENGTH, OUT_OF_MEMORY, REASONS
from dicomnode.inference.display import FloatArray, Voi
from dicomnode.log import get_logger

log = get_logger(__name__)
COMMAND = (sys.executable, "-P", "-m", "dicomnode.inference.decoding_child")
START_S = 120.0
MAX_HEADER_BYTES = 1 << 16
PIPE_BYTES = 1 << 20
KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TZ")
NONSENSE = "the decoder answered nonsense"


class _Failed(Exception):
    """The child gave no usable answer; unless `is_certain`, a file that it had decoded before may be to blame."""

    def __init__(self, reason: str, *, is_certain: bool = False, is_from_outside: bool = False) -> None:
        super().__init__(reason)
        self.is_certain = is_certain
        self.is_from_outside = is_from_outside


@dataclass
class _Child:
    """A running child: its process, the pipe of its answers, and the pipe that ends it when it closes."""

    process: subprocess.Popen[bytes]
    answers: int
    lifeline: int
    is_ready: bool = False
    served: int = 0


class DecodingProcess:
    """A child process that decodes one file at a time, for one thread at a time; `command` is its program."""

    def __init__(self, settings: AnalysisSettings, command: Sequence[str] = COMMAND) -> None:
        self._settings = settings
        self._command = command
        self._child: _Child | None = None

    @property
    def pid(self) -> int | None:
        """The process id of the child, None where none runs."""
        return None if self._child is None else self._child.process.pid

    def decode(self, path: Path, voi: Voi, frame: int = 0) -> FloatArray:
        """Return what `decode.decode` returns, raise what it raises; `UnreadableImage` where the child fails.

        A child that had decoded other files may have been harmed by one of them: the file is then tried once more in
        a new one. Raises `DecoderUnavailable` if no child starts or something outside the node ended it.
        """
        asked = {"path": str(path.absolute()), "voi": voi.model_dump(), "frame": frame}
        request = json.dumps(asked | {"max_pixels": self._settings.max_image_pixels}).encode() + b"\n"
        while True:
            child = self._ready()
            try:
                return self._ask(child, request)
            except _Failed as exc:
                self.close()
                log.warning("decoding process ended", file=path.name, reason=str(exc), served=child.served)
                if child.served and not exc.is_certain:
                    continue
                if exc.is_from_outside:
                    raise DecoderUnavailable(str(exc)) from exc
                raise UnreadableImage(str(exc)) from exc

    def start(self) -> None:
        """Start the child, if none runs, without waiting for it."""
        if self._child is None:
            self._child = _start(self._command, self._settings)

    def close(self) -> None:
        """End the child, whatever it does."""
        child, self._child = self._child, None
        if child is None:
            return
        child.process.kill()
        for pipe in (child.answers, child.lifeline):
            os.close(pipe)
        with contextlib.suppress(OSError):
            _stdin(child).close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.process.wait(5)  # one that waits for a dead disk dies when the disk answers

    def _ready(self) -> _Child:
        """Return a child that waits for a request; one that ended or spoke unasked is replaced."""
        if self._child is not None and self._child.is_ready and _has_spoken(self._child, 0):
            self.close()
        self.start()
        child = self._child
        assert child is not None  # noqa: S101  it was started
        if not child.is_ready:
            try:
                _answer(child, time.monotonic() + START_S, f"it took longer than {START_S:g} s")
            except _Failed as exc:
                self.close()
                raise DecoderUnavailable(f"the decoding process did not start: {exc}") from exc
            child.is_ready = True
        return child

    def _ask(self, child: _Child, request: bytes) -> FloatArray:
        seconds = self._settings.decode_deadline_s
        deadline = time.monotonic() + seconds
        too_late = f"decoding took longer than the {seconds:g} s of analysis.decode_deadline_s"
        with contextlib.suppress(BrokenPipeError):  # then there is an end to read, with its reason
            _stdin(child).write(request)
        header = _answer(child, deadline, too_late)
        if "error" in header:
            raise self._error(child, header)
        image = np.empty(self._shape(header), np.float32)
        _read(child, image.data.cast("B"), deadline, too_late)
        if not (image.min() >= 0 and image.max() <= 1):  # false for NaN too
            raise _Failed("the decoder answered numbers outside 0..1")
        child.served += 1
        return image

    def _error(self, child: _Child, header: dict[str, Any]) -> Exception:
        if header["error"] == OUT_OF_MEMORY:
            allowed = f"the {self._settings.decode_memory_mib} MiB of analysis.decode_memory_mib"
            return _Failed(f"the decoder asked for more than {allowed}")
        if header["error"] not in REASONS or not isinstance(header.get("reason"), str):
            return _Failed(NONSENSE)
        child.served += 1
        return REASONS[header["error"]](header["reason"])

    def _shape(self, header: dict[str, Any]) -> tuple[int, int]:
        rows, columns = header.get("rows"), header.get("columns")
        if not (isinstance(rows, int) and isinstance(columns, int) and min(rows, columns) > 0):
            raise _Failed(NONSENSE)
        if rows * columns > self._settings.max_image_pixels:
            raise _Failed(f"the decoder answered {rows} x {columns} pixels, more than analysis.max_image_pixels")
        return rows, columns


class Decoders:
    """As many decoding processes as this process may use cores; `decode` may be called from any thread.

    A call waits while all are busy; its deadline starts after that.
    """

    def __init__(self, settings: AnalysisSettings) -> None:
        self._idle: queue.LifoQueue[DecodingProcess] = queue.LifoQueue()  # the last one used is the warm one
        for _ in range(len(os.sched_getaffinity(0)) - 1):
            self._idle.put(DecodingProcess(settings))
        first = DecodingProcess(settings)
        first.start()
        self._idle.put(first)

    def decode(self, path: Path, voi: Voi, frame: int = 0) -> FloatArray:
        """Return frame `frame` (from 0) of `path` as (rows, columns) in 0..1; raise as `DecodingProcess.decode`."""
        process = self._idle.get()
        try:
            return process.decode(path, voi, frame)
        finally:
            self._idle.put(process)

    def close(self) -> None:
        """End the children that are idle; one in the middle of a file ends with this process at the latest."""
        idle = []
        with contextlib.suppress(queue.Empty):
            while True:
                idle.append(self._idle.get_nowait())
        for process in idle:
            process.close()
            self._idle.put(process)


def _start(command: Sequence[str], settings: AnalysisSettings) -> _Child:
    """Return a child with its pipes and nothing else of this process: no socket, no file, no secret variable."""
    answers, answers_end = os.pipe()
    lifeline_end, lifeline = os.pipe()
    with contextlib.suppress(OSError):  # a user may have so much pipe memory and no more
        fcntl.fcntl(answers, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    limits = (answers_end, lifeline_end, settings.decode_memory_mib, ceil(settings.decode_deadline_s))
    try:
        process = subprocess.Popen(  # noqa: S603  our own program
            [*command, *map(str, limits)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # decoders print what they like, names too
            stderr=subprocess.DEVNULL,
            bufsize=0,
            pass_fds=(answers_end, lifeline_end),
            cwd="/",
            env=_environment(),
            process_group=0,
        )
    except OSError as exc:
        os.close(answers)
        os.close(lifeline)
        raise DecoderUnavailable(f"the decoding process did not start: {exc}") from exc
    finally:
        os.close(answers_end)
        os.close(lifeline_end)
    return _Child(process, answers, lifeline)


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    modules = os.pathsep.join(str(Path(folder).absolute()) for folder in sys.path)
    return {**kept, "PYTHONPATH": modules, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def _stdin(child: _Child) -> IO[bytes]:
    assert child.process.stdin is not None  # noqa: S101  it is a pipe
    return child.process.stdin


def _answer(child: _Child, deadline: float, too_late: str) -> dict[str, Any]:
    """Return the header of the child's next answer; raise `_Failed` with the reason why there is none."""
    length = bytearray(LENGTH.size)
    _read(child, memoryview(length), deadline, too_late)
    (size,) = LENGTH.unpack(length)
    if size > MAX_HEADER_BYTES:
        raise _Failed(NONSENSE)
    text = bytearray(size)
    _read(child, memoryview(text), deadline, too_late)
    try:
        header = json.loads(text)
    except ValueError:
        raise _Failed(NONSENSE) from None
    if not isinstance(header, dict):
        raise _Failed(NONSENSE)
    return header


def _read(child: _Child, wanted: memoryview, deadline: float, too_late: str) -> None:
    """Fill `wanted` from the child's answer; raise `_Failed` when it ends, or with `too_late` after the deadline."""
    while wanted:
        if not _has_spoken(child, deadline - time.monotonic()):
            raise _Failed(too_late, is_certain=True)
        count = os.readv(child.answers, [wanted])
        if not count:
            raise _end(child)
        wanted = wanted[count:]


def _has_spoken(child: _Child, seconds: float) -> bool:
    """Return whether within `seconds` there is something to read from the child, its end included."""
    poll = select.poll()
    poll.register(child.answers, select.POLLIN)
    return bool(poll.poll(max(0.0, seconds) * 1000))


def _end(child: _Child) -> _Failed:
    """Return why a child that closed its pipe ended."""
    try:
        status = child.process.wait(5)
    except subprocess.TimeoutExpired:
        return _Failed("the decoder closed its pipe")
    if status >= 0:
        return _Failed(f"the decoder ended by itself (exit status {status})")
    name = signal.Signals(-status).name
    if -status == signal.SIGXCPU:
        return _Failed("decoding took more processor time than analysis.decode_deadline_s", is_certain=True)
    if -status == signal.SIGKILL:
        return _Failed(f"the decoding process was ended from outside ({name})", is_from_outside=True)
    return _Failed(f"the decoder crashed ({name})")
