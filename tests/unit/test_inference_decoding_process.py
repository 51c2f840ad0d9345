"""The worker's side of the decoding process: whatever the child does becomes pixels or a reason.

The children here are small programs that speak, or break, the protocol of `inference/decoding_child.py`.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dicomnode.config import AnalysisSettings
from dicomnode.errors import DecoderUnavailable, SpoolFileMissing, UnreadableImage, UnsuitableInput
from dicomnode.inference.decoding_process import DecodingProcess
from dicomnode.inference.display import Voi

HELLO = """
import json, os, signal, struct, sys, time
answers = int(sys.argv[1])
def send(header):
    text = json.dumps(header).encode()
    os.write(answers, struct.pack("!I", len(text)) + text)
def image(*numbers):
    send({"rows": 1, "columns": len(numbers)})
    os.write(answers, struct.pack(f"{len(numbers)}f", *numbers))
send({"ready": True})
for number, line in enumerate(sys.stdin):
    request = json.loads(line)
"""
Program = Callable[..., DecodingProcess]


@pytest.fixture
def program() -> Iterator[Program]:
    """A function that gives a decoding process whose child runs Python statements at each request."""
    made = []

    def make(statements: str, **settings: float) -> DecodingProcess:
        source = HELLO + "".join(f"    {line}\n" for line in statements.splitlines())
        command = (sys.executable, "-S", "-E", "-c", source)
        made.append(DecodingProcess(AnalysisSettings(max_image_pixels=1000, **settings), command))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for process in made:
        process.close()


def ask(process: DecodingProcess) -> list[float]:
    answered: list[float] = process.decode(Path("some.dcm"), Voi())[0].tolist()
    return answered


FAULTS = {
    "a crash": ("os.kill(os.getpid(), signal.SIGSEGV)", r"the decoder crashed \(SIGSEGV\)"),
    "an abort": ("os.abort()", r"the decoder crashed \(SIGABRT\)"),
    "too much processor time": ("os.kill(os.getpid(), signal.SIGXCPU)", "more processor time than"),
    "an end of its own": ("os._exit(3)", r"ended by itself \(exit status 3\)"),
    "an end in the middle": ("send({'rows': 2, 'columns': 2}); os._exit(0)", r"ended by itself \(exit status 0\)"),
    "no memory": ("send({'error': 'MemoryError'})", "asked for more than the 64 MiB of analysis.decode_memory_mib"),
    "bytes that are no answer": ("os.write(answers, b'OpenJPEG: error')", "nonsense"),
    "a header that is no JSON": ("os.write(answers, b'\\0\\0\\0\\4nope')", "nonsense"),
    "a header that is a list": ("send([1])", "nonsense"),
    "an error that nobody knows": ("send({'error': 'SystemExit', 'reason': 'x'})", "nonsense"),
    "a reason that is no text": ("send({'error': 'UnreadableImage', 'reason': 1})", "nonsense"),
    "rows that are no number": ("send({'rows': '1', 'columns': 1})", "nonsense"),
    "no rows": ("send({'rows': 0, 'columns': 1})", "nonsense"),
    "an enormous answer": ("send({'rows': 10**9, 'columns': 10**9})", "1000000000 x 1000000000 pixels, more than"),
    "numbers that are none": ("image(0, float('nan'))", "numbers outside 0..1"),
    "numbers beyond white": ("image(0, 1.5)", "numbers outside 0..1"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_child_is_an_unreadable_image_with_its_reason(fault: str, program: Program) -> None:
    statements, expected = FAULTS[fault]
    with pytest.raises(UnreadableImage, match=expected):
        ask(program(statements, decode_memory_mib=64))


def test_a_child_that_takes_too_long_is_ended(program: Program) -> None:
    process = program("time.sleep(1000)", decode_deadline_s=0.2)
    with pytest.raises(UnreadableImage, match=r"longer than the 0.2 s of analysis.decode_deadline_s"):
        ask(process)
    assert process.pid is None


@pytest.mark.parametrize("error", [UnreadableImage, UnsuitableInput, SpoolFileMissing])
def test_what_the_child_refuses_is_raised_and_it_stays(error: type[Exception], program: Program) -> None:
    process = program(f"send({{'error': '{error.__name__}', 'reason': 'its reason'}})")
    pids = set()
    for _ in range(2):
        with pytest.raises(error, match=r"^its reason$"):
            ask(process)
        pids.add(process.pid)
    assert len(pids) == 1


def test_the_request_says_what_is_wanted(program: Program) -> None:
    process = program("send({'error': 'UnreadableImage', 'reason': line})")
    with pytest.raises(UnreadableImage) as caught:
        process.decode(Path("a \udcff\n.dcm"), Voi(method="percentile", low=1, high=99), 7)
    for expected in ('\\\\udcff\\\\n.dcm"', '"method": "percentile"', '"frame": 7', '"max_pixels": 1000'):
        assert expected.replace("\\\\", "\\") in str(caught.value)


def test_one_child_serves_many_files(program: Program) -> None:
    process = program("image(number / 8)")
    assert [ask(process) for _ in range(3)] == [[0.0], [0.125], [0.25]]


@pytest.mark.parametrize("harm", ["os.abort()", "send({'error': 'MemoryError'})", "os.kill(os.getpid(), 9)"])
def test_a_file_does_not_pay_for_the_one_before_it(harm: str, program: Program) -> None:
    process = program(f"if number: {harm}\nimage(0.5)")
    assert [ask(process) for _ in range(3)] == [[0.5]] * 3


def test_a_child_that_ended_or_spoke_unasked_is_replaced(program: Program) -> None:
    process = program("image(number)\nif not number: os.write(answers, b'and more')")
    assert [ask(process), ask(process)] == [[0.0], [0.0]]


def test_a_child_that_was_ended_from_outside_is_no_fault_of_the_file(program: Program) -> None:
    with pytest.raises(DecoderUnavailable, match=r"from outside \(SIGKILL\)"):
        ask(program("os.kill(os.getpid(), signal.SIGKILL)"))


@pytest.mark.parametrize("command", [("/nonexistent",), (sys.executable, "-c", "raise SystemExit(4)")])
def test_a_child_that_does_not_start_is_no_fault_of_the_file(command: tuple[str, ...]) -> None:
    with pytest.raises(DecoderUnavailable, match="the decoding process did not start"):
        ask(DecodingProcess(AnalysisSettings(), command))


def test_the_child_gets_nothing_of_the_worker(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DICOMNODE_DATABASE__URL", "postgresql://secret")
    with socket.socket() as kept:
        kept.set_inheritable(True)
        process = program("image(0)")
        ask(process)
        folder = Path(f"/proc/{process.pid}")
        assert len(os.listdir(folder / "fd")) == 5  # standard streams, answers, lifeline
        assert not any("socket" in os.readlink(file) for file in (folder / "fd").iterdir())
        assert b"secret" not in (folder / "environ").read_bytes()


def test_closing_ends_the_child_whatever_it_does(program: Program) -> None:
    process = program("image(0)\nsignal.pause()")
    ask(process)
    pid = process.pid
    assert pid is not None
    process.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_child_knows_neither_torch_nor_database_nor_network() -> None:
    source = "import sys, dicomnode.inference.decoding_child; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True).stdout.split()
    assert "pydicom" in found
    assert not {"torch", "sqlalchemy", "dbos", "pynetdicom", "monai"} & set(found)
