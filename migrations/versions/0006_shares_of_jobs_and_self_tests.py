"""Jobs that do a share of another one's work, and what workers find at their start."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_PARTS = sa.text("part_of IS NOT NULL")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("part_of", sa.Uuid(), nullable=True))
    op.create_index("ix_jobs_parts", "jobs", ["part_of"], postgresql_where=_PARTS)
    op.add_column(
        "workers",
        sa.Column("self_test", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
    )


def downgrade() -> None:
    op.drop_column("workers", "self_test")
    op.drop_index("ix_jobs_parts", table_name="jobs", postgresql_where=_PARTS)
    op.drop_column("jobs", "part_of")
