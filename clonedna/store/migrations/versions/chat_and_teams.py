"""Threads with their messages; teams with their slots and candidates."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "chat_and_teams"
down_revision = "0001"


def _texts(*names: str, nullable: bool = False) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.String, nullable=nullable) for name in names]


def upgrade() -> None:
    op.create_table(
        "threads",
        sa.Column("id", sa.String, primary_key=True),
        *_texts("title", "created_at", "updated_at", "model", "owner"),
        *_texts("persona", "team", nullable=True),
    )
    op.create_table(
        "messages",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("thread", sa.String, sa.ForeignKey("threads.id", ondelete="CASCADE"), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        *_texts("role"),
        sa.Column("text", sa.Text, nullable=False),
        *_texts("created_at"),
        *_texts("reply_to", nullable=True),
        sa.Column("answer", sa.Text, nullable=True),
        sa.UniqueConstraint("thread", "number", name="number_once"),
    )
    op.create_table("teams", sa.Column("id", sa.String, primary_key=True), *_texts("name", "created_at", "updated_at"))
    op.create_table(
        "slots",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("team", sa.String, sa.ForeignKey("teams.id", ondelete="CASCADE"), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        *_texts("role"),
        *_texts("selected", nullable=True),
        sa.Column("persona", sa.Text, nullable=True),
    )
    op.create_table(
        "candidates",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("slot", sa.String, sa.ForeignKey("slots.id", ondelete="CASCADE"), nullable=False),
        *_texts("key", "created_at"),
        sa.Column("candidate", sa.Text, nullable=False),
    )
    for table, column in _INDEXES:
        op.create_index(f"ix_{table}_{column}", table, [column])


_INDEXES = (
    ("threads", "updated_at"),
    ("threads", "team"),
    ("threads", "owner"),
    ("teams", "updated_at"),
    ("slots", "team"),
    ("candidates", "slot"),
)


def downgrade() -> None:
    for table in ("candidates", "slots", "teams", "messages", "threads"):
        op.drop_table(table)
