"""A home goes into one file and comes out of it whole; nothing else comes out, and nothing is ever half."""

from __future__ import annotations

import io
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from clonedna.app.backing import Entry, Listing, backup, restore
from clonedna.app.blocks import Blocks
from clonedna.app.catalogue import Catalogue
from clonedna.app.consent import Consent
from clonedna.app.keys import Keys
from clonedna.app.revoking import Revoking
from clonedna.app.settings import Settings
from clonedna.app.tokens import TokenOrder, Tokens
from clonedna.core.canonical import canonical, sha256, strict_json
from clonedna.core.errors import BadConfig, BadReference, BlockRevoked, Corrupt, DnaError, InputError
from clonedna.core.work import Identity
from clonedna.store.threads import SqlThreads
from tests.serving import ServerParts
from tests.sharing import put

ME = Identity(name="Ada Example", email="ada@example.org")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with everything that a backup takes."""
    parts = ServerParts(tmp_path_factory.mktemp("made") / "home", min_free_bytes=0)
    own = canonical(parts.consents.grant_self(ME, [ME], "local:x"))
    put(parts, "ada", own, consent_mode="self", size=100_000)
    put(parts, "bob")
    put(parts, "bob", version="1.1.0", note="2")
    put(parts, "gone")
    Revoking(parts).block("gone")
    assert len(parts.store.revoked()) == 1  # type: ignore[attr-defined]
    threads = SqlThreads(parts.database)
    threads.create('About \N{SNOWMAN} "rows"\n')
    threads.create("Empty")
    Tokens(parts).new(TokenOrder(name="laptop", scopes=("read",)))
    return parts.settings.home


@pytest.fixture
def parts(made: Path, tmp_path: Path) -> ServerParts:
    """A copy of it."""
    shutil.copytree(made, tmp_path / "home")
    return ServerParts(tmp_path / "home", min_free_bytes=0)


def settings(home: Path) -> Settings:
    return Settings(home=home, base="fake", min_free_bytes=0)


def rows(parts: ServerParts, table: str) -> list[tuple[object, ...]]:
    with parts.database.session() as session:
        return sorted(tuple(row) for row in session.execute(text(f"SELECT * FROM {table}")))


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {one.name: file.read() for one in tar if (file := tar.extractfile(one))}


def written(path: Path, entries: dict[str, bytes], **types: bytes) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in entries.items():
            info = tarfile.TarInfo(name)
            info.size, info.type = len(data), types.get(name, tarfile.REGTYPE)
            tar.addfile(info, io.BytesIO(data))
    return path


def listed(entries: dict[str, bytes], **changes: object) -> dict[str, bytes]:
    """With a listing that fits."""
    own = {name: data for name, data in entries.items() if name != "backup.json"}
    old = strict_json(entries["backup.json"])
    table = {name: Entry(size=len(data), sha256=sha256(data)) for name, data in own.items()}
    listing = Listing.model_validate(old | changes | {"entries": table})
    return own | {"backup.json": canonical(listing)}


def files(home: Path, *left_out: str) -> dict[str, bytes]:
    return {
        name: path.read_bytes()
        for path in sorted(home.rglob("*"))
        if path.is_file() and not (name := str(path.relative_to(home))).startswith(("registry", "staging", "work", *left_out))
        and not path.name.startswith(".") and path.name != "lock"
    }  # fmt: skip


def test_everything_comes_back(parts: ServerParts, tmp_path: Path) -> None:
    done = backup(parts, tmp_path / "a.tar", secrets=True)
    assert (done.blocks, done.secrets, done.bytes) == (3, True, (tmp_path / "a.tar").stat().st_size)
    made = restore(settings(tmp_path / "new"), tmp_path / "a.tar")
    assert (made.blocks, made.left_out, made.secrets) == (3, (), True)
    assert files(tmp_path / "new") == files(parts.settings.home)
    assert {path.name for path in (tmp_path / "new").glob("registry*")} == {
        "registry.sqlite",
        "registry.sqlite.lock",
    }  # closed when moved
    there = ServerParts(tmp_path / "new", min_free_bytes=0)
    assert {one.id for one in there.registry.manifests()} == {one.id for one in parts.registry.manifests()}
    for reference in ("ada", "bob@1.0.0", "bob@1.1.0"):
        assert Blocks(there).verified(reference)[0] == Blocks(parts).verified(reference)[0]
    with pytest.raises(BlockRevoked):
        Blocks(there).verified(next(iter(parts.store.revoked())))  # type: ignore[attr-defined]
    assert Consent(there).verify_log().ok
    assert Consent(there).log() == Consent(parts).log()
    assert Catalogue(there).reindex(vectors=False).left_out == ()
    assert rows(there, "threads") == rows(parts, "threads") != []
    assert Tokens(there).list() == Tokens(parts).list()
    assert Keys(there).own() == Keys(parts).own()


def test_without_secrets_another_machine_believes_what_this_one_signed(parts: ServerParts, tmp_path: Path) -> None:
    done = backup(parts, tmp_path)
    assert Path(done.path).parent == tmp_path
    names = set(members(Path(done.path)))
    assert not [name for name in names if "private" in name or name.endswith(("keys/own", "tokens.jsonl"))]
    assert not any(b"PRIVATE KEY" in data for data in members(Path(done.path)).values())
    made = restore(settings(tmp_path / "new"), Path(done.path))
    assert (made.blocks, made.secrets, made.left_out) == (3, False, ())
    there = ServerParts(tmp_path / "new", min_free_bytes=0)
    assert Blocks(there).verified("ada")[0].name == "ada"
    assert Tokens(there).list() == ()
    assert Keys(there).own().identity != Keys(parts).own().identity
    Revoking(there).block("ada")
    assert Consent(there).verify_log().ok


def test_what_is_there_is_never_overwritten(parts: ServerParts, tmp_path: Path) -> None:
    backup(parts, tmp_path / "a.tar")
    before = (tmp_path / "a.tar").read_bytes()
    with pytest.raises(BadReference):
        backup(parts, tmp_path / "a.tar")
    assert (tmp_path / "a.tar").read_bytes() == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    for home in (tmp_path / "full", tmp_path / "full" / "x", parts.settings.home):
        with pytest.raises(InputError):
            restore(settings(home), tmp_path / "a.tar")
    assert (tmp_path / "full" / "x").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert restore(settings(tmp_path / "empty"), tmp_path / "a.tar").blocks == 3


def nothing_of(home: Path) -> bool:
    return not home.exists() and not list(home.parent.glob(f".{home.name}*"))


def test_a_backup_that_was_changed_is_refused(parts: ServerParts, tmp_path: Path) -> None:
    backup(parts, tmp_path / "a.tar")
    data, good = (tmp_path / "a.tar").read_bytes(), members(tmp_path / "a.tar")
    weights = next(name for name in good if name.endswith("adapter_model.safetensors"))
    bad = tmp_path / "bad.tar"

    def bytes_(value: bytes) -> Path:
        bad.write_bytes(value)
        return bad

    flipped = bytearray(data)
    flipped[data.index(b"# Ada") + 3] ^= 1
    cases: dict[str, Callable[[], Path]] = {
        "flipped": lambda: bytes_(bytes(flipped)), "cut": lambda: bytes_(data[: len(data) // 2]),
        "cut at the end": lambda: bytes_(data[:-12000]), "empty": lambda: bytes_(b""), "no tar": lambda: bytes_(b"x" * 4096),
        "a file less": lambda: written(bad, {k: v for k, v in good.items() if k != weights}),
        "a file more": lambda: written(bad, {"home/people.json": b"[]", **good}),
        "out of the home": lambda: written(bad, listed({**good, "home/../../evil": b"x"})),
        "absolute": lambda: written(bad, listed({**good, "/etc/evil": b"x"})),
        "hidden": lambda: written(bad, listed({**good, "home/.bashrc": b"x"})),
        "elsewhere": lambda: written(bad, listed({**good, "evil/x": b"x"})),
        "a link": lambda: written(bad, listed({"home/people.json": b"", **good}), **{"home/people.json": tarfile.SYMTYPE}),
        "a device": lambda: written(bad, listed({"home/people.json": b"", **good}), **{"home/people.json": tarfile.CHRTYPE}),
        "no listing": lambda: written(bad, {k: v for k, v in good.items() if k != "backup.json"}),
        "rows that are none": lambda: written(bad, listed(good | {"database/threads.jsonl": b"[1]\n"})),
        "rows of another table": lambda: written(bad, listed(good | {"database/threads.jsonl": b'{"id": 1}\n'})),
        "another format": lambda: written(bad, good | {"backup.json": good["backup.json"].replace(b"dna-backup/1", b"dna-backup/9")}),
    }  # fmt: skip
    for what, make in cases.items():
        with pytest.raises(Corrupt) as caught:
            restore(settings(tmp_path / "new"), make())
        assert caught.value.hint, what
        assert nothing_of(tmp_path / "new"), what
    for entries in (listed(good, database=["9999"]), listed(good | {"database/novel.jsonl": b""})):
        with pytest.raises(BadConfig, match=r"newer|not know"):
            restore(settings(tmp_path / "new"), written(bad, entries))
        assert nothing_of(tmp_path / "new")
    with pytest.raises(InputError):
        restore(settings(tmp_path / "new"), tmp_path / "none.tar")


def test_an_older_form_of_the_tables_is_brought_up(parts: ServerParts, tmp_path: Path) -> None:
    backup(parts, tmp_path / "a.tar")
    kept = {name: data for name, data in members(tmp_path / "a.tar").items() if not name.startswith("database/")}
    older = written(tmp_path / "older.tar", listed(kept, database=["0001"]))
    made = restore(settings(tmp_path / "new"), older)
    assert (made.blocks, made.rows) == (3, 0)
    assert rows(ServerParts(tmp_path / "new"), "threads") == []


def test_a_block_that_was_damaged_before_is_named(parts: ServerParts, tmp_path: Path) -> None:
    ada = parts.registry.resolve("ada").id
    (parts.store.path(ada) / "profile.md").write_text("?")
    backup(parts, tmp_path / "a.tar")
    made = restore(settings(tmp_path / "new"), tmp_path / "a.tar")
    assert made.blocks == 2
    assert [(one.path, one.reason) for one in made.left_out] == [(ada, "block_corrupt")]


def test_what_is_arriving_or_left_of_jobs_is_not_in_it(parts: ServerParts, tmp_path: Path) -> None:
    home = parts.settings.home
    for name in (
        "jobs/j/order.json",
        "sealed/x/y",
        "staging/x/y",
        "pulls/x/part",
        "clones/c/x",
        "servers/a.json",
        "github/x",
        "vectors/v",
    ):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("secret")
    backup(parts, tmp_path / "a.tar", secrets=True)
    assert not [name for name, data in members(tmp_path / "a.tar").items() if data == b"secret"]


KILLED = """
import sys, time
from pathlib import Path
from clonedna.app import backing
from clonedna.app.parts import Parts
from clonedna.app.settings import Settings
copy = backing._Counted.read
def slow(self, most=-1):
    print("reading", flush=True)
    time.sleep(0.2)
    return copy(self, most)
