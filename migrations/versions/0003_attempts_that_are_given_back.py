"""An attempt may end because its worker was told to stop."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_BEFORE = ("succeeded", "failed", "cancelled", "lost")


def upgrade() -> None:
    _allow((*_BEFORE, "released"))


def downgrade() -> None:
    op.execute("UPDATE attempts SET outcome = 'lost' WHERE outcome = 'released'")
    _allow(_BEFORE)


def _allow(outcomes: tuple[str, ...]) -> None:
    name = op.f("ck_attempts_outcome")
    op.drop_constraint(name, "attempts", type_="check")
    op.create_check_constraint(name, "attempts", sa.column("outcome").in_(outcomes))
