"""The words of blocks, in whatever the database has for it: FTS5 of SQLite, tsvector of PostgreSQL.

Both see words that ``core.words`` made, letters and digits alone, and a query is built of such words between quotes: nothing that is
asked is ever read as the database's own syntax.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import BigInteger, Float, TextualSelect, column, text
from sqlalchemy.orm import Session

from clonedna.core.words import words

MOST = (64, 400, 800, 2000)  # words of each field


@dataclass(frozen=True, slots=True)
class Words:
    """A block's words by how much they tell: whose it is, what it is about, what it says it can do, the profile of its person."""

    title: str
    subject: str
    told: str
    profile: str

    def fields(self) -> list[list[str]]:
        found = (self.title, self.subject, self.told, self.profile)
        return [words(field, most) for field, most in zip(found, MOST, strict=True)]


def _is_postgres(session: Session) -> bool:
    return session.get_bind().dialect.name == "postgresql"


def add(session: Session, number: int, found: Words) -> None:
    """Keep the words of line ``number``, which has none yet."""
    fields = found.fields()
    if _is_postgres(session):
        session.execute(
            text("INSERT INTO texts (number, words) VALUES (:number, CAST(:words AS tsvector))"),
            {"number": number, "words": _lexemes(fields)},
        )
        return
    named = dict(zip(("title", "subject", "told", "profile"), map(" ".join, fields), strict=True))
    session.execute(
        text(
            "INSERT INTO texts (rowid, title, subject, told, profile) VALUES (:number, :title, :subject, :told, :profile)"
        ),
        {"number": number, **named},
    )


def drop(session: Session, numbers: Sequence[int]) -> None:
    """Forget the words of these lines."""
    key = "number" if _is_postgres(session) else "rowid"
    for number in numbers:
        session.execute(text(f"DELETE FROM texts WHERE {key} = :number"), {"number": number})  # noqa: S608 - our own names


def matching(session: Session, any_of: Sequence[str], all_of: Sequence[str]) -> TextualSelect:
    """Lines that have one of ``any_of`` (where there is one) and all of ``all_of``, as ``number`` and ``rank``: the smaller, the better.

    Give at least one word, made by ``core.words``.
    """
    either, both = (" OR ", " AND ") if not _is_postgres(session) else (" | ", " & ")
    quote = "'" if _is_postgres(session) else '"'
    alternatives = either.join(f"{quote}{word}{quote}" for word in any_of)
    parts = [f"({alternatives})"] * bool(any_of) + [f"{quote}{word}{quote}" for word in all_of]
    if _is_postgres(session):
        query = text(
            "SELECT number, -ts_rank('{0.1, 0.2, 0.5, 1.0}', words, CAST(:asked AS tsquery), 1) AS rank FROM texts"
            " WHERE words @@ CAST(:asked AS tsquery)"
        )
    else:
        query = text(
            "SELECT rowid AS number, bm25(texts, 8.0, 4.0, 2.0, 1.0) AS rank FROM texts WHERE texts MATCH :asked"
        )
    return query.bindparams(asked=both.join(parts)).columns(column("number", BigInteger), column("rank", Float))


def _lexemes(fields: list[list[str]]) -> str:
    """PostgreSQL's own form of a tsvector: each word with its places, and the weight of its field."""
    places: dict[str, list[str]] = {}
    at = 0
    for field, weight in zip(fields, "ABCD", strict=True):
        for word in field:
            at += 1
            if len(spots := places.setdefault(word, [])) < 200:
                spots.append(f"{at}{weight}")
    return " ".join(f"'{word}':{','.join(spots)}" for word, spots in places.items())
