"""The rows of the node: what was received, which version of a study stands where, what was found, what was sent.

A row's `id` is ours; UIDs are DICOM's. Times are UTC. States are text that `domain.lifecycle` names.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from dicomnode.domain.drift import DriftState
from dicomnode.domain.lifecycle import BundleState, CircuitState, DeliveryState, State


class UTCDateTime(TypeDecorator[datetime]):
    """An aware moment in UTC on every database; SQLite keeps no zone of its own."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return `value` in UTC, naive where the database keeps no zone."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a moment without a zone must not reach a row")
        moment = value.astimezone(UTC)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the moment with its zone."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """All our tables; the durable-execution library keeps its own beside them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UTCDateTime, dict[str, Any]: JSON, list[str]: JSON}  # noqa: RUF012


UID = String(64)
AE_TITLE = String(16)
LINE = String(1024)


def _one_of(
    column: str,
    values: type[State] | type[DeliveryState] | type[CircuitState] | type[BundleState] | type[DriftState],
) -> CheckConstraint:
    return CheckConstraint(f"{column} IN ({', '.join(repr(str(v)) for v in values)})", name=column)


class Peer(Base):
    """An application entity that called us: when last, and why it was turned away if it was."""

    __tablename__ = "peer"
    __table_args__ = (UniqueConstraint("ae_title", "address"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    ae_title: Mapped[str] = mapped_column(String(64))
    address: Mapped[str] = mapped_column(String(64))
    first_seen_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]
    rejections: Mapped[int] = mapped_column(default=0)
    last_rejection: Mapped[str] = mapped_column(LINE, default="")


class Study(Base):
    """A study as its first instance describes it; `purged_at` says that retention removed its files."""

    __tablename__ = "study"
    __table_args__ = (
        Index(
            "ix_study_with_files",
            "first_received_at",
            sqlite_where=text("purged_at IS NULL"),
            postgresql_where=text("purged_at IS NULL"),
        ),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(UID, unique=True)
    patient_name: Mapped[str] = mapped_column(LINE, default="")
    patient_id: Mapped[str] = mapped_column(LINE, default="", index=True)
    issuer_of_patient_id: Mapped[str] = mapped_column(LINE, default="")
    patient_birth_date: Mapped[str] = mapped_column(LINE, default="")
    patient_sex: Mapped[str] = mapped_column(LINE, default="")
    patient_age: Mapped[str] = mapped_column(LINE, default="")
    accession_number: Mapped[str] = mapped_column(LINE, default="", index=True)
    study_date: Mapped[str] = mapped_column(LINE, default="")
    study_time: Mapped[str] = mapped_column(LINE, default="")
    study_description: Mapped[str] = mapped_column(LINE, default="")
    referring_physician_name: Mapped[str] = mapped_column(LINE, default="")
    first_received_at: Mapped[datetime] = mapped_column(index=True)
    purged_at: Mapped[datetime | None]


class StudyVersion(Base):
    """One closed (or still open) set of all instances of a study; analysis and results belong to it."""

    __tablename__ = "study_version"
    __table_args__ = (
        UniqueConstraint("study_id", "number"),
        _one_of("state", State),
        Index("ix_study_version_state_last_instance_at", "state", "last_instance_at"),
        Index(
            "uq_study_version_receiving",
            "study_id",
            unique=True,
            sqlite_where=text("state = 'RECEIVING'"),
            postgresql_where=text("state = 'RECEIVING'"),
        ),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"))
    number: Mapped[int]
    uid: Mapped[str] = mapped_column(UID, unique=True)
    state: Mapped[str] = mapped_column(String(16))
    state_changed_at: Mapped[datetime]
    reason: Mapped[str] = mapped_column(Text, default="")
    source_ae_title: Mapped[str] = mapped_column(AE_TITLE)
    opened_at: Mapped[datetime]
    last_instance_at: Mapped[datetime]
    closed_at: Mapped[datetime | None]
    instance_count: Mapped[int] = mapped_column(default=0)
    priority: Mapped[str | None] = mapped_column(String(16))
    run: Mapped[int] = mapped_column(default=0)
    attempts: Mapped[int] = mapped_column(default=0)


class Series(Base):
    """What worklist and report need of a series."""

    __tablename__ = "series"
    __table_args__ = (UniqueConstraint("study_id", "series_instance_uid"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"))
    series_instance_uid: Mapped[str] = mapped_column(UID)
    modality: Mapped[str] = mapped_column(LINE, default="")
    series_number: Mapped[str] = mapped_column(LINE, default="")
    series_description: Mapped[str] = mapped_column(LINE, default="")
    protocol_name: Mapped[str] = mapped_column(LINE, default="")
    body_part_examined: Mapped[str] = mapped_column(LINE, default="")
    view_position: Mapped[str] = mapped_column(LINE, default="")
    laterality: Mapped[str] = mapped_column(LINE, default="")
    manufacturer: Mapped[str] = mapped_column(LINE, default="")
    manufacturer_model_name: Mapped[str] = mapped_column(LINE, default="")
    station_name: Mapped[str] = mapped_column(LINE, default="")


class SOPInstance(Base):
    """One received object; the same UID with other bytes is a further revision."""

    __tablename__ = "sop_instance"
    __table_args__ = (
        UniqueConstraint("study_id", "sop_instance_uid", "revision"),
        Index("ix_sop_instance_sop_instance_uid", "sop_instance_uid"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"))
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"), index=True)
    sop_instance_uid: Mapped[str] = mapped_column(UID)
    revision: Mapped[int]
    is_current: Mapped[bool]
    sop_class_uid: Mapped[str] = mapped_column(UID)
    transfer_syntax_uid: Mapped[str] = mapped_column(UID)
    instance_number: Mapped[str] = mapped_column(LINE, default="")
    path: Mapped[str] = mapped_column(String(255))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    calling_ae_title: Mapped[str] = mapped_column(AE_TITLE)
    calling_address: Mapped[str] = mapped_column(String(64))
    received_at: Mapped[datetime]
    purged_at: Mapped[datetime | None]


class StudyVersionInstance(Base):
    """Membership of an instance in a version, frozen when the version closes."""

    __tablename__ = "study_version_instance"
    version_id: Mapped[int] = mapped_column(ForeignKey("study_version.id"), primary_key=True)
    sop_instance_id: Mapped[int] = mapped_column(ForeignKey("sop_instance.id"), primary_key=True, index=True)


class Analysis(Base):
    """What one bundle did with one study version; that of a shadow is stored and influences nothing."""

    __tablename__ = "analysis"
    __table_args__ = (UniqueConstraint("version_id", "bundle_name"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("study_version.id"))
    position: Mapped[int]
    bundle_name: Mapped[str] = mapped_column(String(64))
    bundle_version: Mapped[str] = mapped_column(String(64))
    bundle_kind: Mapped[str] = mapped_column(String(16))
    bundle_title: Mapped[str] = mapped_column(LINE)
    bundle_digest: Mapped[str] = mapped_column(String(64))
    weights_digest: Mapped[str] = mapped_column(String(64))
    parameters: Mapped[list[str]]
    assessed: Mapped[list[str]]
    not_applicable: Mapped[str] = mapped_column(Text, default="")
    finished_at: Mapped[datetime] = mapped_column(index=True)
    seconds: Mapped[float]
    is_shadow: Mapped[bool] = mapped_column(default=False, server_default=false())
    backend: Mapped[str] = mapped_column(String(32), default="", server_default="")
    when_unusual: Mapped[str] = mapped_column(String(16), default="show", server_default="show")


class BundleStanding(Base):
    """Append-only: who moved a bundle to which state, with the digest that was looked at. The newest row holds.

    `replaces` is the bundle that an active one took the place of, and for a shadow the one that it is compared with.
    """

    __tablename__ = "bundle_state"
    __table_args__ = (_one_of("state", BundleState), Index("ix_bundle_state_name_id", "name", "id"))
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    actor: Mapped[str] = mapped_column(String(64))
    name: Mapped[str] = mapped_column(String(64))
    version: Mapped[str] = mapped_column(String(64))
    digest: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))
    replaces: Mapped[str] = mapped_column(String(64), default="")
    reason: Mapped[str] = mapped_column(Text, default="")


class PredictionRow(Base):
    """One number for one image."""

    __tablename__ = "prediction"
    id: Mapped[int] = mapped_column(primary_key=True)
    analysis_id: Mapped[int] = mapped_column(ForeignKey("analysis.id"), index=True)
    sop_instance_uid: Mapped[str] = mapped_column(UID)
    label: Mapped[str] = mapped_column(String(64))
    value: Mapped[float]
    threshold: Mapped[float]


class FindingRow(Base):
    """A class, or the anomaly score, over the whole study. `value` is the probability (0..1) or the score.

    `kind` is `class`, `anomaly`, or `withheld`: a class that the anomaly gate keeps back, never a negative.
    """

    __tablename__ = "finding"
    id: Mapped[int] = mapped_column(primary_key=True)
    analysis_id: Mapped[int] = mapped_column(ForeignKey("analysis.id"), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    label: Mapped[str] = mapped_column(String(64))
    value: Mapped[float]
    threshold: Mapped[float]
    percentile: Mapped[float | None]
    is_positive: Mapped[bool]
    priority: Mapped[str] = mapped_column(String(16))
    code: Mapped[dict[str, Any]]
    site: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    sop_instance_uid: Mapped[str] = mapped_column(UID)
    is_from_unusual: Mapped[bool] = mapped_column(default=False, server_default=false())


class ExplanationRow(Base):
    """Where in an image a number comes from: a grey map of the image's size in the spool, or why there is none.

    The map's values are 0..255 for 0..`maximum`. Without a map `path` is empty and `reason` says why.
    """

    __tablename__ = "explanation"
    __table_args__ = (UniqueConstraint("analysis_id", "sop_instance_uid", "label"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    analysis_id: Mapped[int] = mapped_column(ForeignKey("analysis.id"))
    sop_instance_uid: Mapped[str] = mapped_column(UID)
    label: Mapped[str] = mapped_column(String(64))
    method: Mapped[str] = mapped_column(String(16))
    path: Mapped[str] = mapped_column(String(255), default="")
    sha256: Mapped[str] = mapped_column(String(64), default="")
    size_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    rows: Mapped[int] = mapped_column(default=0)
    columns: Mapped[int] = mapped_column(default=0)
    maximum: Mapped[float] = mapped_column(default=0.0)
    reason: Mapped[str] = mapped_column(Text, default="")


class ImageCodeRow(Base):
    """The code that an autoencoder gives an image, as little-endian float32; comparable for equal weights alone."""

    __tablename__ = "image_code"
    __table_args__ = (UniqueConstraint("analysis_id", "sop_instance_uid"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    analysis_id: Mapped[int] = mapped_column(ForeignKey("analysis.id"))
    sop_instance_uid: Mapped[str] = mapped_column(UID)
    weights_digest: Mapped[str] = mapped_column(String(64), index=True)
    code: Mapped[bytes] = mapped_column(LargeBinary)


class BundleReference(Base):
    """What one output of a bundle gave on its reference images, kept when the bundle is gone.

    `quantiles` are at 0, 1, ... 100 %; `flag_rate` is the expected share above the threshold. None: not known.
    """

    __tablename__ = "bundle_reference"
    __table_args__ = (UniqueConstraint("bundle_digest", "label"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    bundle_digest: Mapped[str] = mapped_column(String(64))
    label: Mapped[str] = mapped_column(String(64))
    quantiles: Mapped[list[float] | None] = mapped_column(JSON(none_as_null=True))
    flag_rate: Mapped[float | None]


class Drift(Base):
    """How far what a source sends is from the reference of a bundle, over one window of images."""

    __tablename__ = "drift"
    __table_args__ = (
        _one_of("state", DriftState),
        Index(
            "ix_drift_source_ae_title_bundle_digest_label_period", "source_ae_title", "bundle_digest", "label", "period"
        ),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(index=True)
    source_ae_title: Mapped[str] = mapped_column(AE_TITLE)
    bundle_name: Mapped[str] = mapped_column(String(64))
    bundle_version: Mapped[str] = mapped_column(String(64))
    bundle_digest: Mapped[str] = mapped_column(String(64))
    label: Mapped[str] = mapped_column(String(64))
    period: Mapped[str] = mapped_column(String(8))
    window_start: Mapped[datetime]
    window_end: Mapped[datetime]
    n: Mapped[int]
    psi: Mapped[float | None]
    flag_rate: Mapped[float]
    lower: Mapped[float | None]
    upper: Mapped[float | None]
    state: Mapped[str] = mapped_column(String(8))


class EvidenceObject(Base):
    """A result as DICOM: its bytes lie in the spool before the first send and never change.

    `variant_of_id` names the object that says the same in the SOP Class that every peer was meant to take.
    """

    __tablename__ = "evidence_object"
    __table_args__ = (
        Index(
            "ix_evidence_object_with_file",
            "created_at",
            sqlite_where=text("purged_at IS NULL"),
            postgresql_where=text("purged_at IS NULL"),
        ),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("study_version.id"), index=True)
    variant_of_id: Mapped[int | None] = mapped_column(ForeignKey("evidence_object.id"), index=True)
    encoder: Mapped[str] = mapped_column(String(64))
    sop_class_uid: Mapped[str] = mapped_column(UID)
    sop_instance_uid: Mapped[str] = mapped_column(UID, unique=True)
    series_instance_uid: Mapped[str] = mapped_column(UID)
    description: Mapped[str] = mapped_column(LINE, default="")
    path: Mapped[str] = mapped_column(String(255))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    purged_at: Mapped[datetime | None]


class Destination(Base):
    """A peer that results go to: whether it answers (the circuit), and which process sends to it now.

    `failures` counts those in a row; `accepts` are the result SOP Classes of its last association; `busy_at` is when
    `served_by` last did something.
    """

    __tablename__ = "destination"
    __table_args__ = (_one_of("state", CircuitState),)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    state: Mapped[str] = mapped_column(String(16), default=CircuitState.CLOSED)
    failures: Mapped[int] = mapped_column(default=0)
    opened_at: Mapped[datetime | None]
    next_probe_at: Mapped[datetime | None]
    last_error: Mapped[str] = mapped_column(Text, default="")
    accepts: Mapped[list[str]] = mapped_column(default=list)
    served_by: Mapped[str | None] = mapped_column(String(128))
    busy_at: Mapped[datetime | None]


class Delivery(Base):
    """One evidence object on its way to one destination; back-off lives here, not in the engine.

    `sent_object_id` is fixed before the first send: the evidence object or a variant of it, and never another one.
    `created_at` is when it was put on its way, by the report or by an operator.
    """

    __tablename__ = "delivery"
    __table_args__ = (
        UniqueConstraint("evidence_object_id", "destination"),
        _one_of("state", DeliveryState),
        Index("ix_delivery_destination_state_next_at", "destination", "state", "next_at"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    evidence_object_id: Mapped[int] = mapped_column(ForeignKey("evidence_object.id"))
    destination: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime]
    next_at: Mapped[datetime]
    sent_object_id: Mapped[int | None] = mapped_column(ForeignKey("evidence_object.id"), index=True)
    dimse_status: Mapped[int | None]
    http_status: Mapped[int | None]
    error: Mapped[str] = mapped_column(Text, default="")
    settled_at: Mapped[datetime | None]
    transaction_uid: Mapped[str | None] = mapped_column(UID, index=True)
    commitment_requests: Mapped[int] = mapped_column(default=0)


class DeliveryAttempt(Base):
    """What came of one attempt to send: the status and the words of the peer, or why there were none."""

    __tablename__ = "delivery_attempt"
    __table_args__ = (Index("ix_delivery_attempt_delivery_id_number", "delivery_id", "number"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    delivery_id: Mapped[int] = mapped_column(ForeignKey("delivery.id"))
    number: Mapped[int]
    at: Mapped[datetime]
    duration_ms: Mapped[float]
    sop_instance_uid: Mapped[str] = mapped_column(UID)
    dimse_status: Mapped[int | None]
    http_status: Mapped[int | None]
    outcome: Mapped[str] = mapped_column(String(16))
    error: Mapped[str] = mapped_column(Text, default="")


class StorageCommitment(Base):
    """A request that a destination commit to objects, and when it answered. Standard: PS3.4 J.3."""

    __tablename__ = "storage_commitment"
    transaction_uid: Mapped[str] = mapped_column(UID, primary_key=True)
    destination: Mapped[str] = mapped_column(String(64))
    asked_at: Mapped[datetime]
    answered_at: Mapped[datetime | None]
    instances: Mapped[int]


class Quarantine(Base):
    """An object that cannot be understood: kept with its reason, never dropped."""

    __tablename__ = "quarantine"
    id: Mapped[int] = mapped_column(primary_key=True)
    received_at: Mapped[datetime] = mapped_column(index=True)
    calling_ae_title: Mapped[str] = mapped_column(AE_TITLE)
    calling_address: Mapped[str] = mapped_column(String(64))
    sop_class_uid: Mapped[str] = mapped_column(String(128))
    sop_instance_uid: Mapped[str] = mapped_column(String(128))
    transfer_syntax_uid: Mapped[str] = mapped_column(String(128))
    dimse_status: Mapped[int]
    reason: Mapped[str] = mapped_column(Text)
    path: Mapped[str] = mapped_column(String(255))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    purged_at: Mapped[datetime | None]


class Pause(Base):
    """A stage (or the deliveries to one destination) in which an operator lets nothing new start."""

    __tablename__ = "pause"
    stage: Mapped[str] = mapped_column(String(16), primary_key=True)
    destination: Mapped[str] = mapped_column(String(64), primary_key=True, default="")
    since: Mapped[datetime]
    actor: Mapped[str] = mapped_column(String(64))
    reason: Mapped[str] = mapped_column(LINE, default="")


class Chore(Base):
    """A piece of housekeeping that one process does at a time: when it last began, when it last ended."""

    __tablename__ = "chore"
    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    began_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]


class Heartbeat(Base):
    """A process of the node that is alive; one that is silent loses its work to another."""

    __tablename__ = "heartbeat"
    executor_id: Mapped[str] = mapped_column(String(128), primary_key=True)
    role: Mapped[str] = mapped_column(String(16))
    host: Mapped[str] = mapped_column(String(255))
    pid: Mapped[int]
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime]


class AuditEvent(Base):
    """Who or what did something, when, to which study version."""

    __tablename__ = "audit_event"
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(index=True)
    actor: Mapped[str] = mapped_column(String(64))
    action: Mapped[str] = mapped_column(String(64))
    version_id: Mapped[int | None] = mapped_column(ForeignKey("study_version.id"), index=True)
    detail: Mapped[dict[str, Any]] = mapped_column(default=dict)
