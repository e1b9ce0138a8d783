"""The one frozen ``Settings``. Order of truth: flags, ``DNA_*`` environment, ``./dna.toml``, the user's file, defaults.

Nobody else reads the environment. Unknown keys are refused, in files and in the environment.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from platformdirs import user_config_path, user_data_path
from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from clonedna.core.errors import BadConfig
from clonedna.core.thresholds import Thresholds

PREFIX = "DNA_"
XAI_URL = "https://api.x.ai/v1"
HUB_URL = "https://huggingface.co"
ORIGIN = r"^https?://[a-z0-9.-]+(:\d{1,5})?$|^https?://\[[0-9a-f:]+\](:\d{1,5})?$"
ENCODER = r"^(minilm|hashed(:\d{1,5})?|(minilm|sentence-transformers|http):[^\x00-\x1f]{1,300})$"
ENVIRONMENT_ONLY = {
    "teacher_key", "key_passphrase", "github_token", "token", "hub_token", "developer_session", "encoder_key",
}  # fmt: skip


class Settings(BaseSettings):
    """``home``: where blocks, keys and jobs are kept. ``threads``: CPU threads of the engine, 0 = all cores.
    ``engine``: ``local`` in this process, or ``vllm``: the server at ``vllm_url``, with ``vllm_key`` where it wants one (docs/vllm.md).

    The engine's: ``dtype``, ``device`` (empty: by the hardware) and ``quantize`` of its base (docs/bases.md).
    ``adapter_bytes`` for adapters in memory (and as much again for slots) and ``cache_bytes`` for keys and values, 0 = an
    eighth of the free memory each; ``prefix_bytes`` for prompts' beginnings, -1 = a quarter of that; ``max_waiting`` requests beyond
    those that run; ``duty``: share of the time for training while requests run.
    ``key_passphrase`` of this machine's signing key, from the environment alone (docs/keys.md).
    ``server`` whose blocks commands work on instead of this machine's, and the ``token`` for it, from the environment alone;
    ``developer_session`` that ``dna developer prove`` gave, from the environment alone (docs/developers.md).
    ``encoder`` that compares meanings (docs/genomes.md): ``minilm``, or ``minilm:`` and the file of an adapter for it; ``hashed`` or
    ``hashed:768``, which compares spelling; ``sentence-transformers:`` and a folder or a name; ``http:`` and the model's name on the
    server ``encoder_url``, with ``encoder_key`` (from the environment alone), ``encoder_dimension`` numbers a vector, and
    ``encoder_timeout`` seconds.
    ``index``: where vectors are kept: ``files`` of the home, or ``pgvector``, in the database of ``database_url``; ``graph_from`` so many
    vectors in files a graph helps to search them (extra ``ann``).
    ``genome_sources``: repositories whose own-words pairs a genome may be measured on and trained from (docs/genomes.md).
    ``route_thresholds``: by node of the taxonomy, the beginning of one, or ``*``: from which similarity on a layer is used, trained on or
    forked (docs/genomes.md).
    ``taxonomy_extension``: a file of further capabilities that requests for genomes are read with; ``glossary_extension``: one that says
    what further names in blocks' texts mean (docs/genomes.md).
    ``database_url`` of the catalogue (SQLAlchemy's; ``postgresql://...``); without one a file in the home.
    The server's: ``api_key`` lets a client use it, ``admin_key`` (where set, and then only this one) also change what it serves;
    ``max_body_bytes`` of one request, ``max_requests`` at one time, ``max_choices`` = prompts x n of one request,
    ``request_timeout`` and ``drain_seconds`` in seconds.
    ``rate_limit`` requests a second of one token, or of one address without one, ``rate_burst`` of them at once, 0 = no limit;
    ``cors_origins``: pages of other origins that may ask; ``hsts_seconds``: only behind a proxy with https (docs/access.md).
    ``log_format`` (``json`` for programs that read it) and ``log_level`` of what a server or worker writes to standard error
    (docs/operations.md).
    The ``openai`` teacher's (docs/teachers.md): ``teacher_url`` of any OpenAI-compatible server and ``teacher_model`` there;
    ``teacher_key``, from the environment alone; ``teacher_schema``: how the answer's form is asked for; ``teacher_timeout`` of one call in
    seconds, ``teacher_retries`` of it, ``teacher_at_once`` calls; prices in US dollars for a million tokens.
    Chat's (docs/chat.md): ``retrieval``: whether a block's own pairs that fit a question are shown to it.
    GitHub's (docs/github.md): ``github_url`` of its API, an Enterprise server's too; ``github_token``, from the environment alone;
    ``github_max_wait`` seconds for a rate limit; ``max_repositories`` of an account.
    The web's (docs/profiles.md): ``web_ports`` that a person's page may be on, ``web_timeout`` in seconds, ``web_max_bytes`` of a page;
    ``web_allow_loopback``: pages on this machine too.
    ``revoked_weights``: what becomes of a revoked block's files; sealed ones lie beside the store and nothing reads them (docs/consent.md).
    General pairs: ``general_dataset`` on the hub, ``general_file`` of pairs (JSONL).
    The hub's (docs/sharing.md): ``hub_url``, also from HF_ENDPOINT; ``hub_token``, from the environment alone, also from HF_TOKEN.
    ``packages``: the folder that ``package:NAME`` reads installed distributions from, instead of this interpreter's environment.
    Training: ``checkpoint_seconds`` between two checkpoints, ``parallel_training`` jobs of a server at once (0: workers do
    them), ``max_waiting_jobs`` that may wait (docs/jobs.md), ``max_upload_bytes`` of one file of pairs.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True)

    home: Path = Field(default_factory=lambda: user_data_path("clone-dna", appauthor=False))
    base: str = "nano"
    threads: int = Field(default=0, ge=0, le=256)
    engine: Literal["local", "vllm"] = "local"
    vllm_url: str | None = None
    vllm_key: SecretStr | None = None
    dtype: Literal["", "float32", "bfloat16", "float16"] = ""
    device: str = Field(default="", pattern=r"^(|cpu|cuda(:\d{1,3})?)$")
    quantize: Literal["", "nf4"] = ""
    adapter_bytes: int = Field(default=0, ge=0)
    cache_bytes: int = Field(default=0, ge=0)
    prefix_bytes: int = Field(default=-1, ge=-1)
    max_waiting: int = Field(default=512, ge=0)
    duty: float = Field(default=0.5, gt=0, le=1)
    licences: tuple[str, ...] = ("MIT", "Apache-2.0")
    genome_sources: tuple[Annotated[str, Field(min_length=1, max_length=2000)], ...] = Field(default=(), max_length=8)
    encoder: str = Field(default="minilm", pattern=ENCODER)
    encoder_url: str | None = Field(default=None, pattern=r"^https?://[^\s@?#]+$")
    encoder_key: SecretStr | None = None
    encoder_dimension: int = Field(default=0, ge=0, le=8192)
    encoder_timeout: float = Field(default=30.0, gt=0, le=600)
    index: Literal["files", "pgvector"] = "files"
    graph_from: int = Field(default=200_000, ge=1)
    taxonomy_extension: Path | None = None
    glossary_extension: Path | None = None
    route_thresholds: dict[Annotated[str, Field(max_length=120)], Thresholds] = Field(
        default_factory=dict, max_length=500
    )
    database_url: SecretStr | None = None
    owned_share: float = Field(default=0.8, gt=0, le=1)
    max_files: int = Field(default=20_000, ge=1)
    max_changes: int = Field(default=200, ge=0)
    min_free_bytes: int = Field(default=500_000_000, ge=0)
    packages: Path | None = None
    git_timeout: float = Field(default=600.0, gt=0)
    max_clone_bytes: int = Field(default=2_000_000_000, ge=1)
    checkpoint_seconds: float = Field(default=20.0, ge=0)
    parallel_training: int = Field(default=2, ge=0, le=64)
    max_waiting_jobs: int = Field(default=200, ge=1, le=10_000)
    max_upload_bytes: int = Field(default=100_000_000, ge=1)
    github_url: str = "https://api.github.com"
    github_token: SecretStr | None = None
    github_max_wait: float = Field(default=60.0, ge=0, le=3600)
    web_allow_loopback: bool = False
    web_ports: tuple[int, ...] = (80, 443)
    web_timeout: float = Field(default=30.0, gt=0, le=600)
    web_max_bytes: int = Field(default=4_000_000, ge=1, le=100_000_000)
    revoked_weights: Literal["delete", "seal"] = "delete"
    max_repositories: int = Field(default=10, ge=1, le=100)
    teacher_url: str = Field(default=XAI_URL, pattern=r"^https?://[^\s@?#]+$")
    teacher_model: str = Field(default="grok-4", min_length=1, max_length=200, pattern=r"^[\w./:@+-]+$")
    teacher_key: SecretStr | None = None
    teacher_schema: Literal["json_schema", "json_object"] = "json_schema"
    teacher_timeout: float = Field(default=60.0, gt=0, le=3600)
    teacher_retries: int = Field(default=4, ge=0, le=20)
    teacher_at_once: int = Field(default=8, ge=1, le=64)
    teacher_prompt_price: float | None = Field(default=None, ge=0)
    teacher_completion_price: float | None = Field(default=None, ge=0)
    hub_url: str = Field(default=HUB_URL, pattern=r"^https?://[^\s@?#]+$")
    hub_token: SecretStr | None = None
    general_dataset: str = Field(default="yahma/alpaca-cleaned", min_length=1)
    general_file: Path | None = None
    key_passphrase: SecretStr | None = Field(default=None, min_length=1, max_length=1024)
    server: str | None = None
    token: SecretStr | None = None
    developer_session: SecretStr | None = None
    retrieval: bool = True
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    api_key: SecretStr | None = Field(default=None, min_length=16)
    admin_key: SecretStr | None = Field(default=None, min_length=16)
    max_body_bytes: int = Field(default=4 * 1024 * 1024, ge=1024)
    max_requests: int = Field(default=256, ge=1)
    max_choices: int = Field(default=64, ge=1)
    request_timeout: float = Field(default=600.0, gt=0)
    drain_seconds: float = Field(default=30.0, ge=0)
    rate_limit: float = Field(default=500.0, ge=0)
    rate_burst: int = Field(default=1000, ge=1)
    cors_origins: tuple[Annotated[str, Field(pattern=ORIGIN, max_length=300)], ...] = ()
    hsts_seconds: int = Field(default=0, ge=0)
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource, dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:  # fmt: skip
        return (init_settings, env_settings)

    @property
    def jobs_directory(self) -> Path:
        return self.home / "jobs"


