"""A model's life: versions for every team, aliases, what stands on what, and an end."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_KIND = sa.Enum("file", "tree", name="artefactkind", native_enum=False, create_constraint=True, length=16)
_ON_A_MODEL = sa.text("kind IN ('training', 'training_check', 'evaluation', 'export', 'verification')")


def upgrade() -> None:
    op.add_column("models", sa.Column("shared", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.create_index(
        "ix_models_base", "models", ["base_artefact_id"], postgresql_where=sa.text("base_artefact_id IS NOT NULL")
    )
    op.create_index("ix_models_shared", "models", ["id"], postgresql_where=sa.text("shared"))
    op.create_table(
        "model_names",
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("last_version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_model_names_team_id")),
        sa.PrimaryKeyConstraint("team_id", "name", name=op.f("pk_model_names")),
    )
    op.execute("INSERT INTO model_names SELECT team_id, name, max(version) FROM models GROUP BY team_id, name")
    op.create_table(
        "model_aliases",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("alias", sa.Text(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("moved_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_model_aliases_model_id")),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_model_aliases_team_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_aliases")),
        sa.UniqueConstraint("team_id", "name", "alias", name=op.f("uq_model_aliases_team_id_name_alias")),
    )
    op.create_index("ix_model_aliases_model", "model_aliases", ["model_id"])
    op.create_table(
        "removals",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("kind", _KIND, nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_removals")),
    )
    for field in ("model", "adapter"):
        columns: list[str | sa.TextClause] = ["team_id", sa.text(f"(spec ->> '{field}')"), sa.text("id DESC")]
        op.create_index(f"ix_jobs_{field}", "jobs", columns, postgresql_where=_ON_A_MODEL)


def downgrade() -> None:
    for field in ("adapter", "model"):
        op.drop_index(f"ix_jobs_{field}", "jobs")
    op.drop_table("removals")
    op.drop_table("model_aliases")
    op.drop_table("model_names")
    op.drop_index("ix_models_shared", "models")
    op.drop_index("ix_models_base", "models")
    op.drop_column("models", "shared")
