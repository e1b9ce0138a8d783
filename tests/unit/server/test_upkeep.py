"""A server's home from afar: for its administrator alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from clonedna.app.usage import DAY
from clonedna.client import Client
from clonedna.core.errors import Refused, Unauthorised
from tests.serving import ServerParts, running
from tests.sharing import put

KEY, ADMIN = "0123456789abcdef-key", "0123456789abcdef-admin"


def test_df_and_prune_from_afar(tmp_path: Path) -> None:
    parts = ServerParts(tmp_path / "home", min_free_bytes=0, api_key=KEY, admin_key=ADMIN)
    put(parts, "ada", size=5000)
    dead = tmp_path / "home/staging/dead"
    dead.mkdir(parents=True)
    with running(parts, whole=True) as url:
        for token, kind in (("", Unauthorised), (KEY, Refused)):
            with Client(url, token) as client:
                with pytest.raises(kind):
                    client.home.usage()
                with pytest.raises(kind):
                    client.home.prune()
        dead.mkdir(parents=True, exist_ok=True)
        (dead / "x").write_bytes(bytes(700))
        with Client(url, ADMIN) as client:
            assert client.home.usage().kinds["blocks"].bytes > 5000
            said = client.home.prune(dry_run=True)
            assert (said.bytes, [one.path for one in said.removed]) == (700, ["staging/dead"])
            assert dead.exists()
            assert client.home.prune(older_than=0.5 * DAY, blocks=True).bytes == 700
            assert not dead.exists()
            assert "arriving" not in client.home.usage().kinds
