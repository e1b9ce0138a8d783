"""Tokens of a server."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "tokens"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "tokens",
        sa.Column("id", sa.String, primary_key=True),
        *(sa.Column(name, sa.String, nullable=False) for name in ("name", "scopes", "created_at")),
        sa.Column("lifetime", sa.Integer),
        *(sa.Column(name, sa.String) for name in ("expires_at", "used_at", "digest", "code_digest", "code_until")),
    )
    op.create_index("token_name_once", "tokens", ["name"], unique=True)
    op.create_index("token_code_once", "tokens", ["code_digest"], unique=True)


def downgrade() -> None:
    op.drop_table("tokens")
