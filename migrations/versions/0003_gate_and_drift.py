"""The setting of the anomaly gate, explanations, codes of images, drift.

Revision: 0003, after 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "bundle_reference",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("bundle_digest", sa.String(length=64), nullable=False),
        sa.Column("label", sa.String(length=64), nullable=False),
        sa.Column("quantiles", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("flag_rate", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bundle_reference")),
        sa.UniqueConstraint("bundle_digest", "label", name=op.f("uq_bundle_reference_bundle_digest_label")),
    )
    op.create_table(
        "drift",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("source_ae_title", sa.String(length=16), nullable=False),
        sa.Column("bundle_name", sa.String(length=64), nullable=False),
        sa.Column("bundle_version", sa.String(length=64), nullable=False),
        sa.Column("bundle_digest", sa.String(length=64), nullable=False),
        sa.Column("label", sa.String(length=64), nullable=False),
        sa.Column("period", sa.String(length=8), nullable=False),
        sa.Column("window_start", sa.DateTime(timezone=True), nullable=False),
        sa.Column("window_end", sa.DateTime(timezone=True), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("psi", sa.Double(), nullable=True),
        sa.Column("flag_rate", sa.Double(), nullable=False),
        sa.Column("lower", sa.Double(), nullable=True),
        sa.Column("upper", sa.Double(), nullable=True),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.CheckConstraint("state IN ('ok', 'watch', 'alarm')", name=op.f("ck_drift_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_drift")),
    )
    with op.batch_alter_table("drift", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_drift_at"), ["at"], unique=False)
        batch_op.create_index(
            "ix_drift_source_ae_title_bundle_digest_label_period",
            ["source_ae_title", "bundle_digest", "label", "period"],
            unique=False,
        )

    op.create_table(
        "explanation",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("analysis_id", sa.Integer(), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("label", sa.String(length=64), nullable=False),
        sa.Column("method", sa.String(length=16), nullable=False),
        sa.Column("path", sa.String(length=255), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("columns", sa.Integer(), nullable=False),
        sa.Column("maximum", sa.Double(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["analysis_id"], ["analysis.id"], name=op.f("fk_explanation_analysis_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_explanation")),
        sa.UniqueConstraint(
            "analysis_id", "sop_instance_uid", "label", name=op.f("uq_explanation_analysis_id_sop_instance_uid_label")
        ),
    )
    op.create_table(
        "image_code",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("analysis_id", sa.Integer(), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("weights_digest", sa.String(length=64), nullable=False),
        sa.Column("code", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["analysis_id"], ["analysis.id"], name=op.f("fk_image_code_analysis_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_image_code")),
        sa.UniqueConstraint("analysis_id", "sop_instance_uid", name=op.f("uq_image_code_analysis_id_sop_instance_uid")),
    )
    with op.batch_alter_table("image_code", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_image_code_weights_digest"), ["weights_digest"], unique=False)

    with op.batch_alter_table("analysis", schema=None) as batch_op:
        batch_op.add_column(sa.Column("when_unusual", sa.String(length=16), server_default="show", nullable=False))
        batch_op.create_index(batch_op.f("ix_analysis_finished_at"), ["finished_at"], unique=False)

    with op.batch_alter_table("finding", schema=None) as batch_op:
        batch_op.add_column(sa.Column("is_from_unusual", sa.Boolean(), server_default=sa.false(), nullable=False))
