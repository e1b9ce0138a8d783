"""A backup between homes on SQLite and on PostgreSQL, both ways."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from clonedna.app.backing import backup, restore
from clonedna.app.blocks import Blocks
from clonedna.core.errors import InputError
from clonedna.store.threads import SqlThreads
from tests.databases import KINDS, new_url
from tests.serving import ServerParts
from tests.sharing import put


def home(kind: str, folder: Path) -> ServerParts:
    folder.mkdir()
    return ServerParts(folder / "home", min_free_bytes=0, database_url=SecretStr(new_url(kind, folder)))


@pytest.mark.parametrize("there", KINDS)
@pytest.mark.parametrize("here", KINDS)
def test_from_one_to_the_other(here: str, there: str, tmp_path: Path) -> None:
    mine, theirs = home(here, tmp_path / "mine"), home(there, tmp_path / "theirs")
    made = put(mine, "ada")
    SqlThreads(mine.database).create("kept")
    backup(mine, tmp_path / "a.tar")
    done = restore(theirs.settings, tmp_path / "a.tar")
    assert (done.blocks, done.rows, done.left_out) == (1, 1, ())
    assert Blocks(theirs).verified("ada")[0] == made
    assert [one.title for one in SqlThreads(theirs.database).page(limit=9).threads] == ["kept"]
    other = theirs.settings.model_copy(update={"home": tmp_path / "other"})
    with pytest.raises(InputError, match="holds"):
        restore(other, tmp_path / "a.tar")
    assert not other.home.exists()
    assert Blocks(theirs).verified("ada")[0] == made
