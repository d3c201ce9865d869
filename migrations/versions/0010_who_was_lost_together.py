"""What a worker was lost with is looked up when it is lost: any of it may be why."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    lost = sa.text("outcome = 'lost'")
    op.create_index("ix_attempts_lost", "attempts", ["worker_id", "ended_at"], postgresql_where=lost)


def downgrade() -> None:
    op.drop_index("ix_attempts_lost", table_name="attempts", postgresql_where=sa.text("outcome = 'lost'"))
