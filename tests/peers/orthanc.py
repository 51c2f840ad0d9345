"""A real Orthanc with a configuration and a storage of its own, and the questions that tests ask it."""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from tests.peers.processes import Server

PLUGIN_FOLDERS = ("/usr/share/orthanc/plugins", "/usr/lib/orthanc", "/usr/local/share/orthanc/plugins")
HTTP_TIMEOUT_S = 10.0
Json = dict[str, object]


def dicomweb_plugin() -> Path | None:
    """Return the path of Orthanc's DICOMweb plug-in, or None."""
    found = (path for folder in PLUGIN_FOLDERS for path in sorted(Path(folder).glob("libOrthancDicomWeb.so*")))
    return next(found, None)


class Orthanc:
    """Orthanc on loopback, below `folder`; `modalities` are the AE titles it knows, with their ports.

    It keeps ports and storage over `stop` and `start`. It accepts C-STORE, C-FIND and C-ECHO from anyone.
    """

    def __init__(
        self,
        folder: Path,
        dicom_port: int,
        http_port: int,
        modalities: Mapping[str, int] | None = None,
        ae_title: str = "ORTHANC",
        **settings: object,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.ae_title, self.host, self.dicom_port = ae_title, "127.0.0.1", dicom_port
        self.http_url = f"http://127.0.0.1:{http_port}"
        self.dicomweb_url = f"{self.http_url}/dicom-web"
        config = folder / "orthanc.json"
        config.write_text(json.dumps(self._settings(folder, http_port, modalities or {}) | settings, indent=2))
        self.server = Server(["Orthanc", str(config)], folder / "orthanc.log", self._answers)
        self.start, self.stop, self.kill = self.server.start, self.server.stop, self.server.kill

    def _settings(self, folder: Path, http_port: int, modalities: Mapping[str, int]) -> dict[str, object]:
        plugin = dicomweb_plugin()
        return {
            "Name": "test",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "TemporaryDirectory": str(folder / "tmp"),
            "Plugins": [str(plugin)] if plugin else [],
            "DicomAet": self.ae_title,
            "DicomPort": self.dicom_port,
            "HttpPort": http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAlwaysAllowEcho": True,
            "DicomAlwaysAllowStore": True,
            "DicomAlwaysAllowFind": True,
            "UnknownSopClassAccepted": True,
            "OverwriteInstances": False,
            "StableAge": 1,
            "DicomModalities": {name.lower(): [name, "127.0.0.1", port] for name, port in modalities.items()},
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }

    def _answers(self) -> bool:
        try:
            return "Version" in self.get("/system")
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def rest(self, path: str, body: bytes | None = None) -> bytes:
        """Return the bytes of a REST answer: GET, or POST with `body`."""
        request = urllib.request.Request(self.http_url + path, data=body)
        with urllib.request.urlopen(request, timeout=HTTP_TIMEOUT_S) as answer:
            return bytes(answer.read())

    def delete(self, path: str) -> None:
        """Remove the resource at a REST path."""
        request = urllib.request.Request(self.http_url + path, method="DELETE")
        with urllib.request.urlopen(request, timeout=HTTP_TIMEOUT_S):
            pass

    def get(self, path: str) -> Json:
        """Return the JSON object at a REST path."""
        value: Json = json.loads(self.rest(path))
        return value

    def find(self, level: str, **query: str) -> list[Json]:
        """Return the resources (Patient, Study, Series, Instance) with these attributes, expanded."""
        body = json.dumps({"Level": level, "Query": query, "Expand": True}).encode()
        found: list[Json] = json.loads(self.rest("/tools/find", body))
        return found

    def find_studies(self, **query: str) -> list[Json]:
        """Return the studies with these attributes, by keyword; none: all."""
        return self.find("Study", **query)

    def instances_of_series(self, series_instance_uid: str) -> list[str]:
        """Return the Orthanc identifiers of the instances of a series."""
        return [str(found["ID"]) for found in self.find("Instance", SeriesInstanceUID=series_instance_uid)]

    def instances_of_study(self, study_instance_uid: str) -> list[str]:
        """Return the Orthanc identifiers of the instances of a study."""
        return [str(found["ID"]) for found in self.find("Instance", StudyInstanceUID=study_instance_uid)]

    def download(self, instance: str) -> bytes:
        """Return the Part 10 file of an instance, by its Orthanc identifier."""
        return self.rest(f"/instances/{instance}/file")

    def send_to(self, modality: str, *resources: str) -> Json:
        """Send resources (Orthanc identifiers) to one of the known modalities and return Orthanc's account of it."""
        body = json.dumps({"Resources": list(resources), "Synchronous": True}).encode()
        value: Json = json.loads(self.rest(f"/modalities/{modality.lower()}/store", body))
        return value
