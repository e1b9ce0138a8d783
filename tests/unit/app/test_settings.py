"""Flags > environment > ./dna.toml > the user's file > defaults; unknown keys are refused everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from clonedna.app.orders import order_of
from clonedna.app.settings import Settings, load_settings
from clonedna.core.errors import BadConfig, InputError, UnknownBase
from tests.values import ADA


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in Settings.model_fields:
        monkeypatch.delenv(f"DNA_{name.upper()}", raising=False)


def test_each_source_wins_over_the_one_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().base == "nano"
    user = tmp_path / "config/clone-dna/dna.toml"
    user.parent.mkdir(parents=True)
    user.write_text('base = "user"\nthreads = 3\n')
    assert load_settings().base == "user"
    Path("dna.toml").write_text('base = "folder"\n')
    assert (load_settings().base, load_settings().threads) == ("folder", 3)
    monkeypatch.setenv("DNA_BASE", "environment")
    assert load_settings().base == "environment"
    assert load_settings({"base": "flag", "home": None}).base == "flag"


def test_a_file_given_with_config_is_the_only_one(tmp_path: Path) -> None:
    Path("dna.toml").write_text("threads = 3\n")
    (tmp_path / "other.toml").write_text('base = "other"\n')
    settings = load_settings(config=tmp_path / "other.toml")
    assert (settings.base, settings.threads) == ("other", 0)


@pytest.mark.parametrize(
    ("text", "named"),
    [("bases = 1\n", "'bases'"), ("threads = 'many'\n", "'threads'"), ("threads = -1\n", "'threads'"), ("not toml\n", "dna.toml"),
     ("owned_share = 2.0\n", "'owned_share'")],
)  # fmt: skip
def test_a_bad_file_names_what_is_bad(text: str, named: str) -> None:
    Path("dna.toml").write_text(text)
    with pytest.raises(BadConfig, match=named) as error:
        load_settings()
    assert error.value.hint


def test_binary_and_missing_files_are_bad_configs(tmp_path: Path) -> None:
    Path("dna.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadConfig):
        load_settings()
    with pytest.raises(BadConfig, match="no such settings file"):
        load_settings(config=tmp_path / "gone.toml")


def test_unknown_and_unreadable_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DNA_BASES", "x")
    with pytest.raises(BadConfig, match="DNA_BASES"):
        load_settings()
    monkeypatch.delenv("DNA_BASES")
    monkeypatch.setenv("DNA_LICENCES", "MIT")
    with pytest.raises(BadConfig, match="DNA_"):
        load_settings()
    monkeypatch.setenv("DNA_LICENCES", '["MIT", "ISC"]')
    assert load_settings().licences == ("MIT", "ISC")


def make(name: str | None = None, **recipe: object) -> object:
    return order_of(
        Settings(),
        target="x",
        authors=[ADA],
        name=name,
        base=None,
        consent="auto",
        allow_licence=["ISC", "MIT"],
        recipe=recipe,
    )


def test_an_order_keeps_defaults_adds_licences_and_says_custom() -> None:
    plain = make(seed=7, epochs=None)
    assert plain.recipe.preset == "style"  # type: ignore[attr-defined]
    assert (plain.recipe.seed, plain.recipe.lora.seed) == (7, 7)  # type: ignore[attr-defined]
    assert plain.licences == ("MIT", "Apache-2.0", "ISC")  # type: ignore[attr-defined]
    custom = make(rank=8)
    assert (custom.recipe.preset, custom.recipe.lora.rank, custom.recipe.lora.alpha) == ("custom", 8, 16.0)  # type: ignore[attr-defined]


@pytest.mark.parametrize("bad", [{"rank": 7}, {"epochs": 0}, {"learning_rate": -1.0}])
def test_an_impossible_recipe_names_the_field(bad: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(bad))):
        make(**bad)


@pytest.mark.parametrize("base", ["nana", "", "a/b/c", "/no/such/folder", "../x"])
def test_an_impossible_base_is_refused_before_any_work(base: str) -> None:
    with pytest.raises(UnknownBase) as error:
        order_of(
            Settings(),
            target="x",
            authors=[ADA],
            name=None,
            base=base or " ",
            consent="auto",
            allow_licence=[],
            recipe={},
        )
    assert "nano" in error.value.hint


@pytest.mark.parametrize("name", ["Ada", "../x", "", "a" * 65, "-a"])
def test_an_impossible_name_is_refused_with_a_possible_one(name: str) -> None:
    with pytest.raises(InputError) as error:
        make(name)
    assert "e.g." in error.value.hint


KEY = "xai-madeup0madeup1madeup2"


def test_the_teacher_s_key_is_from_the_environment_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XAI_API_KEY", raising=False)
    Path("dna.toml").write_text(f'teacher_key = "{KEY}"\n')
    with pytest.raises(BadConfig) as found:
        load_settings()
    assert "DNA_TEACHER_KEY" in found.value.hint
    assert KEY not in f"{found.value} {found.value.hint}"
    Path("dna.toml").unlink()
    assert load_settings().teacher_key is None
    monkeypatch.setenv("XAI_API_KEY", KEY)
    settings = load_settings()
    assert settings.teacher_key is not None
    assert settings.teacher_key.get_secret_value() == KEY
    assert KEY not in f"{settings!r} {settings} {settings.model_dump_json()}"
    monkeypatch.setenv("DNA_TEACHER_KEY", "another-key")
    assert load_settings().teacher_key.get_secret_value() == "another-key"  # type: ignore[union-attr]


def test_xai_s_key_is_never_for_another_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XAI_API_KEY", KEY)
    for url in ("http://127.0.0.1:8000/v1", "https://api.x.ai.example/v1", "https://api.x.ai/v2"):
        monkeypatch.setenv("DNA_TEACHER_URL", url)
        assert load_settings().teacher_key is None
    for url in ("https://ada:pw@host/v1", "ftp://host/v1", "host"):
        monkeypatch.setenv("DNA_TEACHER_URL", url)
        with pytest.raises(BadConfig):
            load_settings()


def test_the_hub_s_address_and_token_are_those_of_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_ENDPOINT", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    assert (load_settings().hub_url, load_settings().hub_token) == ("https://huggingface.co", None)
    monkeypatch.setenv("HF_TOKEN", "hf_theirs")
    assert load_settings().hub_token == SecretStr("hf_theirs")
    monkeypatch.setenv("DNA_HUB_URL", "https://hub.example.org")
    assert load_settings().hub_token is None  # to nobody else's hub
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example.org/")
    assert load_settings().hub_token == SecretStr("hf_theirs")
    monkeypatch.delenv("DNA_HUB_URL")
    assert load_settings().hub_url == "https://hub.example.org/"
    monkeypatch.setenv("DNA_HUB_TOKEN", "hf_ours")
    assert load_settings().hub_token == SecretStr("hf_ours")
    (tmp_path / "dna.toml").write_text('hub_token = "x"')
    with pytest.raises(BadConfig, match="does not belong in a file"):
        load_settings(config=tmp_path / "dna.toml")
