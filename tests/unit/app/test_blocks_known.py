"""What was verified is not hashed again to be read, until anything about it or about who is trusted changes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from clonedna.app import blocks
from clonedna.app import parts as app_parts
from clonedna.app.blocks import Blocks
from clonedna.core.block import GateVerdict, Manifest
from clonedna.core.errors import BlockCorrupt, BlockNotFound, BlockRejected, BlockRevoked, BlockUntrusted
from tests.serving import ServerParts, add_block


@pytest.fixture
def parts(tmp_path: Path) -> ServerParts:
    return ServerParts(tmp_path)


@pytest.fixture
def ada(parts: ServerParts) -> Manifest:
    return add_block(parts, "ada")


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every directory that was verified in full."""
    seen: list[Path] = []
    verify: Callable[..., Manifest] = app_parts.factory("block", "verify")

    def noted(directory: Path, *arguments: object, **named: object) -> Manifest:
        seen.append(directory)
        return verify(directory, *arguments, **named)

    def made(seam: str, name: str) -> Callable[..., object]:
        return noted if (seam, name) == ("block", "verify") else app_parts.factory(seam, name)

    monkeypatch.setattr(blocks, "factory", made)
    return seen


def test_it_is_verified_once(parts: ServerParts, ada: Manifest, verified: list[Path]) -> None:
    one = Blocks(parts)
    assert one.show("ada") == one.show(ada.id)
    assert len(verified) == 1
    one.verified("ada")
    assert len(verified) == 2, "who asks whether it is sound gets an answer of now"


@pytest.mark.parametrize("how", ["content", "time", "more", "less"])
def test_whatever_changes_is_seen(parts: ServerParts, ada: Manifest, verified: list[Path], how: str) -> None:
    one = Blocks(parts)
    one.show("ada")
    path = parts.store.path(ada.id) / "eval.json"
    path.parent.chmod(0o755)
    path.chmod(0o644)
    before = path.stat()
    if how == "content":  # as long as before, and with its old times
        data = bytearray(path.read_bytes())
        data[-2] ^= 1
        path.write_bytes(data)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif how == "time":
        os.utime(path)
    elif how == "more":
        (path.parent / "more").touch()
    else:
        path.unlink()
    if how == "time":
        one.show("ada")
    else:
        with pytest.raises(BlockCorrupt):
            one.show("ada")
    assert len(verified) == 2


def test_who_is_no_longer_trusted_vouches_for_nothing(tmp_path: Path, verified: list[Path]) -> None:
    signer = ServerParts(tmp_path / "signer")
    made = add_block(signer, "ada")
    taker = ServerParts(tmp_path / "taker")
    identity = taker.signer.trust(signer.signer.public_key)
    taker.store.put(signer.store.path(made.id))
    taker.registry.publish(made)
    one = Blocks(taker)
    one.show("ada")
    taker.signer.distrust(identity)
    with pytest.raises(BlockUntrusted):
        one.show("ada")


def test_what_is_gone_or_revoked_is_not_shown(parts: ServerParts, ada: Manifest) -> None:
    bob = add_block(parts, "bob", says="xyz")
    one = Blocks(parts)
    one.show("ada")
    one.show("bob")
    parts.registry.revoke(ada.id)
    with pytest.raises(BlockRevoked):
        one.show("ada")
    one.remove("bob")
    with pytest.raises(BlockNotFound):
        one.show(bob.id)


def test_what_the_gate_rejected_is_removed_by_its_id_alone(parts: ServerParts) -> None:
    bad = add_block(parts, "bad", gate=GateVerdict(status="rejected", reasons=("no gain",)))
    one = Blocks(parts)
    with pytest.raises(BlockRejected) as refused:
        one.remove("bad")
    assert refused.value.hint.endswith(f"dna rm {bad.id[:12]}")
    assert one.remove(bad.id[:12]).status == "rejected"
    with pytest.raises(BlockNotFound):
        one.remove(bad.id)


def test_so_many_are_remembered_and_no_more(
    parts: ServerParts, verified: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "MOST_KNOWN", 2)
    one = Blocks(parts)
    for name in ("a", "b", "c"):
        add_block(parts, name)
        one.show(name)
    one.show("c")
    assert len(verified) == 3
    one.show("a")
    assert len(verified) == 4
