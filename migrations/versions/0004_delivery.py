"""Destinations with their circuits, attempts, storage commitments, variants of evidence objects.

Revision: 0004, after 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

STATES = "state IN ('due', 'waiting', 'uncommitted', 'sent', 'committed', 'dead')"


def upgrade() -> None:
    destination = op.create_table(
        "destination",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("next_probe_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=False),
        sa.Column("accepts", sa.JSON(), nullable=False),
        sa.Column("served_by", sa.String(length=128), nullable=True),
        sa.Column("busy_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('closed', 'open', 'half_open')", name=op.f("ck_destination_state")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_destination")),
    )
    op.create_table(
        "storage_commitment",
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("destination", sa.String(length=64), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("instances", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("transaction_uid", name=op.f("pk_storage_commitment")),
    )
    _extend_evidence_object()
    _extend_delivery()
    op.create_table(
        "delivery_attempt",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("delivery_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("duration_ms", sa.Double(), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("dimse_status", sa.Integer(), nullable=True),
        sa.Column("http_status", sa.Integer(), nullable=True),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["delivery_id"], ["delivery.id"], name=op.f("fk_delivery_attempt_delivery_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_delivery_attempt")),
    )
    op.create_index("ix_delivery_attempt_delivery_id_number", "delivery_attempt", ["delivery_id", "number"])
    known = op.get_bind().execute(sa.text("SELECT DISTINCT destination FROM delivery")).scalars()
    rows = [{"name": name, "state": "closed", "failures": 0, "last_error": "", "accepts": []} for name in known]
    op.bulk_insert(destination, rows)


def _extend_evidence_object() -> None:
    # the same words on both databases: Alembic would copy the table on SQLite, and others refer to it
    op.execute(
        "ALTER TABLE evidence_object ADD COLUMN variant_of_id INTEGER "
        "CONSTRAINT fk_evidence_object_variant_of_id REFERENCES evidence_object (id)"
    )
    op.create_index(op.f("ix_evidence_object_variant_of_id"), "evidence_object", ["variant_of_id"])


def _extend_delivery() -> None:
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    if not is_sqlite:  # Alembic's copy on SQLite leaves check constraints behind
        op.drop_constraint(op.f("ck_delivery_state"), "delivery", type_="check")
    with op.batch_alter_table("delivery", recreate="always" if is_sqlite else "never") as batch_op:
        batch_op.add_column(sa.Column("sent_object_id", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("http_status", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("transaction_uid", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("commitment_requests", sa.Integer(), nullable=False, server_default="0"))
        batch_op.create_check_constraint(op.f("ck_delivery_state"), STATES)
        batch_op.create_foreign_key(op.f("fk_delivery_sent_object_id"), "evidence_object", ["sent_object_id"], ["id"])
        batch_op.create_index(op.f("ix_delivery_sent_object_id"), ["sent_object_id"], unique=False)
        batch_op.create_index(op.f("ix_delivery_transaction_uid"), ["transaction_uid"], unique=False)
        batch_op.create_index(
            "ix_delivery_destination_state_next_at", ["destination", "state", "next_at"], unique=False
        )
        batch_op.drop_index("ix_delivery_state_next_at")
