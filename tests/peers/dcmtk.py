"""DCMTK's programs and the validators of dicom3tools, called as a hospital's engineer would."""

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pydicom import Dataset, dcmread

from tests.needs import require
from tests.peers.processes import Server, listens

ENVIRONMENT = os.environ | {"TCP_NODELAY": "1"}
TIMEOUT_S = 120


def run(program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Return the ended program with what it wrote; the test is skipped where it is not installed."""
    require(program)
    command = [program, *map(str, arguments)]
    return subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False
    )


def storescu(
    paths: Sequence[Path], host: str, port: int, calling: str, called: str, *options: str
) -> subprocess.CompletedProcess[str]:
    """Send files and folders with DCMTK; return code 0 says that all were stored."""
    return run("storescu", "-aet", calling, "-aec", called, "+sd", "+r", *options, host, str(port), *paths)


def echoscu(host: str, port: int, calling: str, called: str) -> bool:
    """Return whether a C-ECHO of DCMTK is answered with success."""
    return run("echoscu", "-aet", calling, "-aec", called, host, str(port)).returncode == 0


def findscu(host: str, port: int, calling: str, called: str, **keys: str | int) -> list[Dataset]:
    """Return the answers to a Study Root C-FIND of DCMTK; `keys` are keywords, an empty value asks for it."""
    with tempfile.TemporaryDirectory() as folder:
        queries = [part for keyword, value in keys.items() for part in ("-k", f"{keyword}={value}")]
        asked = ["-S", "-X", "-od", folder, "-aet", calling, "-aec", called, *queries, host, str(port)]
        ended = run("findscu", *asked)
        assert ended.returncode == 0, ended.stderr
        return [dcmread(path) for path in sorted(Path(folder).glob("rsp*.dcm"))]


def dciodvfy_errors(path: Path) -> list[str]:
    """Return the error lines of dciodvfy, in its old and its new style, for a file."""
    return [
        line
        for style in ((), ("-new",))
        for line in run("dciodvfy", *style, path).stderr.splitlines()
        if line.startswith("Error")
    ]


class Storescp:
    """DCMTK's storescp on loopback; the files that it took lie in `folder`."""

    def __init__(self, folder: Path, port: int, ae_title: str = "STORESCP", *options: str) -> None:
        require("storescp")
        self.folder = folder / "received"
        self.folder.mkdir(parents=True)
        self.ae_title, self.host, self.port = ae_title, "127.0.0.1", port
        command = ["storescp", "-aet", ae_title, "-pm", "+xa", "-od", str(self.folder), *options, str(port)]
        self.server = Server(command, folder / "storescp.log", lambda: listens(port), ENVIRONMENT)
        self.start, self.stop, self.kill = self.server.start, self.server.stop, self.server.kill

    def received(self) -> list[Path]:
        """Return the files that it took."""
        return sorted(self.folder.iterdir())
