"""Who was given a block."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "holders"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "holders",
        *(sa.Column(name, sa.String, primary_key=True) for name in ("block_id", "way", "who")),
        *(sa.Column(name, sa.String, nullable=False) for name in ("first_at", "last_at")),
        sa.Column("times", sa.Integer, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("holders")
