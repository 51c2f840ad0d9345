"""A small hospital for tests: a running node, its PACSs, a modality, and what can be asked of them."""

import socket
import time
from datetime import UTC, datetime

import numpy as np
import pydicom

from dicomnode.db import results, studies
from dicomnode.demo import modality
from dicomnode.demo.node import RunningNode
from dicomnode.demo.objects import Study, dx, not_applicable_study, patient
from dicomnode.domain.lifecycle import State

WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SR, SUMMARY = "1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.5.1.4.1.1.7"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def chest(study=1, number=1, run="test"):
    """A picture with two dark fields and a bright middle, the same for the same numbers."""
    rows, columns = np.mgrid[-1:1:256j, -1:1:256j]
    lungs = np.exp(-(((columns - 0.45) / 0.3) ** 2) - (rows / 0.6) ** 2)
    lungs += np.exp(-(((columns + 0.45) / 0.3) ** 2) - (rows / 0.6) ** 2)
    noise = np.random.default_rng(1000 * study + number).normal(0, 6, rows.shape)
    pixels = np.clip(190 - 130 * lungs + noise, 0, 255).astype(np.uint8)
    return dx(pixels, patient=patient(study), study=Study(run, study, WHEN), number=number)


def ct(study=90, run="test"):
    return not_applicable_study(patient=patient(study), study=Study(run, study, WHEN))


class Hospital:
    """`pacs` maps the name of a peer to a running PACS (ae_title, host, port)."""

    def __init__(self, folder, pacs, *, quiet_period_s=0.5, database_url="", extra=""):
        self.port = free_port()
        self.node = RunningNode(folder, _settings(self.port, pacs, quiet_period_s, database_url, extra))

    def send(self, *datasets):
        return [s.status for s in modality.send(datasets, "127.0.0.1", self.port, "MODALITY", "DICOMNODE")]

    def versions(self, dataset):
        """(number, state, reason) of each version of the study of `dataset`, the oldest first."""
        with self.node.database.read() as session:
            found = studies.versions_of(session, str(dataset.StudyInstanceUID))
        return [(v.number, State(v.state), v.reason) for v, _ in reversed(found)]

    def version_id(self, dataset, number=1):
        with self.node.database.read() as session:
            found = studies.versions_of(session, str(dataset.StudyInstanceUID))
        return next(v.id for v, _ in found if v.number == number)

    def deliveries(self, dataset, number=1):
        with self.node.database.read() as session:
            return results.deliveries_of(session, self.version_id(dataset, number))

    def results(self, dataset, number=1):
        with self.node.database.read() as session:
            return results.results_of(session, self.version_id(dataset, number))

    def wait(self, dataset, *states, number=1, timeout_s=60):
        """Wait until version `number` stands in one of `states`, and return that state."""

        def state():
            known = {n: s for n, s, _ in self.versions(dataset)}
            return known.get(number) if known.get(number) in states else None

        return wait_for(state, timeout_s, lambda: f"{self.versions(dataset)}\n{self.node.log_tail()}")


def wait_for(claim, timeout_s=60, explain=lambda: ""):
    """Return the first true value of `claim()`; fail with `explain()` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := claim():
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {timeout_s} s: {explain()}")


def accepted(pacs, dataset, sop_class=SR):
    """SOP Instance UIDs of `sop_class` that a PACS accepted for the study of `dataset`, one for each C-STORE of it."""
    return [
        a.sop_instance_uid
        for a in pacs.accepted
        if a.study_instance_uid == dataset.StudyInstanceUID and a.sop_class_uid == sop_class
        for _ in range(a.count)
    ]


def stored(pacs, sop_instance_uid):
    """The object as it lies in the folder of a PACS."""
    return pydicom.dcmread(next(a.path for a in pacs.accepted if a.sop_instance_uid == sop_instance_uid))


def _settings(port, pacs, quiet_period_s, database_url, extra):
    peers = "\n".join(
        f'[peers.{name}]\nae_title = "{p.ae_title}"\nhost = "127.0.0.1"\nport = {p.port}\ndestination = true'
        for name, p in pacs.items()
    )
    return f"""
[database]
url = "{database_url}"
[receiver]
host = "127.0.0.1"
port = {port}
min_free_bytes = 0
[study]
quiet_period_s = {quiet_period_s}
[delivery]
first_retry_s = 0.5
max_retry_s = 1.0
[peers.modality]
ae_title = "MODALITY"
sends = true
{peers}
{extra}
"""