def load_settings(flags: dict[str, Any] | None = None, *, config: Path | None = None) -> Settings:
    """Settings from all sources; ``flags`` with value ``None`` count as not given. Raises ``BadConfig`` with file and key."""
    _refuse_unknown_environment()
    merged: dict[str, Any] = {}
    paths = [user_config_path("clone-dna", appauthor=False) / "dna.toml", Path("dna.toml")]
    for path in [config] if config else paths:
        merged |= _read(path, required=config is not None)
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    environment = {name[len(PREFIX) :].casefold() for name in os.environ if name.upper().startswith(PREFIX)}
    # Files stand below the environment: what the environment names is not passed on from them.
    lower = {key: value for key, value in merged.items() if key not in environment}
    try:
        settings = Settings(**(lower | given))
    except ValidationError as error:
        raise BadConfig(_explain(error), "correct the value, or remove it to use the default") from error
    except ValueError as error:  # pydantic-settings: a value of the environment that is not the JSON it should be
        raise BadConfig(
            f"a DNA_ environment variable cannot be read: {error}",
            "lists are written as JSON, e.g. DNA_LICENCES='[\"MIT\"]'",
        ) from error
    xai = os.environ.get("XAI_API_KEY")
    if xai and settings.teacher_key is None and settings.teacher_url.rstrip("/") == XAI_URL:  # to nobody else's server
        settings = settings.model_copy(update={"teacher_key": SecretStr(xai)})
    return _with_hub(settings).model_copy(update={"home": settings.home.expanduser().absolute()})


