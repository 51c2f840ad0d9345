"""A process dies at every point once, is started again, and nothing is lost or doubled."""

import json
import re
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from datetime import timedelta

import pytest
from sqlalchemy import select

from dicomnode import failpoint, spool
from dicomnode.db.session import now
from dicomnode.db.tables import SOPInstance
from dicomnode.demo import modality
from dicomnode.domain.lifecycle import DeliveryState, State
from dicomnode.errors import DicomnodeError
from dicomnode.flow.reconcile import GRACE_S, reconcile
from dicomnode.network.part10 import file_header
from tests import rows
from tests.chaos.hospital import open_hospital
from tests.chaos.invariant import unsettled, violations
from tests.chaos.ledger import Ledger, Senders, send_until_acknowledged, study_images
from tests.hospital import wait_for

ROLE_OF = {
    "receive": "receive", "spool": "receive", "analyze": "analyze", "report": "analyze", "heartbeat": "analyze",
    "sweep": "deliver", "close": "deliver", "deliver": "deliver", "send": "deliver", "choose": "deliver",
    "settle": "deliver", "rounds": "deliver", "takeover": "deliver",
}  # fmt: skip
CT = "1.2.840.10008.5.1.4.1.1.2"
GIVE_UP = ["give_up.written", "give_up.committed"]
PURGE = ["purge.marked", "purge.committed", "purge.removed"]
TRANSACTIONS = (
    "receive.flushed", "close.enqueued", "rounds.ordered", "analyze.written", "report.enqueued", "settle.written",
)  # fmt: skip
DEADLINE_S = 600


def points(role):
    own = [name for name in failpoint.NAMES if ROLE_OF.get(name.partition(".")[0]) == role]
    if role == "deliver":  # work is lost only where the process before died in the middle of a round
        takeover = [name for name in own if name.startswith("takeover.")]
        own = [name for name in own if name not in takeover]
        at = own.index("deliver.sent") + 1
        own[at:at] = takeover
    return own + [name for name in failpoint.NAMES if role == "analyze" and name.startswith("spool.")]


def deaths(node):
    """(role, exit code) of each process that the supervisor saw die."""
    found = re.findall(r'\{[^{}]*"event": "role died"[^{}]*\}', node.log_file.read_text())
    return [(e["role"], e["exit_code"]) for e in map(json.loads, found)]


def send_garbage(port, stop):
    """Send objects that cannot be understood until `stop`."""
    (image,) = study_images("garbage", 1, 1)
    del image.StudyInstanceUID
    while not stop.wait(0.3):
        try:
            modality.send([image], "127.0.0.1", port, "MODALITY", "DICOMNODE")
        except DicomnodeError:
            continue


@pytest.mark.timeout(1500)  # a slow machine has its time
@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def test_death_at_every_point_loses_and_doubles_nothing(tmp_path, request, database):
    on_postgresql = database == "postgresql"
    url = request.getfixturevalue("postgresql_url") if on_postgresql else ""
    with ExitStack() as stack:
        hospital = open_hospital(stack, tmp_path, database_url=url)
        node, (pacs,) = hospital.node, hospital.pacs.values()
        wanted = []
        for role in ("receive", "analyze", "deliver"):
            names = [name for name in points(role) if not on_postgresql or name in TRANSACTIONS]
            node.arm(role, *(f"{name}:1" for name in names))
            wanted += [role] * len(names)
        node.start()
        ledger, garbage_ends = Ledger(tmp_path / "ledger"), threading.Event()
        garbage = threading.Thread(target=send_garbage, args=(hospital.port, garbage_ends))
        garbage.start()
        try:
            with Senders("points", 10**9, [hospital.port], ledger, seed=1, threads=1) as senders:

                def all_died():
                    pacs.refuse(0xA700)  # one delivery has to wait
                    senders.pause_s = 0.3
                    return len(deaths(node)) >= len(wanted)

                wait_for(all_died, DEADLINE_S, lambda: f"{deaths(node)} {node.armed}\n{node.log_tail()}")
        finally:
            garbage_ends.set()
            garbage.join()
        assert sorted(deaths(node)) == sorted((role, -9) for role in wanted)
        pacs.refuse(0, times=0)
        wait_for(lambda: not unsettled(node.database, ledger.studies), DEADLINE_S, lambda: node.log_tail(60))
        assert len(ledger.studies) > 3
        assert violations(node.database, node.settings.node.data_dir, ledger.acknowledged, hospital.pacs) == []


