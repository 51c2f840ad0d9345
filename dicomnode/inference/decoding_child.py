"""The program of the child process in which files are decoded: limits itself, then answers one request after another.

A request is a line of JSON on standard input. An answer is a length, a JSON header and, where it has rows and columns,
so many float32 numbers; nothing in either direction is ever unpickled. See `decoding_process`, which starts it.
"""

import fcntl
import json
import os
import resource
import signal
import struct
import sys
import warnings
from pathlib import Path
from typing import Any, BinaryIO

from dicomnode.errors import DicomnodeError, SpoolFileMissing, UnreadableImage, UnsuitableInput
from dicomnode.inference.decode import decode
from dicomnode.inference.display import FloatArray, Voi

LENGTH = struct.Struct("!I")
REASONS: dict[str, type[DicomnodeError]] = {
    error.__name__: error for error in (SpoolFileMissing, UnreadableImage, UnsuitableInput)
}
OUT_OF_MEMORY = "MemoryError"
WORN_SHARE = 8
"""A process that keeps more than one part in so many of its memory after a file ends."""


def main() -> None:
    """Serve requests until standard input ends: `decoding_child ANSWERS LIFELINE MEMORY_MIB CPU_S`."""
    answers, lifeline, memory_mib, cpu_s = (int(argument) for argument in sys.argv[1:])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # a service that stops ends its current files first
        signal.signal(number, signal.SIG_IGN)
    _end_with(lifeline)
    warnings.simplefilter("ignore")
    own = _address_space()
    _limit(own + (memory_mib << 20))
    with os.fdopen(answers, "wb", buffering=0) as file:
        _send(file, {"ready": True})
        for line in sys.stdin.buffer:
            _allow_cpu(cpu_s)
            _serve(file, json.loads(line))
            if _address_space() > own + (memory_mib << 20) // WORN_SHARE:
                return  # a decoder leaks: the next file gets a process with all of its memory


def _end_with(lifeline: int) -> None:
    """Let the kernel end this process when the worker's end of the pipe closes, however the worker died.

    PR_SET_PDEATHSIG would act when the *thread* ends that started us. SIGIO ends a process that has no handler for it,
    in the middle of a decoder too; nothing is ever written into the pipe.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)


def _address_space() -> int:
    """Return the bytes of address space that this process has; after its start, what interpreter and decoders take."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _limit(address_space: int) -> None:
    """Allow so much address space in all, no core dump, and no byte written to a file."""
    limits = {resource.RLIMIT_AS: address_space, resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: 0}
    for name, limit in limits.items():
        resource.setrlimit(name, (limit, limit))


def _allow_cpu(seconds: int) -> None:
    """Allow so much processor time from now on; one second more ends the process with SIGXCPU."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(usage.ru_utime + usage.ru_stime) + seconds + 1, hard))


def _serve(answers: BinaryIO, request: dict[str, Any]) -> None:
    try:
        image = decode(Path(request["path"]), Voi(**request["voi"]), request["max_pixels"], request["frame"])
    except tuple(REASONS.values()) as exc:
        _send(answers, {"error": type(exc).__name__, "reason": str(exc)})
    except MemoryError:
        _send(answers, {"error": OUT_OF_MEMORY})
    else:
        _send(answers, {"rows": image.shape[0], "columns": image.shape[1]}, image)


def _send(answers: BinaryIO, header: dict[str, Any], image: FloatArray | None = None) -> None:
    text = json.dumps(header).encode()
    _write(answers, LENGTH.pack(len(text)) + text)
    if image is not None:
        _write(answers, image.data.cast("B"))


def _write(answers: BinaryIO, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[answers.write(view) :]


if __name__ == "__main__":
    main()
