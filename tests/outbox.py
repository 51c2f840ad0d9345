"""Reports that wait to be sent: rows and files as the report step leaves them, without a node and without a model."""

import hashlib
from datetime import timedelta

from sqlalchemy import select, update

from dicomnode import spool
from dicomnode.config import DeliverySettings, Settings
from dicomnode.db import deliveries, results, studies
from dicomnode.db.session import now
from dicomnode.db.tables import Delivery, Destination, EvidenceObject, StudyVersion
from dicomnode.domain.lifecycle import State
from dicomnode.domain.study import InstanceHeader
from dicomnode.evidence import encoded, find_encoders
from dicomnode.evidence._invented import invented_case
from dicomnode.flow.deliver import Deliveries

CT = "1.2.840.10008.5.1.4.1.1.2"
WAIT_S = 8000
"""No wait of `PATIENT` is longer, and none so short that a slow machine outlives it: time passes by `pass_time`."""
PATIENT = DeliverySettings(
    first_retry_s=1000, max_retry_s=WAIT_S, longest_probe_s=WAIT_S, connect_timeout_s=60, network_timeout_s=60
)


def documents():
    """The encoded objects of an invented case, by encoder."""
    return {encoder.name: ds for encoder in find_encoders() for ds in encoder.encode(invented_case())}


class Outbox:
    """A database and a spool with reports on their way; `deliver` is the step under test."""

    def __init__(self, database, root, peers, settings=PATIENT, executor_id="here"):
        self.database, self.root = database, root
        spool.prepare(root)
        self.settings = Settings(delivery=settings, peers=peers)
        self.deliveries = Deliveries(database, root, self.settings, executor_id)
        self._report = documents()["measurement_report"]
        self._count = 0
        self.queue = None

    def add(self, *destinations, priority="routine", ds=None):
        """Put a report on its way to `destinations`; return the id of its version."""
        self._count += 1
        number = self._count
        ds = ds or self._report
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"2.25.{1000 + number}"
        content = encoded(ds)
        name = f"{spool.EVIDENCE}/{number}.dcm"
        spool.keep(self.root, spool.stage(self.root, (content,)), name)
        file = studies.StoredFile(name, len(content), hashlib.sha256(content).hexdigest())
        header = InstanceHeader(CT, f"1.2.3.{number}", "1.2.840.10008.1.2.1", f"1.2.{number}", "1.2.3.9")
        with self.database.write() as session:
            at = now(session)
            image = studies.StoredFile("x", 1, str(number))
            version_id = studies.add_instance(session, header, image, studies.Sender("CT", "127.0.0.1"), at)
            session.execute(
                update(StudyVersion)
                .where(StudyVersion.id == version_id)
                .values(state=State.DELIVERING, priority=priority)
            )
            evidence = results.Evidence(
                "measurement_report", str(ds.SOPClassUID), str(ds.SOPInstanceUID), "2.25.7", "AI", file
            )
            deliveries.know(session, destinations)
            results.add_evidence(session, version_id, evidence, list(destinations), at)
        return version_id

    def deliver(self, destination="pacs"):
        self.deliveries.deliver(destination)

    def another(self, executor_id):
        """The same outbox seen by another process."""
        other = Outbox.__new__(Outbox)
        other.__dict__.update(self.__dict__)
        other.deliveries = Deliveries(self.database, self.root, self.settings, executor_id)
        return other

    def rows(self, destination="pacs"):
        with self.database.read() as session:
            return list(
                session.scalars(select(Delivery).where(Delivery.destination == destination).order_by(Delivery.id))
            )

    def row(self, destination="pacs"):
        (row,) = self.rows(destination)
        return row

    def states(self, destination="pacs"):
        return [str(row.state) for row in self.rows(destination)]

    def attempts(self, position=0, destination="pacs"):
        with self.database.read() as session:
            return deliveries.attempts_of(session, self.rows(destination)[position].id)

    def destination(self, name="pacs"):
        with self.database.read() as session:
            return session.get_one(Destination, name)

    def objects(self):
        with self.database.read() as session:
            return list(session.scalars(select(EvidenceObject).order_by(EvidenceObject.id)))

    def state(self, version_id):
        with self.database.read() as session:
            return State(studies.version(session, version_id).state)

    def pass_time(self, seconds):
        """Let so much time pass for the rows: every moment in them moves into the past."""
        with self.database.write() as session:
            for table, columns in {
                Delivery: ("created_at", "next_at"),
                Destination: ("opened_at", "next_probe_at", "busy_at"),
            }.items():
                for row in session.scalars(select(table)):
                    for column in columns:
                        if (moment := getattr(row, column)) is not None:
                            setattr(row, column, moment - timedelta(seconds=seconds))
