"""A line for each block to list and search by, what it is about, and its words. Filled from the manifests that are there.

Words of profiles are not in the database yet: `dna reindex` brings them in.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.orm import Session

from clonedna.store.lines import enter_known

revision = "lines"
down_revision = "0001"

_COLUMNS = ("name", "version_key", "status", "created_at", "base", "licence", "consent", "handle")


def upgrade() -> None:
    postgres = op.get_bind().dialect.name == "postgresql"
    exact = sa.String(collation="C") if postgres else sa.String()
    op.create_table(
        "lines",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("id", exact, nullable=False, unique=True),
        *(sa.Column(name, exact, nullable=False) for name in _COLUMNS),
        *(sa.Column(name, sa.Double, nullable=True) for name in ("maturity", "gain")),
        sqlite_autoincrement=True,
    )
    for name in ("created_at", "name", "maturity", "gain"):
        op.create_index(f"ix_lines_{name}", "lines", [name])
    op.create_table(
        "summaries",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
        *(sa.Column(name, exact, nullable=False) for name in ("line", "meaning")),
    )
    op.create_table(
        "facets",
        *(sa.Column(name, exact, primary_key=True) for name in ("id", "kind", "term")),
    )
    op.create_index("ix_facets_term", "facets", ["kind", "term", "id"])
    if postgres:
        op.execute("CREATE TABLE texts (number BIGINT PRIMARY KEY, words TSVECTOR NOT NULL)")
        op.execute("CREATE INDEX ix_texts_words ON texts USING gin (words)")
    else:
        op.execute(
            "CREATE VIRTUAL TABLE texts USING fts5(title, subject, told, profile, tokenize = 'unicode61 remove_diacritics 0')"
        )
    with Session(op.get_bind(), join_transaction_mode="rollback_only") as session:
        enter_known(session)


def downgrade() -> None:
    for table in ("texts", "facets", "summaries", "lines"):
        op.drop_table(table)