def test_every_point_is_passed_by_one_of_these_tests():
    armed = {name for role in ("receive", "analyze", "deliver") for name in points(role)}
    assert armed | set(GIVE_UP) | set(PURGE) == set(failpoint.NAMES)


def test_poison_study_is_a_dead_letter_also_over_deaths_while_it_is_given_up(tmp_path):
    with ExitStack() as stack:
        hospital = open_hospital(stack, tmp_path, max_attempts=1)
        node = hospital.node
        node.arm("analyze", "analyze.start_committed:1", *(f"{name}:1" for name in GIVE_UP))
        node.start()
        ledger = Ledger(tmp_path / "ledger")
        first, late = study_images("poison", 1, 2)
        send_until_acknowledged([first], [hospital.port], ledger, lambda: False)
        wait_for(lambda: len(deaths(node)) == 3, DEADLINE_S, node.log_tail)
        (failed,) = unsettled(node.database, ledger.studies)
        assert "FAILED Permanent: 1 attempts ended with the death of the process" in failed
        send_until_acknowledged([late], [hospital.port], ledger, lambda: False)  # a retry is tested elsewhere
        wait_for(lambda: not unsettled(node.database, ledger.studies), DEADLINE_S, lambda: node.log_tail(60))
        assert violations(node.database, node.settings.node.data_dir, ledger.acknowledged, hospital.pacs) == []


PURGE_AGED = """
import sys, threading
from pathlib import Path
from dicomnode import failpoint, spool
from dicomnode.config import RetentionSettings
from dicomnode.db.session import Database
from dicomnode.flow.purge import purge_aged
failpoint.arm(sys.argv[3])
purge_aged(Database(sys.argv[1]), Path(sys.argv[2]), RetentionSettings(keep_days=30), threading.Event())
"""


@pytest.mark.parametrize("point", PURGE)
def test_death_while_files_are_purged_leaves_none_behind_and_touches_no_other(tmp_path, database, point):
    root, files = tmp_path / "spool", {}
    spool.prepare(root)
    with database.read() as session:
        long_ago = now(session) - timedelta(days=31)
    for study, state in (("1.2.1", DeliveryState.SENT), ("1.2.2", DeliveryState.WAITING)):
        for number in (1, 2):
            name = f"instances/aa/{study}/{number}.dcm"
            version_id = rows.arrive(database, f"{study}.{number}", study=study, at=long_ago, path=name)
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(file_header(CT, f"{study}.{number}", "1.2.840.10008.1.2.1"))
            files.setdefault(study, []).append(file)
        rows.stand(database, version_id, State.DONE, at=long_ago)
        rows.deliver(database, version_id, {"pacs": state}, at=long_ago)
    purge = [sys.executable, "-c", PURGE_AGED, database.url, str(root)]
    assert subprocess.run([*purge, f"{point}:1"], check=False, timeout=300).returncode == -9
    subprocess.run([*purge, ""], check=True, timeout=300)
    reconcile(database, root, threading.Event(), time.time() + 2 * GRACE_S)
    with database.read() as session:
        purged = {row.sop_instance_uid: row.purged_at is not None for row in session.scalars(select(SOPInstance))}
    assert purged == {"1.2.1.1": True, "1.2.1.2": True, "1.2.2.1": False, "1.2.2.2": False}
    assert not any(file.exists() for file in files["1.2.1"])
    assert all(file.exists() for file in files["1.2.2"])
