"""The catalogue of blocks. Homes from before migrations have this table already."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_TAKES_ITS_NAME = sa.text("status != 'rejected'")


def upgrade() -> None:
    columns = ("name", "version", "status", "created_at", "base", "licence", "consent", "handle", "manifest")
    op.create_table(
        "blocks",
        sa.Column("id", sa.String, primary_key=True),
        *(sa.Column(name, sa.String, nullable=False) for name in columns),
        if_not_exists=True,
    )
    for name in ("name", "created_at"):
        op.create_index(f"ix_blocks_{name}", "blocks", [name], if_not_exists=True)
    op.create_index(
        "name_and_version_once", "blocks", ["name", "version"], unique=True, if_not_exists=True,
        sqlite_where=_TAKES_ITS_NAME, postgresql_where=_TAKES_ITS_NAME,
    )  # fmt: skip


def downgrade() -> None:
    op.drop_table("blocks")
