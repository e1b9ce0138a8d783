"""Keys and archives as people use them: two homes, a block carried from one to the other, a rotation, a theft."""

from __future__ import annotations

from pathlib import Path

import pytest

from clonedna.app.parts import Parts
from clonedna.app.settings import Settings
from clonedna.core.canonical import canonical
from clonedna.core.work import Identity
from clonedna.trust.consents import SelfConsents
from tests.command import Dna
from tests.unit.store.making import contents, write_block

pytestmark = pytest.mark.slow
ADA = Identity(name="Ada Example", email="ada@example.org")


def add(dna: Dna, name: str, *, local: bool = False) -> str:
    """A small signed block, registered."""
    parts = Parts(Settings(home=dna.home, min_free_bytes=0))
    files = contents(note=name)
    if not local:
        consents = SelfConsents(dna.home / "consents", parts.signer)
        files["consent.json"] = canonical(consents.grant_self(ADA, [ADA], f"local:{name}"))
    folder = dna.home / f"making-{name}"
    made = write_block(folder, parts.signer, files, name=name, consent_mode="local-only" if local else "self")
    parts.store.put(folder)
    parts.registry.publish(made)
    return made.id


@pytest.mark.long
def test_a_block_travels_and_outlives_rotation_and_theft(tmp_path: Path) -> None:
    ada, bob = Dna(tmp_path / "ada"), Dna(tmp_path / "bob")
    first = ada.json("keys", "new")
    assert ada.refused("keys", "new", status=2) == "bad_input"
    known, lost = add(ada, "known"), add(ada, "lost")
    for name in ("known", "lost"):
        made = ada.json("export", name, str(tmp_path / f"{name}.dna"))
        assert made["bytes"] == (tmp_path / f"{name}.dna").stat().st_size
    assert ada.refused("export", "known", str(tmp_path / "known.dna"), status=2) == "bad_reference"

    # An unknown signer is refused, whole; then trusted by the log, its fingerprint compared in full.
    assert bob.refused("import", str(tmp_path / "known.dna")) == "block_untrusted"
    assert bob.json("ls") == []
    ada("keys", "log", "--out", str(tmp_path / "log0"))
    identity = first["identity"]
    assert bob.refused("keys", "trust", str(tmp_path / "log0"), "--fingerprint", identity[:16], status=2) == "bad_input"
    assert bob.json("keys", "trust", str(tmp_path / "log0"), "--fingerprint", identity) == {"trusted": identity}
    assert bob.json("import", str(tmp_path / "known.dna"))["id"] == known
    assert bob.json("import", str(tmp_path / "known.dna"))["id"] == known  # again changes nothing
    assert [block["id"] for block in bob.json("ls")] == [known]

    # The key is stolen: what each machine holds stays, what arrives later does not, and nobody is led back.
    second = ada.json("keys", "rotate", "--compromised")
    assert (second["identity"], second["seq"]) == (identity, 1)
    assert second["key_id"] == first["next"]
    ada("keys", "log", "--out", str(tmp_path / "log1"))
    assert bob.json("keys", "trust", str(tmp_path / "log1"))["trusted"] == identity
    assert bob.refused("keys", "trust", str(tmp_path / "log0")) == "key_log_older"
    assert bob.json("verify", "known")["id"] == known
    assert bob.refused("import", str(tmp_path / "lost.dna")) == "key_compromised"
    assert {ada.json("verify", name)["id"] for name in ("known", "lost")} == {known, lost}
    seen = [
        one for one in bob.json("keys", "list") if one["identity"] == identity
    ]  # bob has a key, too: his log is signed with it
    assert [(one["seq"], one["status"]) for one in seen] == [(0, "compromised"), (1, "current")]
    assert [one["action"] for one in ada.json("keys", "log")] == ["new", "compromised"]

    assert bob.json("keys", "distrust", identity) == {"distrusted": identity}
    assert bob.refused("verify", "known") == "block_untrusted"


def test_what_must_stay_is_not_exported_and_what_must_not_come_is_not_imported(tmp_path: Path) -> None:
    ada = Dna(tmp_path / "ada")
    add(ada, "home", local=True)
    gone = add(ada, "gone")
    assert ada.refused("export", "home", str(tmp_path / "home.dna")) == "consent_missing"
    ada("export", "gone", str(tmp_path / "gone.dna"))
    Parts(Settings(home=ada.home, min_free_bytes=0)).registry.revoke(gone)
    assert ada.refused("export", "gone", str(tmp_path / "again.dna")) == "block_revoked"
    assert ada.refused("import", str(tmp_path / "gone.dna")) == "block_revoked"
    assert sorted(path.name for path in tmp_path.glob("*.dna")) == ["gone.dna"]
    data = bytearray((tmp_path / "gone.dna").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "bad.dna").write_bytes(data)
    assert ada.refused("import", str(tmp_path / "bad.dna"), status=5) == "block_corrupt"
    folder = ada.home / "store/blocks" / gone
    (folder / "signature.json").unlink()
    assert ada.refused("verify", str(folder)) == "block_unsigned"


def test_a_passphrase_comes_from_the_environment_and_is_never_printed(tmp_path: Path) -> None:
    dna = Dna(tmp_path / "home")
    secret = "correct horse battery"
    said = "".join(dna("keys", "new", "--json", environment={"DNA_KEY_PASSPHRASE": secret}))
    for arguments, status, given in (
        (("keys", "show"), 0, None), (("keys", "rotate"), 4, None), (("keys", "rotate"), 4, "wrong one"), (("keys", "rotate"), 0, secret),
    ):  # fmt: skip
        said += "".join(dna(*arguments, status=status, environment={"DNA_KEY_PASSPHRASE": given} if given else {}))
    assert said.count("error[key_locked]") == 2
    assert secret not in said
    assert "wrong one" not in said
    assert not any(secret.encode() in path.read_bytes() for path in dna.home.rglob("*") if path.is_file())