def _with_hub(settings: Settings) -> Settings:
    """With what the hub's own library reads: its address where we were given none, and its token for that address alone."""
    theirs, token = os.environ.get("HF_ENDPOINT") or HUB_URL, os.environ.get("HF_TOKEN")
    if settings.hub_url == HUB_URL:
        settings = settings.model_copy(update={"hub_url": theirs})
    if token and settings.hub_token is None and settings.hub_url.rstrip("/") == theirs.rstrip("/"):
        settings = settings.model_copy(update={"hub_token": SecretStr(token)})
    return settings


def _read(path: Path, *, required: bool) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        if required:
            raise BadConfig(f"no such settings file: {path}", "check the path given with --config") from None
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadConfig(f"cannot read {path}: {error}", "correct the file (it is TOML), or move it away") from error
    unknown = sorted(set(values) - set(Settings.model_fields))
    if unknown:
        known = ", ".join(sorted(Settings.model_fields))
        raise BadConfig(f"unknown key {unknown[0]!r} in {path}", f"known keys: {known}")
    if kept := sorted(ENVIRONMENT_ONLY & set(values)):
        raise BadConfig(
            f"{kept[0]!r} does not belong in a file ({path})",
            f"set {PREFIX}{kept[0].upper()} in the environment, and take the key out of the file",
        )
    return values


def _refuse_unknown_environment() -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for name in sorted(os.environ):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            raise BadConfig(f"unknown environment variable {name}", f"known: {', '.join(sorted(known))}")


def _explain(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=True)[0]
    where = ".".join(str(part) for part in first["loc"])
    given = (
        "..." if where.endswith(("_key", "_passphrase", "token", "database_url", "_session")) else repr(first["input"])
    )  # a secret is never shown
    return f"setting {where!r} = {given}: {first['msg']}"
