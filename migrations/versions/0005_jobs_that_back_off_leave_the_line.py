"""Jobs that back off leave the line, and jobs without labels their index."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_LINE: list[str | sa.ColumnElement[str]] = ["pool", "kind", "team_id", sa.literal_column("priority DESC"), "id"]
_QUEUED = sa.text("state = 'queued'")
_IN_LINE = sa.text("state = 'queued' AND rung_at IS NULL")
_DELAYED = sa.text("state = 'queued' AND rung_at IS NOT NULL")
_LABELLED = sa.text("labels <> '{}'::jsonb")
_OPS = {"labels": "jsonb_path_ops"}


def upgrade() -> None:
    op.drop_index("ix_jobs_queued", table_name="jobs", postgresql_where=_QUEUED)
    op.create_index("ix_jobs_queued", "jobs", _LINE, postgresql_where=_IN_LINE)
    op.create_index("ix_jobs_delayed", "jobs", ["available_at"], postgresql_where=_DELAYED)
    op.drop_index("ix_jobs_labels", table_name="jobs", postgresql_using="gin", postgresql_ops=_OPS)
    op.create_index(
        "ix_jobs_labels", "jobs", ["labels"], postgresql_where=_LABELLED, postgresql_using="gin", postgresql_ops=_OPS
    )


def downgrade() -> None:
    op.drop_index(
        "ix_jobs_labels", table_name="jobs", postgresql_where=_LABELLED, postgresql_using="gin", postgresql_ops=_OPS
    )
    op.create_index("ix_jobs_labels", "jobs", ["labels"], postgresql_using="gin", postgresql_ops=_OPS)
    op.drop_index("ix_jobs_delayed", table_name="jobs", postgresql_where=_DELAYED)
    op.drop_index("ix_jobs_queued", table_name="jobs", postgresql_where=_IN_LINE)
    op.create_index("ix_jobs_queued", "jobs", _LINE, postgresql_where=_QUEUED)
