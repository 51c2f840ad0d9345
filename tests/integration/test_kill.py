"""`kill -9` of the receiver in mid-transfer, many times: what was acknowledged is on disk with a row."""

import random
import threading
import time

import pydicom
from sqlalchemy import select

from dicomnode.db.tables import SOPInstance
from dicomnode.demo import modality
from dicomnode.errors import DicomnodeError
from tests.hospital import Hospital, chest, wait_for

KILLS = 20


def test_receiver_killed_in_mid_transfer_never_loses_an_acknowledged_instance(tmp_path):
    seed = random.randrange(1 << 30)
    moments = random.Random(seed)
    hospital = Hospital(tmp_path / "node", {}, quiet_period_s=3600)
    acknowledged, unanswered, stop = [], [], threading.Event()

    def send_for_ever():
        number = 0
        while not stop.is_set():
            batch = [chest(study=1 + number // 50, number=number + i, run="kill") for i in range(10)]
            number += 10
            try:
                answers = modality.send(batch, "127.0.0.1", hospital.port, "MODALITY", "DICOMNODE")
            except DicomnodeError:
                time.sleep(0.05)
                continue
            acknowledged.extend(a.sop_instance_uid for a in answers if a.status == 0)
            unanswered.extend(a.sop_instance_uid for a in answers if a.status != 0)

    with hospital.node:
        sender = threading.Thread(target=send_for_ever)
        sender.start()
        try:
            for _ in range(KILLS):
                before = len(acknowledged)
                wait_for(lambda n=before: len(acknowledged) > n, 60, hospital.node.log_tail)
                time.sleep(moments.random())
                wait_for(lambda: "receive" in hospital.node.pids(), 30, hospital.node.log_tail)
                killed = hospital.node.kill("receive")
                wait_for(
                    lambda pid=killed: hospital.node.pids().get("receive") not in (None, pid),
                    60,
                    hospital.node.log_tail,
                )
        finally:
            stop.set()
            sender.join()
        with hospital.node.database.read() as session:
            rows = {row.sop_instance_uid: row for row in session.scalars(select(SOPInstance))}
    root = hospital.node.settings.node.data_dir
    assert len(acknowledged) > KILLS, f"seed {seed}"
    assert set(acknowledged) <= rows.keys(), f"acknowledged without a row; seed {seed}"
    assert unanswered, f"no kill hit a transfer; seed {seed}"
    for uid, row in rows.items():
        path = root / row.path
        assert path.stat().st_size == row.size_bytes
        assert pydicom.dcmread(path).SOPInstanceUID == uid
