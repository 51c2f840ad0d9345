"""A real Orthanc as a child process with a configuration, a storage and ports of its own, on loopback only."""

import http.client
import json
import shutil
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

from pydicom import dcmread

from dicomnode.demo.archive import LOOPBACK, ReservedPort
from dicomnode.demo.pacs import Accepted
from dicomnode.errors import ConfigError, PeerUnavailable

PROGRAM = "Orthanc"
ADMIN_FOLDERS = "/usr/sbin:/usr/local/sbin"  # Debian installs it there; a user's PATH seldom has them
START_TIMEOUT_S, STOP_TIMEOUT_S, REST_TIMEOUT_S = 30.0, 20.0, 10.0
CHANGES_AT_ONCE = 100


def find_program() -> str:
    """Return the path of the program; raise `ConfigError` that says how to get it."""
    found = shutil.which(PROGRAM) or shutil.which(PROGRAM, path=ADMIN_FOLDERS)
    if found is None:
        raise ConfigError("Orthanc is not installed: apt-get install orthanc, or make peers")
    return found


class Orthanc:
    """Orthanc below `folder`; what it took is fetched back by REST into `folder/received`.

    It keeps an object that comes twice once and says nothing of it, so `count` is how many it holds, not how many came.
    """

    def __init__(self, folder: Path, ae_title: str = "ORTHANC") -> None:
        self._program = find_program()
        self._received = folder / "received"
        self._received.mkdir(parents=True)
        self._ports = ReservedPort(), ReservedPort()
        self.ae_title, self.host = ae_title, LOOPBACK
        self.port, self._http_port = (port.number for port in self._ports)
        self._config, self._log = folder / "orthanc.json", folder / "orthanc.log"
        self._config.write_text(json.dumps(self._settings(folder), indent=2), encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None
        self._held: dict[str, Accepted] = {}
        self._last_change = 0

    def _settings(self, folder: Path) -> dict[str, object]:
        return {
            "Name": "dicomnode demo",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "TemporaryDirectory": str(folder / "temporary"),
            "Plugins": [],
            "DicomAet": self.ae_title,
            "DicomPort": self.port,
            "HttpPort": self._http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAlwaysAllowEcho": True,
            "DicomAlwaysAllowStore": True,
            "OverwriteInstances": False,
        }

    def start(self) -> None:
        """Start the program and wait until it answers. Raises `PeerUnavailable` with the end of its log."""
        if self._process is not None:
            return
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603
                [self._program, str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                tail = self._log.read_text(encoding="utf-8", errors="replace")[-1500:]
                raise PeerUnavailable(f"Orthanc did not start; {self._log} ends with:\n{tail}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End the program by its process id: SIGTERM, and SIGKILL if it does not end."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def close(self) -> None:
        """Stop, and give the ports away."""
        self.stop()
        for port in self._ports:
            port.close()

    @property
    def accepted(self) -> list[Accepted]:
        """What it holds, in the order of arrival; `at` is when we saw it."""
        if self._process is not None:
            self._look()
        return list(self._held.values())

    def _look(self) -> None:
        """Ask for what is new since the last look. Standard: none; Orthanc's `/changes`."""
        done = False
        while not done:
            news = json.loads(self._get(f"/changes?since={self._last_change}&limit={CHANGES_AT_ONCE}"))
            for change in news["Changes"]:
                if change["ChangeType"] == "NewInstance":
                    self._fetch(str(change["ID"]))
            self._last_change, done = int(news["Last"]), bool(news["Done"])

    def _fetch(self, orthanc_id: str) -> None:
        path = self._received / f"{orthanc_id}.dcm"
        path.write_bytes(self._get(f"/instances/{orthanc_id}/file"))
        header = dcmread(path, stop_before_pixels=True)
        uid = str(header.SOPInstanceUID)
        count = self._held[uid].count + 1 if uid in self._held else 1
        study_uid, at = str(header.StudyInstanceUID), datetime.now(UTC)
        self._held[uid] = Accepted(str(header.SOPClassUID), uid, study_uid, at, count, 0, path)

    def _answers(self) -> bool:
        try:
            return b"Version" in self._get("/system")
        except PeerUnavailable:
            return False

    def _get(self, path: str) -> bytes:
        connection = http.client.HTTPConnection(self.host, self._http_port, timeout=REST_TIMEOUT_S)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as exc:
            raise PeerUnavailable(f"Orthanc did not answer GET {path}: {exc}") from exc
        finally:
            connection.close()
        if answer.status != http.client.OK:
            raise PeerUnavailable(f"Orthanc answered GET {path} with {answer.status}")
        return body
