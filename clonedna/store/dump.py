"""The database's rows as lines of JSON, table by table, and back: from SQLite or PostgreSQL into either, at one moment.

What the files of the store say (the catalogue, and what it is searched by) is not in it: ``reindex`` makes that. Nor is what lets somebody
in, but where it is asked for. A dump of an older form of the tables is loaded into that form and then brought up to the present one.
"""

from __future__ import annotations

import base64
import json
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime, time
from importlib import import_module
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Integer, MetaData, Table, insert, inspect, select, text

import clonedna.store
from clonedna.core.errors import BadConfig, Corrupt, InputError
from clonedna.store.database import Base, Database, errors
from clonedna.store.files import new_file

DERIVED = frozenset({"blocks", "lines", "summaries", "facets", "texts"})
SECRET = frozenset({"tokens"})
BRIEF = frozenset({"developer_sessions"})  # they end within the hour
BATCH = 500
_TIMES = {"datetime": datetime, "date": date, "time": time}


def tables(*, secrets: bool) -> tuple[str, ...]:
    """Names of the tables that are dumped, parents before children."""
    for module in pkgutil.iter_modules(clonedna.store.__path__):
        if module.name != "migrations":
            import_module(f"clonedna.store.{module.name}")  # each adds its tables to ``Base``
    left_out = DERIVED | BRIEF | (frozenset() if secrets else SECRET)
    return tuple(table.name for table in Base.metadata.sorted_tables if table.name not in left_out)


def dump(database: Database, folder: Path, *, secrets: bool) -> tuple[str, ...]:
    """Write ``<table>.jsonl`` for each table into ``folder``, all as of one moment; gives the form that they are in.

    Raises what opening the database raises, ``NoSpace``.
    """
    names = tables(secrets=secrets)
    with errors(), database.engine.connect() as opened:
        connection = _at_one_moment(opened, database)
        for name in names:
            table = Base.metadata.tables[name]
            with new_file(folder / f"{name}.jsonl") as file:
                for row in connection.execute(select(table).order_by(*table.primary_key.columns)).mappings():
                    line = json.dumps({key: _plain(row[key]) for key in names_of(table)}, ensure_ascii=False)
                    file.write(line.encode() + b"\n")
        form = tuple(sorted(connection.scalars(text("SELECT version_num FROM alembic_version"))))
        connection.rollback()
    return form


def load(database: Database, files: Mapping[str, Path], form: Iterable[str]) -> int:
    """Fill an empty database with a dump in ``form``; gives the rows. All of it is there afterwards, or nothing.

    Raises ``BadConfig`` for a form of a newer program, ``InputError`` when the database holds rows already, ``Corrupt`` for lines that are
    no rows.
    """
    known = tables(secrets=True)
    for head in sorted(form):
        database.upgrade(to=head)
    with errors():
        engine = database.open()
        there = set(inspect(engine).get_table_names())
        if unknown := sorted(set(files) - there):
            raise BadConfig(
                f"the backup has a table {unknown[0]!r} that this program does not know", "update clone-dna"
            )
        found = MetaData()
        found.reflect(engine, only=sorted(there & {*known, *DERIVED, *BRIEF}))
        wanted = [table for table in found.sorted_tables if table.name in files]
        with engine.begin() as connection:
            _refuse_rows(connection, found.sorted_tables)
            rows = sum(_fill(connection, table, files[table.name]) for table in wanted)
            if database.is_postgres:
                for table in wanted:
                    _set_sequences(connection, table)
    database.upgrade()
    return rows


def names_of(table: Table) -> list[str]:
    return [column.name for column in table.columns]


def _at_one_moment(connection: Connection, database: Database) -> Connection:
    if database.is_postgres:
        return connection.execution_options(isolation_level="REPEATABLE READ")
    connection.exec_driver_sql("BEGIN")  # of itself SQLite would see each SELECT at its own moment
    return connection


def _refuse_rows(connection: Connection, wanted: Iterable[Table]) -> None:
    for table in wanted:
        if connection.execute(select(table).limit(1)).first() is not None:
            raise InputError(f"the database holds {table.name} already", "restore into an empty database")


def _fill(connection: Connection, table: Table, path: Path) -> int:
    rows = 0
    for batch in _batches(path, set(names_of(table))):
        connection.execute(insert(table), batch)
        rows += len(batch)
    return rows


def _batches(path: Path, columns: set[str]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                row = {key: _value(value) for key, value in json.loads(line).items()}
            except (ValueError, AttributeError, KeyError, TypeError) as error:
                raise Corrupt(f"{path.name}: line {number} is no row", "use another backup") from error
            if set(row) != columns:
                raise Corrupt(f"{path.name}: line {number} has other columns than its table", "use another backup")
            batch.append(row)
            if len(batch) >= BATCH:
                yield batch
                batch = []
    if batch:
        yield batch


def _set_sequences(connection: Connection, table: Table) -> None:
    """PostgreSQL counts on from what it gave out itself, not from what was put in."""
    for column in table.primary_key.columns:
        if isinstance(column.type, Integer):
            sequence = connection.scalar(
                text("SELECT pg_get_serial_sequence(:table, :column)"), {"table": table.name, "column": column.name}
            )
            last = connection.scalar(select(column).order_by(column.desc()).limit(1))
            if sequence is not None and last is not None:
                connection.execute(
                    text("SELECT setval(CAST(:sequence AS regclass), :last)"), {"sequence": sequence, "last": last}
                )


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, (datetime, date, time)):
        return {f"${type(value).__name__}": value.isoformat()}
    return {"$json": value} if isinstance(value, dict) else value


def _value(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()  # type: ignore[misc]
    match kind[1:]:
        case "bytes":
            return base64.b64decode(inner, validate=True)
        case "json":
            return inner
        case name:
            return _TIMES[name].fromisoformat(inner)
