"""Pauses, chores, and what retention removed.

Revision: 0006, after 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0004"
branch_labels = None
depends_on = None

PURGED_TABLES = ("study", "sop_instance", "evidence_object", "quarantine")


def upgrade() -> None:
    op.create_table(
        "pause",
        sa.Column("stage", sa.String(length=16), nullable=False),
        sa.Column("destination", sa.String(length=64), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.String(length=1024), nullable=False),
        sa.PrimaryKeyConstraint("stage", "destination", name=op.f("pk_pause")),
    )
    op.create_table(
        "chore",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("began_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_chore")),
    )
    for table in PURGED_TABLES:
        op.add_column(table, sa.Column("purged_at", sa.DateTime(timezone=True), nullable=True))
    for table, name, column in (
        ("study", "ix_study_with_files", "first_received_at"),
        ("evidence_object", "ix_evidence_object_with_file", "created_at"),
    ):
        held = sa.text("purged_at IS NULL")
        op.create_index(name, table, [column], sqlite_where=held, postgresql_where=held)
