"""A process dies at every point once, is started again, and nothing is lost or doubled."""

import json
import threading
from contextlib import ExitStack

import pytest

from dicomnode import failpoint
from dicomnode.demo import modality
from dicomnode.errors import DicomnodeError
from tests.chaos.hospital import open_hospital
from tests.chaos.invariant import unsettled, violations
from tests.chaos.ledger import Ledger, Senders, send_until_acknowledged, study_images
from tests.hospital import wait_for

ROLE_OF = {
    "receive": "receive", "spool": "receive", "analyze": "analyze", "report": "analyze", "heartbeat": "analyze",
    "sweep": "deliver", "close": "deliver", "deliver": "deliver", "send": "deliver", "settle": "deliver",
    "requeue": "deliver", "takeover": "deliver",
}  # fmt: skip
GIVE_UP = ["give_up.written", "give_up.committed"]
TRANSACTIONS = ("receive.flushed", "close.enqueued", "analyze.written", "report.enqueued", "settle.written")
DEADLINE_S = 600


def points(role):
    own = [name for name in failpoint.NAMES if ROLE_OF.get(name.partition(".")[0]) == role]
    return own + [name for name in failpoint.NAMES if role == "analyze" and name.startswith("spool.")]


def deaths(node):
    """(role, exit code) of each process that the supervisor saw die."""
    events = [json.loads(line) for line in node.log_file.read_text().splitlines() if line.startswith("{")]
    return [(e["role"], e["exit_code"]) for e in events if e["event"] == "role died"]


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
                    pacs.refuse(0xA700)  # one delivery has to wait, and is queued again
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
    assert armed | set(GIVE_UP) == set(failpoint.NAMES)


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
        send_until_acknowledged(
            [late], [hospital.port], ledger, lambda: False
        )  # the operator's retry is tested elsewhere
        wait_for(lambda: not unsettled(node.database, ledger.studies), DEADLINE_S, lambda: node.log_tail(60))
        assert violations(node.database, node.settings.node.data_dir, ledger.acknowledged, hospital.pacs) == []
