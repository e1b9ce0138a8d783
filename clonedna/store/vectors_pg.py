"""An index of vectors in PostgreSQL with pgvector: for homes on several machines that share a database. Searched exactly.

The table is a cache as the files are: made when it is first needed, in no dump and no migration, and what it lost is encoded again.
Each call is a transaction of its own, so what one process removes the next search of any other does not find.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import ARRAY, Float, String, and_, any_, bindparam, column, delete, select, table, text

from clonedna.core.errors import BadConfig, InputError, Unavailable
from clonedna.core.vectors import Hit, Vectors
from clonedna.store.vectors_file import Rows, checked

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from clonedna.store.database import Database

BATCH = 1000  # rows of one statement
_LOCK = 7_361_440_022  # our advisory lock while the table is made
_TABLE = """CREATE TABLE IF NOT EXISTS dna_vectors (
  space text NOT NULL, encoder text NOT NULL, key text COLLATE "C" NOT NULL, row vector NOT NULL, PRIMARY KEY (space, encoder, key))"""
_ROWS = table("dna_vectors", column("space"), column("encoder"), column("key"), column("row"))


class PgVectors:
    """Fulfils ``core.seams.Index`` for the vectors of one encoder. ``space``: what the keys are of (blocks, exemplars)."""

    searched = "exact"

    def __init__(self, database: Database, space: str, encoder: str, dimension: int) -> None:
        """Raises ``BadConfig`` for another database than PostgreSQL."""
        if not database.is_postgres:
            raise BadConfig(
                "index is 'pgvector', and the database is not PostgreSQL", "set database_url, or index = 'files'"
            )
        self.encoder, self.dimension = encoder, dimension
        self._database, self._named = database, {"space": space, "encoder": encoder}
        self._mine = and_(_ROWS.c.space == space, _ROWS.c.encoder == encoder)
        self._lock, self._ready = threading.Lock(), False

    def add(self, keys: Sequence[str], vectors: Vectors) -> None:
        """Keep a row for each key, in place of one that it has. Raises ``InputError``, ``Unavailable`` (no pgvector there), ``NoSpace``."""
        rows = checked(vectors, self.encoder, self.dimension)
        if len(keys) != len(rows) or len(set(keys)) != len(keys):
            raise InputError(f"{len(keys)} keys for {len(rows)} vectors", "give one vector for each key, each key once")
        made = [{**self._named, "key": key, "row": _told(row)} for key, row in zip(keys, rows, strict=True)]
        statement = text(
            "INSERT INTO dna_vectors (space, encoder, key, row) VALUES (:space, :encoder, :key, CAST(:row AS vector))"
            " ON CONFLICT (space, encoder, key) DO UPDATE SET row = excluded.row"
        )
        if made:
            self._make()
            with self._database.session() as session:
                for start in range(0, len(made), BATCH):
                    session.execute(statement, made[start : start + BATCH])

    def remove(self, keys: Collection[str]) -> None:
        """Take them out; unknown keys are ignored."""
        if keys:
            self._make()
            with self._database.session() as session:
                session.execute(delete(_ROWS).where(self._mine, _ROWS.c.key == _any(keys)))

    def keys(self) -> frozenset[str]:
        """All that it has."""
        self._make()
        with self._database.session() as session:
            return frozenset(session.scalars(select(_ROWS.c.key).where(self._mine)))

    def search(self, vectors: Vectors, most: int, *, among: Collection[str] | None = None) -> tuple[Hit, ...]:
        """The nearest by the mean of the cosines with all rows of ``vectors``, at most ``most``; of equals, by key."""
        asked = checked(vectors, self.encoder, self.dimension)
        if not len(asked) or most < 1 or (among is not None and not among):
            return ()
        self._make()
        # Rows have length 1: the mean of cosines is the inner product with the mean, of which <#> is the negative.
        near = _ROWS.c.row.op("<#>", return_type=Float())(text("CAST(:wanted AS vector)"))
        statement = select(_ROWS.c.key, -near).where(self._mine).order_by(near, _ROWS.c.key).limit(most)
        if among is not None:
            statement = statement.where(_ROWS.c.key == _any(among))
        with self._database.session() as session:
            found = session.execute(statement, {"wanted": _told(asked.mean(axis=0))}).all()
        return tuple(Hit(key, float(cosine)) for key, cosine in found)

    def settle(self) -> str:
        """Nothing is to be done."""
        return self.searched

    def _make(self) -> None:
        """The extension and the table, once for a process. Raises ``Unavailable``."""
        with self._lock:
            if not self._ready:
                with self._database.session() as session:
                    make_table(session)
                self._ready = True


def make_table(session: Session) -> None:
    """Make the table where it is not there. Raises ``Unavailable`` where this PostgreSQL has no pgvector."""
    session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    if session.scalar(text("SELECT count(*) FROM pg_extension WHERE extname = 'vector'")):
        session.execute(text(_TABLE))
        return
    if not session.scalar(text("SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'")):
        raise Unavailable(
            "this PostgreSQL has no pgvector",
            "install it on the database's machine, or set index = 'files': docs/genomes.md",
        )
    session.execute(text("CREATE EXTENSION vector"))
    session.execute(text(_TABLE))


def forget(database: Database, space: str, keys: Collection[str] | None) -> None:
    """Take ``keys`` (``None``: all) of a space out of the index, whichever encoder made them. Where there is no table, nothing is done."""
    with database.session() as session:
        if (keys is not None and not keys) or session.scalar(text("SELECT to_regclass('dna_vectors')")) is None:
            return
        statement = delete(_ROWS).where(_ROWS.c.space == space)
        session.execute(statement if keys is None else statement.where(_ROWS.c.key == _any(keys)))


def _any(keys: Collection[str]) -> Any:
    """One parameter for all of them, however many."""
    return any_(bindparam("keys", [*keys], type_=ARRAY(String)))


def _told(row: Rows) -> str:
    return "[" + ",".join(f"{value:.9g}" for value in row.tolist()) + "]"
