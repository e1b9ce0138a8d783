"""Sessions of people who proved that an account is theirs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "developers"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "developer_sessions",
        sa.Column("digest", sa.String, primary_key=True),
        *(sa.Column(name, sa.String, nullable=False) for name in ("nonce", "host")),
        sa.Column("account_id", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.String, nullable=False) for name in ("login", "key", "proved_at", "expires_at")),
    )
    op.create_index("developer_nonce_once", "developer_sessions", ["nonce"], unique=True)
    op.create_index("ix_developer_sessions_expires_at", "developer_sessions", ["expires_at"])


def downgrade() -> None:
    op.drop_table("developer_sessions")