backing._Counted.read = slow
backing.backup(Parts(Settings(home=Path(sys.argv[1]), min_free_bytes=0)), Path(sys.argv[2]))
"""


def test_a_killed_backup_leaves_nothing_half(parts: ServerParts, tmp_path: Path) -> None:
    out = tmp_path / "out" / "a.tar"
    out.parent.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(parts.settings.home), str(out)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for _ in range(3):
        assert process.stdout.readline() == "reading\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert [path.name for path in out.parent.iterdir()] == [".a.tar.partial"]
    backup(parts, out)
    assert [path.name for path in out.parent.iterdir()] == ["a.tar"]
    assert restore(settings(tmp_path / "new"), out).blocks == 3


def test_blocks_come_and_go_while_it_is_made(
    parts: ServerParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever happens in the middle: what is in it is whole, and what was revoked stays revoked."""
    from clonedna.app import backing

    copy, happened = backing._Writer._copy, list[str]()

    def meanwhile(self: backing._Writer, name: str, file: io.BufferedReader) -> None:
        copy(self, name, file)
        if name.startswith("home/store/blocks") and not happened:
            happened.append(name)
            ada = parts.registry.resolve("ada")
            Blocks(parts).remove("bob@1.1.0")
            Revoking(parts).block(ada.id)
            put(parts, "later")

    monkeypatch.setattr(backing._Writer, "_copy", meanwhile)
    backup(parts, tmp_path / "a.tar")
    made = restore(settings(tmp_path / "new"), tmp_path / "a.tar")
    assert made.left_out == ()
    there = ServerParts(tmp_path / "new")
    with pytest.raises(DnaError):
        there.registry.resolve("ada")
    for manifest in there.registry.manifests():
        Blocks(there).verified(manifest.id)


def test_a_full_disk_leaves_nothing(parts: ServerParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backup(parts, tmp_path / "a.tar")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))  # type: ignore[attr-defined]
    with pytest.raises(DnaError) as caught:
        restore(settings(tmp_path / "new"), tmp_path / "a.tar")
    assert caught.value.code == "no_space"
    assert nothing_of(tmp_path / "new")


def test_the_file_is_its_owners_alone(parts: ServerParts, tmp_path: Path) -> None:
    backup(parts, tmp_path / "a.tar", secrets=True)
    assert (tmp_path / "a.tar").stat().st_mode & 0o077 == 0
    restore(settings(tmp_path / "new"), tmp_path / "a.tar")
    for name in ("", "keys", "keys/private", "consents", "tombstones", "audit"):
        assert (tmp_path / "new" / name).stat().st_mode & 0o077 == 0, name
