"""Which encoder a setting means, what it is given, and what is not sent to one on another machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clonedna.app.exemplars import BlockExemplars
from clonedna.app.parts import Parts
from clonedna.app.settings import Settings, load_settings
from clonedna.core.block import Capability
from clonedna.core.errors import BadConfig, InputError
from clonedna.engine.encoder_http import HttpEncoder
from tests.encoders import embedding_server, minilm_adapter, tiny_transformer
from tests.serving import ServerParts, add_block
from tests.values import pair


def opened(path: Path, **settings: Any) -> Any:
    return Parts(Settings(home=path, **settings)).encoder


def test_a_setting_names_an_encoder(tmp_path: Path) -> None:
    assert opened(tmp_path).name.startswith("all-minilm-l6-v2@")
    assert opened(tmp_path, encoder="hashed").dimension == 512
    assert opened(tmp_path, encoder="hashed:1024").dimension == 1024
    adapted = opened(tmp_path, encoder=f"minilm:{minilm_adapter(tmp_path / 'adapter.safetensors')}")
    assert adapted.name.startswith(opened(tmp_path).name + "+")
    model = tiny_transformer(tmp_path, 64)
    made = opened(tmp_path, encoder=f"sentence-transformers:{model}")
    assert (made.dimension, made.name.partition("@")[0]) == (64, "tiny-64")


@pytest.mark.parametrize(
    "name", ["", "other", "hashed:", "hashed:x", "http:", "http", "sentence-transformers:", "minilm:", "http:a\nb"]
)
def test_what_names_none_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadConfig):
        load_settings({"encoder": name})
    with pytest.raises(InputError) as caught:
        Parts(Settings(home=tmp_path)).open_encoder(name)
    assert caught.value.facts["param"] == "encoder"


def test_a_server_gets_what_the_settings_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with embedding_server(16, key="made-up-secret") as server:
        monkeypatch.setenv("DNA_ENCODER_KEY", "made-up-secret")
        settings = load_settings(
            {"encoder": "http:nomic", "encoder_url": server.url, "encoder_dimension": 16, "home": tmp_path}
        )
        assert "made-up-secret" not in repr(settings)
        made = Parts(settings).encoder
        assert made.encode(["a"]).rows.shape == (1, 16)
        assert server.requests[0]["model"] == "nomic"
    (tmp_path / "dna.toml").write_text('encoder_key = "made-up-secret"\n')
    with pytest.raises(BadConfig) as caught:
        load_settings()
    assert "DNA_ENCODER_KEY" in caught.value.hint
    for fields in ({}, {"encoder_url": server.url}, {"encoder_dimension": 8}):
        with pytest.raises(BadConfig):
            opened(tmp_path, encoder="http:nomic", **fields)


@pytest.mark.parametrize(
    ("url", "elsewhere"), [("http://127.0.0.1:9/v1", False), ("http://localhost", False), ("https://e.example", True)]
)
def test_prompts_of_local_only_blocks_stay_here(url: str, elsewhere: bool, tmp_path: Path) -> None:
    assert HttpEncoder(url, "m", 8).elsewhere is elsewhere
    parts = ServerParts(tmp_path)
    made = add_block(
        parts, "ada", pairs=[pair("read", "pass\n", task="Read a file.")], capability=Capability(text="files")
    )
    exemplars = BlockExemplars(
        parts.store, parts.registry, lambda: parts.consents, lambda: parts.glossary, parts.queries, elsewhere=elsewhere
    )
    assert bool(exemplars.prompts(made.id)) is not elsewhere
