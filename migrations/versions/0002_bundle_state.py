"""Bundles have states; analyses say whether a shadow made them and what ran the network.

Revision: 0002, after 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "bundle_state",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("replaces", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.CheckConstraint("state IN ('installed', 'shadow', 'active', 'retired')", name=op.f("ck_bundle_state_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bundle_state")),
    )
    op.create_index("ix_bundle_state_name_id", "bundle_state", ["name", "id"], unique=False)
    # no batch: it would build the table anew on SQLite, and dropping the old one fails where rows point at it
    op.add_column("analysis", sa.Column("is_shadow", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("analysis", sa.Column("backend", sa.String(length=32), server_default="", nullable=False))
