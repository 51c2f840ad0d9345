"""A small hospital whose node can be killed often: forked processes, a tiny bundle, PACSs behind faulty lines."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from dicomnode import engine
from dicomnode.db import migrate
from dicomnode.db.session import Database
from dicomnode.demo.line import FaultyLine
from dicomnode.demo.pacs import DemoPACS
from tests.bundles import manifest_values, write_bundle
from tests.chaos.forked import ForkedNode
from tests.hospital import free_port

BUNDLE = "small_classifier"


@dataclass
class ChaosHospital:
    """The node, its destinations and the lines to them, by name."""

    node: ForkedNode
    port: int
    pacs: Mapping[str, DemoPACS]
    lines: Mapping[str, FaultyLine]


def open_hospital(
    stack: ExitStack,
    folder: Path,
    *,
    database_url: str = "",
    destinations: int = 1,
    planted: bool = False,
    max_attempts: int = 200,
) -> ChaosHospital:
    """Return a hospital whose node is not started yet; `stack` closes it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_bundle(folder / "bundles" / BUNDLE, manifest_values(BUNDLE, "classifier"))
    pacs, lines = {}, {}
    for number in range(destinations):
        name = f"pacs{number}"
        pacs[name] = stack.enter_context(DemoPACS(folder / name, ae_title=name.upper()))
        lines[name] = stack.enter_context(FaultyLine("127.0.0.1", pacs[name].port))
    port = free_port()
    node_folder = folder / "node"
    if planted:
        node_folder.mkdir()
        (node_folder / "plant").touch()
    node = ForkedNode(node_folder, _settings(folder, port, pacs, lines, database_url, max_attempts))
    stack.callback(node.database.close)
    stack.callback(node.stop)
    if database_url:
        prepare(database_url)
    else:
        prepare(node.settings.database_url)
    return ChaosHospital(node, port, pacs, lines)


def prepare(database_url: str) -> None:
    """Create the tables, ours and the engine's."""
    database = Database(database_url)
    migrate.upgrade(database)
    database.close()
    engine.create_tables(database_url)


def _settings(
    folder: Path,
    port: int,
    pacs: Mapping[str, DemoPACS],
    lines: Mapping[str, FaultyLine],
    database_url: str,
    max_attempts: int,
) -> str:
    peers = "".join(
        f'[peers.{name}]\nae_title = "{peer.ae_title}"\nhost = "127.0.0.1"\nport = {lines[name].port}\n'
        "destination = true\nsummary = false\n"
        for name, peer in pacs.items()
    )
    return f"""
[database]
url = "{database_url}"
[receiver]
host = "127.0.0.1"
port = {port}
min_free_bytes = 0
[study]
quiet_period_s = 0.3
sweep_interval_s = 0.2
[models]
directories = ["{folder / "bundles"}"]
active = ["{BUNDLE}"]
[analysis]
threads = 1
max_attempts = {max_attempts}
[delivery]
first_retry_s = 0.2
max_retry_s = 1.0
connect_timeout_s = 5
network_timeout_s = 10
[log]
json = true
[peers.modality]
ae_title = "MODALITY"
sends = true
{peers}
"""
