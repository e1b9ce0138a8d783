"""Blocks to a hub and back, through the hub's own library; PEFT alone loads what lies there."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from clonedna.app.hub import Hub
from clonedna.app.parts import Parts
from clonedna.app.revoking import Revoking
from clonedna.cli.main import app
from clonedna.core.errors import (
    BadAnswer,
    BadConfig,
    BlockCorrupt,
    BlockRejected,
    BlockRevoked,
    BlockUntrusted,
    ConsentMissing,
    DnaError,
    InputError,
    NotFound,
    Refused,
    Unauthorised,
    Unavailable,
)
from clonedna.store.hub import HubRepositories
from tests.cli import CliRunner
from tests.hub_fake import FakeHub, Repository, fake_hub
from tests.serving import ServerParts
from tests.sharing import ACCOUNT, Ada, put
from tests.unit.store.making import contents, rejected, write_block
from tests.unit.trust.small_github import small_github, ssh_key

pytestmark = pytest.mark.slow
TOKEN = "hf_made-up-token-of-a-test"


@pytest.fixture(scope="module")
def ada(tmp_path_factory: pytest.TempPathFactory) -> Generator[Ada]:
    folder = tmp_path_factory.mktemp("key")
    line = ssh_key(folder / "ada")
    with small_github() as github:
        github.person("ada-example", ACCOUNT, signing=[line])
        yield Ada(github, folder / "ada")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Generator[FakeHub]:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # a service of its own, which nobody but its makers runs
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "somebodys-token"))
    (tmp_path / "somebodys-token").write_text("hf_another-token")
    with fake_hub(TOKEN) as made:
        yield made


@pytest.fixture
def giver(ada: Ada, hub: FakeHub, tmp_path: Path) -> ServerParts:
    parts = ada.parts(tmp_path / "giver", hub_url=hub.url, hub_token=SecretStr(TOKEN))
    put(parts, "ada", ada.consents(parts), size=50_000)
    return parts


def other(
    ada: Ada, hub: FakeHub, giver: Parts, home: Path, *, trusting: bool = True, token: str = TOKEN
) -> ServerParts:
    parts = ada.parts(home, hub_url=hub.url, hub_token=SecretStr(token) if token else None)
    if trusting:
        parts.signer.trust(giver.signer.public_key)
    return parts


def refused(work: Callable[[], object], kind: type[DnaError]) -> DnaError:
    with pytest.raises(DnaError) as caught:
        work()
    assert type(caught.value) is kind
    assert caught.value.hint
    assert TOKEN not in f"{caught.value.message} {caught.value.hint} {caught.value.facts}"
    return caught.value


def left(parts: ServerParts) -> list[Path]:
    return list((parts.settings.home / "staging").glob("*"))


def test_there_and_back(ada: Ada, hub: FakeHub, giver: ServerParts, tmp_path: Path) -> None:
    done = Hub(giver).push("ada", "ada-example/block")
    made = giver.registry.resolve("ada")
    assert (done.id, done.public) == (made.id, False)
    there = hub.repositories["ada-example/block"]
    assert there.private
    files = {path.name: path.read_bytes() for path in giver.store.path(made.id).iterdir()}
    assert {name: data for name, data in there.commits[-1][1].items() if name != ".gitattributes"} == files
    taker = other(ada, hub, giver, tmp_path / "taker")
    assert Hub(taker).pull("ada-example/block").new
    assert {path.name: path.read_bytes() for path in taker.store.path(made.id).iterdir()} == files
    assert not Hub(taker).pull("ada-example/block", done.revision).new
    assert left(taker) == []
    again = Hub(giver).push("ada", "ada-example/block")
    assert again.repository == done.repository
    assert not any("another-token" in one for one in hub.asked)


def test_a_new_version_is_a_new_commit_and_the_old_one_stays(
    ada: Ada, hub: FakeHub, giver: ServerParts, tmp_path: Path
) -> None:
    first = Hub(giver).push("ada", "ada-example/block")
    consent = (giver.store.path(giver.registry.resolve("ada").id) / "consent.json").read_bytes()
    hub.repositories["ada-example/block"].commits[-1][1]["plot-style.png"] = b"of an older version"
    newer = put(giver, "ada", consent, version="1.1.0", note="2")
    second = Hub(giver).push("ada", "ada-example/block")
    assert second.revision != first.revision
    assert "plot-style.png" not in hub.repositories["ada-example/block"].commits[-1][1]
    taker = other(ada, hub, giver, tmp_path / "taker")
    assert Hub(taker).pull("ada-example/block").block.id == newer.id
    refused(lambda: Hub(taker).pull("ada-example/block", "1" * 40), NotFound)


def test_what_may_not_leave(ada: Ada, hub: FakeHub, giver: ServerParts) -> None:
    consent = (giver.store.path(giver.registry.resolve("ada").id) / "consent.json").read_bytes()
    put(giver, "home")
    put(giver, "spoilt", consent, gate=rejected())
    put(giver, "gone", consent)
    Revoking(giver).block("gone")
    for name, kind in (("home", ConsentMissing), ("spoilt", BlockRejected)):
        refused(lambda name=name: Hub(giver).push(name, "ada-example/block"), kind)  # type: ignore[misc]
    refused(lambda: Hub(giver).push(next(iter(giver.store.revoked())), "ada-example/block"), BlockRevoked)  # type: ignore[attr-defined]
    assert hub.repositories == {}
    assert hub.asked == []


def test_private_unless_said(ada: Ada, hub: FakeHub, giver: ServerParts) -> None:
    hub.repositories["ada-example/open"] = Repository(private=False)
    refused(lambda: Hub(giver).push("ada", "ada-example/open"), Refused)
    assert len(hub.repositories["ada-example/open"].commits) == 1
    assert Hub(giver).push("ada", "ada-example/open", public=True).public
    Hub(giver).push("ada", "ada-example/new", public=True)
    assert not hub.repositories["ada-example/new"].private


def test_what_may_not_come(ada: Ada, hub: FakeHub, giver: ServerParts, tmp_path: Path) -> None:
    Hub(giver).push("ada", "ada-example/block")
    taker = other(ada, hub, giver, tmp_path / "taker")
    files = hub.repositories["ada-example/block"].commits[-1][1]
    good = dict(files)
    cases: dict[str, tuple[dict[str, bytes | None], type[DnaError]]] = {
        "a flipped bit": ({"profile.md": bytes([good["profile.md"][0] ^ 1]) + good["profile.md"][1:]}, BlockCorrupt),
        "a missing file": ({"eval.json": None}, BlockCorrupt),
        "too big": ({"README.md": bytes(4_000_001)}, BlockCorrupt),
    }
    for what, (changes, kind) in cases.items():
        files.update({name: data for name, data in changes.items() if data is not None})
        for name in [name for name, data in changes.items() if data is None]:
            del files[name]
        refused(lambda: Hub(taker).pull("ada-example/block"), kind)
        assert left(taker) == [], what
        files.clear()
        files.update(good)
    stranger = other(ada, hub, giver, tmp_path / "stranger", trusting=False)
    refused(lambda: Hub(stranger).pull("ada-example/block"), BlockUntrusted)
    files |= {"pytorch_model.bin": b"a pickle", "code.py": b"boom"}
    assert Hub(taker).pull("ada-example/block").new
    made = giver.registry.resolve("ada")
    assert {path.name for path in taker.store.path(made.id).iterdir()} == set(good) - {".gitattributes"}


def test_tokens_names_and_faults(ada: Ada, hub: FakeHub, giver: ServerParts, tmp_path: Path) -> None:
    Hub(giver).push("ada", "ada-example/block")
    nobody, wrong = (
        other(ada, hub, giver, tmp_path / "nobody", token=""),
        other(ada, hub, giver, tmp_path / "wrong", token="hf_x"),
    )
    put(nobody, "mine", ada.consents(nobody))
    refused(lambda: Hub(nobody).push("mine", "ada-example/mine"), Unauthorised)
    refused(lambda: Hub(nobody).pull("ada-example/block"), NotFound)
    refused(lambda: Hub(wrong).pull("ada-example/block"), Unauthorised)
    for name in (
        "block",
        "../block",
        "a/b/c",
        "a/..",
        "ada example/x",
        "a/b--c",
        "-a/b",
        "a" * 200 + "/b",
        "https://x/y",
    ):
        refused(lambda name=name: Hub(giver).push("ada", name), InputError)  # type: ignore[misc]
        refused(lambda name=name: Hub(giver).pull(name), InputError)  # type: ignore[misc]
    refused(lambda: Hub(giver).pull("ada-example/block", "../x"), InputError)
    hub.ignored = {"eval.json"}
    refused(lambda: Hub(giver).push("ada", "ada-example/second"), BadAnswer)
    hub.broken = 500
    refused(lambda: Hub(giver).pull("ada-example/block"), Unavailable)
    for url in ("http://example.org", "ftp://x", "http://10.0.0.1"):
        refused(lambda url=url: HubRepositories(url, TOKEN), BadConfig)  # type: ignore[misc]


def test_a_hub_that_is_not_there(ada: Ada, hub: FakeHub, giver: ServerParts, tmp_path: Path) -> None:
    parts = ada.parts(tmp_path / "home", hub_url="http://127.0.0.1:1")
    refused(lambda: Hub(parts).pull("ada-example/block"), Unavailable)


def test_the_commands(
    ada: Ada, hub: FakeHub, giver: ServerParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "HF_TOKEN": TOKEN,
        "HF_ENDPOINT": hub.url,
        "DNA_GITHUB_URL": ada.github.url,
        "DNA_MIN_FREE_BYTES": "0",
    }.items():
        monkeypatch.setenv(name, value)

    def run(*words: str) -> Any:
        done = CliRunner().invoke(app, [*words, "--json"], standalone_mode=False)
        if isinstance(done.exception, DnaError):
            return done.exception.code
        assert done.exception is None, done.exception
        return json.loads(done.stdout.splitlines()[-1])

    mine, theirs = ("--home", str(giver.settings.home)), ("--home", str(tmp_path / "taker"))
    pushed = run(*mine, "push", "ada", "--hub", "ada-example/block")
    assert (pushed["repository"], pushed["public"]) == ("ada-example/block", False)
    assert run(*theirs, "pull", "--hub", "ada-example/block") == "block_untrusted"
    other(ada, hub, giver, tmp_path / "taker")
    assert run(*theirs, "pull", "--hub", f"ada-example/block@{pushed['revision']}")["block"]["id"] == pushed["id"]
    assert run(*mine, "push", "ada", "--hub", "ada-example/block", "--to", "http://127.0.0.1:1") == "bad_input"
    assert run(*theirs, "pull", "ada", "--hub", "ada-example/block") == "bad_input"
    assert run(*theirs, "pull") == "bad_input"


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's own
def test_peft_loads_what_lies_on_the_hub(ada: Ada, hub: FakeHub, giver: ServerParts, tmp_path: Path) -> None:
    """An adapter that PEFT made, as a block, to the hub and back without us: plain PEFT gives the same logits as before."""
    import peft
    import torch
    import transformers
    from huggingface_hub import snapshot_download

    import clonedna.bases

    nano = Path(clonedna.bases.__path__[0]) / "nano"
    torch.manual_seed(7)
    ids = torch.randint(5, 200, (1, 12))

    def base() -> Any:
        return transformers.AutoModelForCausalLM.from_pretrained(nano).eval()

    with torch.inference_mode():
        bare = base()(ids).logits
        tuned = peft.get_peft_model(
            base(), peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
        ).eval()  # fmt: skip
        wanted = tuned(ids).logits
    tuned.save_pretrained(tmp_path / "adapter")
    files = contents() | {
        name: (tmp_path / "adapter" / name).read_bytes()
        for name in ("adapter_config.json", "adapter_model.safetensors")
    }
    files["consent.json"] = (giver.store.path(giver.registry.resolve("ada").id) / "consent.json").read_bytes()
    made = write_block(tmp_path / "block", giver.signer, files, name="real", consent_mode="granted")
    giver.store.put(tmp_path / "block")
    giver.registry.publish(made)
    Hub(giver).push("real", "ada-example/real")
    fetched = snapshot_download(
        "ada-example/real", endpoint=hub.url, token=TOKEN, local_dir=tmp_path / "fetched", cache_dir=tmp_path / "cache"
    )
    with torch.inference_mode():
        got = peft.PeftModel.from_pretrained(base(), fetched).eval()(ids).logits
    assert torch.equal(got, wanted)
    assert not torch.equal(got, bare)
