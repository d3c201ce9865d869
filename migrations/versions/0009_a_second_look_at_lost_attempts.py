"""What lost attempts left in the store is looked for twice: their workers may have gone on writing."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_SWEPT_ONCE = sa.text("outcome = 'lost' AND swept AND NOT swept_again")


def upgrade() -> None:
    op.add_column("attempts", sa.Column("swept_again", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.create_index("ix_attempts_swept_once", "attempts", ["ended_at"], postgresql_where=_SWEPT_ONCE)


def downgrade() -> None:
    op.drop_index("ix_attempts_swept_once", table_name="attempts", postgresql_where=_SWEPT_ONCE)
    op.drop_column("attempts", "swept_again")
