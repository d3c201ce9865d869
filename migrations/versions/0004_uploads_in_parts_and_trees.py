"""Uploads in parts, trees, and what the sweeper looks for."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_KIND = sa.Enum("file", "tree", name="artefactkind", native_enum=False, create_constraint=True, length=16)
_PENDING = sa.text("state = 'pending'")
_UNSWEPT = sa.text("outcome <> 'succeeded' AND NOT swept")
_OVER = sa.text("state <> 'pending'")


def upgrade() -> None:
    op.create_table(
        "uploads",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("artefact_id", sa.Uuid(), nullable=False),
        sa.Column("upload", sa.Text(), nullable=False),
        sa.Column("part_bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["artefact_id"], ["artefacts.id"], name=op.f("fk_uploads_artefact_id")),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_uploads")),
    )
    op.create_index("ix_uploads_artefact", "uploads", ["artefact_id"])
    op.add_column("artefacts", sa.Column("kind", _KIND, server_default=sa.text("'file'"), nullable=False))
    op.add_column(
        "artefacts", sa.Column("asked_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False)
    )
    op.create_index("ix_artefacts_pending", "artefacts", ["asked_at"], postgresql_where=_PENDING)
    op.create_index("ix_artefacts_resumable", "artefacts", ["team_id", "sha256"], postgresql_where=_PENDING)
    op.add_column("attempts", sa.Column("swept", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.create_index("ix_attempts_unswept", "attempts", ["ended_at"], postgresql_where=_UNSWEPT)
    op.create_index("ix_webhook_deliveries_over", "webhook_deliveries", ["created_at"], postgresql_where=_OVER)


def downgrade() -> None:
    op.drop_index("ix_webhook_deliveries_over", table_name="webhook_deliveries", postgresql_where=_OVER)
    op.drop_index("ix_attempts_unswept", table_name="attempts", postgresql_where=_UNSWEPT)
    op.drop_column("attempts", "swept")
    op.drop_index("ix_artefacts_resumable", table_name="artefacts", postgresql_where=_PENDING)
    op.drop_index("ix_artefacts_pending", table_name="artefacts", postgresql_where=_PENDING)
    op.drop_column("artefacts", "asked_at")
    op.drop_column("artefacts", "kind")
    op.drop_index("ix_uploads_artefact", table_name="uploads")
    op.drop_table("uploads")
