"""Which part stands behind each seam: a name -> a lazy import path, so that `dna --help` never loads a model library."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clonedna.app.exemplars import BlockExemplars
from clonedna.app.meanings import KeysOf, Meanings
from clonedna.app.queries_kept import KeptQueries
from clonedna.app.settings import ENCODER, XAI_URL, Settings
from clonedna.core.block import Check, DriftReport
from clonedna.core.canonical import sha256
from clonedna.core.errors import BadConfig, InputError
from clonedna.core.model import Example
from clonedna.core.people import Account
from clonedna.core.profile import CodeFacts
from clonedna.core.seams import Consents, Encoder, Engine, Genomes, Index, Registry, Signer, Source, Store, Teacher
from clonedna.core.work import About, Found, Identity, Refusal, Repository
from clonedna.genomes.glossary import Glossary, load_glossary
from clonedna.genomes.rarity import Rarity

if TYPE_CHECKING:
    from clonedna.evals.examination import Lent
    from clonedna.store.database import Database
    from clonedna.store.lines import SqlLines
    from clonedna.store.personas import PersonaFiles
    from clonedna.trust.audit import AuditLog
    from clonedna.trust.challenges import Challenges
    from clonedna.trust.consents_granted import GrantedConsents
    from clonedna.trust.evidence import Accounts
    from clonedna.trust.tombstones import Tombstones

FACTORIES: dict[str, dict[str, str]] = {
    "source": {
        "git": "clonedna.sources.git:GitSource",
        "github": "clonedna.sources.github_source:GitHubSource",
        "package": "clonedna.sources.package:PackageSource",
        "targets": "clonedna.sources.targets:Targets",
    },
    "github": {
        "client": "clonedna.sources.github_client:GitHub",
        "clones": "clonedna.sources.github_source:clones_of",
        "forget": "clonedna.sources.github_source:forget",
        "forget_answers": "clonedna.sources.github_client:forget_answers",
        "account": "clonedna.sources.github:account",
        "profile": "clonedna.sources.github:profile",
        "headhunt": "clonedna.sources.github_headhunt:headhunt",
        "hunt": "clonedna.sources.github_headhunt:hunt",
    },
    "teacher": {
        "own-words": "clonedna.teachers.own_words:OwnWords",
        "openai": "clonedna.teachers.models:openai_teacher",
        "engine": "clonedna.teachers.models:engine_teacher",
    },
    "engine": {"local": "clonedna.engine.local:open_engine", "vllm": "clonedna.engine.vllm:open_vllm"},
    "identity": {"git": "clonedna.sources.views:identity", "digest": "clonedna.trust.consents:identity_digest"},
    "secrets": {"patterns": "clonedna.sources.secrets:secret_in"},
    "syntax": {"trees": "clonedna.sources.languages:parse"},
    "sandbox": {"bubblewrap": "clonedna.sandbox.trial:Sandboxes", "setup": "clonedna.sandbox.bubblewrap:find_setup"},
    "signer": {"keyring": "clonedna.trust.keys:KeyRing"},
    "consents": {
        "self": "clonedna.trust.consents:SelfConsents",
        "granted": "clonedna.trust.consents_granted:GrantedConsents",
        "accounts": "clonedna.trust.evidence_github:GitHubAccounts",
        "now": "clonedna.trust.consents:utc_now",
    },
    "audit": {"log": "clonedna.trust.audit:AuditLog"},
    "tombstones": {"signed": "clonedna.trust.tombstones:Tombstones"},
    "answers": {"purge": "clonedna.teachers.cache:purge"},
    "store": {"directory": "clonedna.store.store:DirectoryStore"},
    "rollbacks": {
        "files": "clonedna.store.rollbacks:Rollbacks",
        "record": "clonedna.store.rollbacks:Rollback",
        "number": "clonedna.store.rollbacks:number",
    },
    "block": {
        "table": "clonedna.store.blocks:file_table",
        "id": "clonedna.store.blocks:block_id",
        "pack": "clonedna.store.blocks:pack",
        "sign": "clonedna.store.blocks:sign_block",
        "verify": "clonedna.store.blocks:verify_block",
        "authenticate": "clonedna.store.blocks:authenticate",
    },
    "archive": {
        "zip": "clonedna.store.archive:zip_block",
        "unzip": "clonedna.store.archive:unzip_block",
        "plan": "clonedna.store.archive_stream:plan",
        "open": "clonedna.store.archive_stream:Opened",
        "most": "clonedna.store.archive:most_bytes",
    },
    "hub": {"huggingface": "clonedna.store.hub:HubRepositories"},
    "memory": {"local": "clonedna.engine.needs:memory_need"},
    "profile": {
        "website": "clonedna.sources.website:read_website",
        "rules": "clonedna.sources.fetching:Rules",
        "resume": "clonedna.sources.resume:read_resume",
        "code": "clonedna.sources.reading_code:count_code",
        "subjects": "clonedna.sources.reading_code:subjects_of",
        "usable": "clonedna.sources.reading_words:usable",
        "is_handle": "clonedna.sources.targets:is_handle",
    },
    "peft_check": {"fresh-process": "clonedna.engine.check:check_peft"},
    "drift": {"local": "clonedna.engine.drift:layer_drift"},
    "merge": {"peft": "clonedna.engine.merging:merge_adapters"},
    "compare": {"factors": "clonedna.engine.comparing:compare_adapters"},
    "database": {
        "sql": "clonedna.store.database:Database",
        "dump": "clonedna.store.dump:dump",
        "load": "clonedna.store.dump:load",
    },
    "threads": {"sql": "clonedna.store.threads:SqlThreads"},
    "teams": {
        "sql": "clonedna.store.teams:SqlTeams",
        "id": "clonedna.store.teams:new_candidate_id",
        "now": "clonedna.store.threads:moment",
    },
    "developers": {
        "sql": "clonedna.store.developers:SqlSessions",
        "challenges": "clonedna.trust.challenges:Challenges",
    },
    "holders": {"sql": "clonedna.store.holders:SqlHolders"},
    "tokens": {"sql": "clonedna.store.tokens:SqlTokens"},
    "lines": {"sql": "clonedna.store.lines:SqlLines"},
    "encoder": {
        "minilm": "clonedna.engine.encoder:open_minilm",
        "hashed": "clonedna.engine.hashed:HashedEncoder",
        "sentence-transformers": "clonedna.engine.encoder_transformer:open_transformer",
        "http": "clonedna.engine.encoder_http:HttpEncoder",
    },
    "index": {
        "files": "clonedna.store.vectors:VectorFiles",
        "pgvector": "clonedna.store.vectors_pg:PgVectors",
        "counted": "clonedna.store.vectors:counted",
        "forget_pgvector": "clonedna.store.vectors_pg:forget",
        "forget": "clonedna.store.vectors:forget",
        "forget_all": "clonedna.store.vectors:forget_all",
    },
    "sketch": {"weights": "clonedna.engine.sketching:sketch_of", "pairs": "clonedna.engine.sketching:pairs_of"},
    "covariance": {"read": "clonedna.engine.covariance:read_covariances"},
    "genomes": {
        "files": "clonedna.store.genomes:GenomeFiles",
        "sign": "clonedna.store.genomes:sign_genome",
        "verify": "clonedna.store.genomes:verify_genome",
        "read": "clonedna.store.genomes:read_manifest",
    },
    "personas": {
        "files": "clonedna.store.personas:PersonaFiles",
        "zip": "clonedna.store.persona_archive:zip_persona",
        "unzip": "clonedna.store.persona_archive:unzip_persona",
        "most": "clonedna.store.persona_archive:most_bytes",
    },
    "registry": {"sql": "clonedna.store.registry:SqlRegistry", "kin": "clonedna.store.kin:Kin"},
}


def factory(seam: str, name: str) -> Callable[..., Any]:
    """The class or function behind ``name``. Raises ``InputError`` with the names there are."""
    try:
        module, _, attribute = FACTORIES[seam][name].partition(":")
    except KeyError:
        raise InputError(f"no {seam} is called {name!r}", f"choose one of: {', '.join(FACTORIES[seam])}") from None
    return getattr(import_module(module), attribute)


class Parts:
    """The parts of one process, made when first asked for. One engine for each base; it is the only owner of its model."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._engines: dict[str, Engine] = {}
        self._rarity: tuple[tuple[tuple[int, int], int], Rarity] | None = None
        self.ask_passphrase: Callable[[], str] | None = None  # set by a face that has a person before it
        self.stays = False  # set by a server: its process lives long enough to make what helps later questions

    @cached_property
    def source(self) -> Source:
        """Paths, git URLs, GitHub handles and installed packages; each goes to its own source."""
        return self._sources()

    @cached_property
    def public_source(self) -> Source:
        """As ``source``, for those who may not name places of this machine's own disk and network. Raises ``AddressRefused`` for them."""
        return self._sources(outside=True)

    def _sources(self, *, outside: bool = False) -> Source:
        settings = self.settings
        bounds = {
            "cache": settings.home / "clones",
            "timeout": settings.git_timeout,
            "max_clone_bytes": settings.max_clone_bytes,
        }

        def github() -> Source:
            return factory("source", "github")(self.github, most=settings.max_repositories, **bounds)

        package = factory("source", "package")(folder=settings.packages)
        return factory("source", "targets")(factory("source", "git")(**bounds, outside=outside), github, package)

    def count_code(
        self, found: Found, authors: Sequence[Identity], parts: Sequence[Repository]
    ) -> tuple[CodeFacts, ...]:
        """Countable facts of the authors' work: in the repository, or of an account in those ``parts`` that were collected from. Of what
        has no history (a package) there are none.

        Raises ``GitFailed``, ``TimedOut``, ``NoSpace``.
        """
        settings, count = self.settings, factory("profile", "code")
        if found.local_only:
            return ()
        if found.account is None:
            return (count(found, authors, timeout=settings.git_timeout),)
        # An account's repositories are read without their mailmaps: one could hand others' lines to the account.
        clones = factory("github", "clones")(settings.home / "clones", found.account)
        source = factory("source", "git")(
            cache=clones, timeout=settings.git_timeout, max_clone_bytes=settings.max_clone_bytes, mailmap=False
        )  # fmt: skip
        counted: list[CodeFacts] = []
        for part in parts:
            there: Found = source.find(f"{part.url}.git", part.commit)
            named = there.repository.model_copy(update={"url": part.url})
            there = there.model_copy(update={"repository": named})
            counted.append(count(there, authors, timeout=settings.git_timeout, mailmap=False))
        return tuple(counted)

    def forget_account(self, account: Account | None) -> None:
        """Delete what this machine keeps of an account's repositories, and what GitHub said of anybody."""
        factory("github", "forget_answers")(self.settings.home / "github")
        if account is not None:
            factory("github", "forget")(self.settings.home / "clones", account)

    def github(self) -> Any:
        """A client of GitHub, to be closed after use (``clonedna.sources.github_client.GitHub``). Raises ``BadConfig``."""
        settings = self.settings
        return factory("github", "client")(
            url=settings.github_url, token=settings.github_token.get_secret_value() if settings.github_token else None,
            cache=settings.home / "github", max_wait=settings.github_max_wait,
        )  # fmt: skip

    def teacher(self, name: str, *, base: str = "", about: About | None = None) -> Teacher:
        """The teacher of this name, told what it may know ``about`` the person; ``base`` is what the `engine` teacher asks."""
        make, settings = factory("teacher", name), self.settings
        if name == "own-words":
            return make()
        known: dict[str, Any] = {
            "home": settings.home, "about": about or About(), "secret_in": factory("secrets", "patterns"),
        }  # fmt: skip
        if name == "engine":
            return make(engine=self.engine(base), **known)
        key = settings.teacher_key.get_secret_value() if settings.teacher_key else ""
        if not key and settings.teacher_url.rstrip("/") == XAI_URL:
            raise BadConfig(
                "the openai teacher has no key", "set DNA_TEACHER_KEY or XAI_API_KEY, or another teacher_url"
            )
        return make(
            url=settings.teacher_url, model=settings.teacher_model, key=key, schema=settings.teacher_schema,
            timeout=settings.teacher_timeout, retries=settings.teacher_retries, at_once=settings.teacher_at_once,
            prompt_price=settings.teacher_prompt_price, completion_price=settings.teacher_completion_price, **known,
        )  # fmt: skip

    @cached_property
    def sandboxes(self) -> Any:
        """Opens sandboxes, once their self-test has passed (``clonedna.sandbox.trial.Sandboxes``); its ``open`` is an ``OpenSandbox``."""
        return factory("sandbox", "bubblewrap")()

    @cached_property
    def signer(self) -> Signer:
        secret = self.settings.key_passphrase
        return factory("signer", "keyring")(
            self.settings.home / "keys",
            passphrase=secret.get_secret_value() if secret else None,
            ask=self.ask_passphrase,
        )

    @cached_property
    def consents(self) -> Consents:
        return factory("consents", "self")(
            self.settings.home / "consents", self.signer, factory("consents", "now"), others=self.granted_consents
        )

    @cached_property
    def accounts(self) -> Accounts:
        """What GitHub publishes about accounts. Raises ``BadConfig`` for a ``github_url`` that is not safe."""
        settings = self.settings
        token = settings.github_token.get_secret_value() if settings.github_token else ""
        return factory("consents", "accounts")(settings.github_url, token)

    @cached_property
    def granted_consents(self) -> GrantedConsents:
        """What other people granted this machine, and took back. Raises as ``accounts``."""
        return factory("consents", "granted")(
            self.settings.home / "consents", self.signer, self.accounts, self.audit, factory("consents", "now")
        )

    @cached_property
    def challenges(self) -> Challenges:
        """How people prove that an account is theirs. Raises as ``accounts``."""
        return factory("developers", "challenges")(self.signer, self.accounts, factory("consents", "now"))

    @cached_property
    def audit(self) -> AuditLog:
        return factory("audit", "log")(self.settings.home / "audit", self.signer, factory("consents", "now"))

    @cached_property
    def tombstones(self) -> Tombstones:
        return factory("tombstones", "signed")(
            self.settings.home / "tombstones", self.signer, factory("consents", "now")
        )

    @cached_property
    def store(self) -> Store:
        return factory("store", "directory")(self.settings.home / "store", self.signer)

    @cached_property
    def database(self) -> Database:
        """Where the catalogue and what people write are kept: ``database_url``, or a file in the home."""
        home, url = self.settings.home, self.settings.database_url
        home.mkdir(parents=True, exist_ok=True)
        return factory("database", "sql")(url.get_secret_value() if url else f"sqlite:///{home / 'registry.sqlite'}")

    @cached_property
    def registry(self) -> Registry:
        return factory("registry", "sql")(self.database, self.store)

    @cached_property
    def genomes(self) -> Genomes:
        return factory("genomes", "files")(self.settings.home / "genomes", self.signer)

    @cached_property
    def personas(self) -> PersonaFiles:
        return factory("personas", "files")(self.settings.home / "personas", self.signer)

    @cached_property
    def lines(self) -> SqlLines:
        """What lists and searches read of each block."""
        return factory("lines", "sql")(self.database, self.store)

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder of the settings. Raises as ``open_encoder``."""
        return self.open_encoder(self.settings.encoder)

    def open_encoder(self, name: str) -> Encoder:
        """The encoder that a setting ``encoder`` of ``name`` means. Raises ``InputError``, ``BadConfig``, ``NotFound``, ``Unavailable``,
        ``Corrupt``."""
        if not re.fullmatch(ENCODER, name):
            raise InputError(
                f"no encoder is called {name[:80]!r}",
                "choose minilm, minilm:ADAPTER, hashed, hashed:SIZE, sentence-transformers:FOLDER or http:MODEL", param="encoder",
            )  # fmt: skip
        settings, (kind, _, told) = self.settings, name.partition(":")
        make = factory("encoder", kind)
        if kind == "hashed":
            return make(int(told)) if told else make()
        if kind == "http":
            if settings.encoder_url is None:
                raise BadConfig("encoder is on a server, and no encoder_url is set", "set encoder_url: docs/genomes.md")
            key = settings.encoder_key.get_secret_value() if settings.encoder_key else ""
            return make(
                settings.encoder_url, told, settings.encoder_dimension, key=key, timeout=settings.encoder_timeout
            )
        return make(told)

    @cached_property
    def vectors(self) -> Index:
        """Vectors of blocks by the encoder of the settings; raises as ``encoder``."""
        return self.index_of(self.encoder)

    @cached_property
    def meanings(self) -> Meanings:
        """Blocks by what they mean; raises as ``encoder``."""
        return self.meanings_by(self.encoder)

    @cached_property
    def glossary(self) -> Glossary:
        """What names in blocks' texts mean: the bundled entries and those of ``glossary_extension``. Raises ``BadConfig``."""
        return load_glossary(self.settings.glossary_extension)

    @property
    def rarity(self) -> Rarity:
        """How rare words are among the texts of all blocks, with what their names mean and what may be typed by who looks for them: read
        again only when a block or such lines came or went."""
        lines, queries = self.lines, self.queries
        state, kept = (lines.state(), queries.state()), self._rarity
        if kept is None or kept[0] != state:
            told, have = self.glossary.explained, queries.blocks()
            texts = {key: told(text) for key, text in lines.meanings().items()}
            texts |= {key: " ".join((texts[key], *queries.of(key))) for key in have & texts.keys()}
            kept = self._rarity = state, Rarity(texts)
        return kept[1]

    @cached_property
    def queries(self) -> KeptQueries:
        """What people may type who look for a block, as a teacher wrote it."""
        return KeptQueries(self.settings.home)

    def meanings_by(self, encoder: Encoder) -> Meanings:
        """The same by any encoder."""
        elsewhere: bool = getattr(encoder, "elsewhere", False)
        exemplars = BlockExemplars(
            self.store, self.registry, lambda: self.consents, lambda: self.glossary, self.queries, elsewhere=elsewhere
        )
        made = Meanings(self.lines, encoder, self.index_of(encoder), self.index_of(encoder, "exemplars"), exemplars)
        made.settles = self.stays
        return made

    def index_of(self, encoder: Encoder, space: str = "blocks") -> Index:
        """Vectors by this encoder: of blocks' texts, or of what stands beside them, ``exemplars``, with this home's glossary. Raises
        ``BadConfig``."""
        settings, name = self.settings, encoder.name
        if space == "exemplars":
            name = f"{name}+{self.glossary.revision}"
        if settings.index == "pgvector":
            return factory("index", "pgvector")(self.database, space, name, encoder.dimension)
        folder = re.sub(r"[^a-z0-9.-]+", "-", name)[:80]
        if folder != name.replace("@", "-"):  # two names may look alike
            folder = f"{folder}-{sha256(name)[:8]}"
        path = settings.home / "vectors" / space / folder
        return factory("index", "files")(path, name, encoder.dimension, graph_from=settings.graph_from)

    def forget_vectors(self, ids: Collection[str] | None = None) -> None:
        """Take what blocks mean off the disk, whichever encoder made it; ``None``: of all blocks."""
        for space, keys in (("blocks", ids), ("exemplars", None if ids is None else KeysOf(ids))):
            if self.settings.index == "pgvector":
                factory("index", "forget_pgvector")(self.database, space, keys)
            root = self.settings.home / "vectors" / space
            if keys is None:
                factory("index", "forget_all")(root)
            else:
                factory("index", "forget")(root, keys)

    def engine(self, base: str) -> Engine:
        """The engine that holds ``base``; loading it takes seconds the first time. Raises ``UnknownBase``, ``BadConfig``; for ``vllm``
        also what ``open_vllm`` raises."""
        if base not in self._engines:
            self._engines[base] = self._open_engine(base)
        return self._engines[base]

    def _open_engine(self, base: str) -> Engine:
        settings = self.settings
        if settings.engine == "local":
            return factory("engine", "local")(
                base, threads=settings.threads, dtype=settings.dtype, device=settings.device, quantize=settings.quantize
            )  # fmt: skip
        if settings.vllm_url is None:
            raise BadConfig("engine is 'vllm', and no vllm_url is set", "set vllm_url (or DNA_VLLM_URL): docs/vllm.md")
        key = settings.vllm_key.get_secret_value() if settings.vllm_key else ""
        return factory("engine", "vllm")(base, url=settings.vllm_url, key=key)

    def reindex(self) -> tuple[Refusal, ...]:
        """Rebuild the catalogue from the store's files alone; gives the blocks that were left out, and why."""
        catalogue: Any = self.registry
        return catalogue.reindex()

    def lent(self) -> Lent:
        """What an examination needs of the parts."""
        from clonedna.app.probing import probe
        from clonedna.evals.examination import Lent  # loads numpy
        from clonedna.mint.overlap import overlaps

        async def layer_drift(engine: Engine, directory: Path) -> DriftReport:
            return await factory("drift", "local")(engine, directory)  # loads the model libraries: when it is asked for

        secret_in = factory("secrets", "patterns")
        return Lent(
            secret_in=secret_in, parse=factory("syntax", "trees"), overlaps=overlaps, layer_drift=layer_drift,
            sandbox=self.sandboxes.open, probe=partial(probe, self.settings, secret_in),
        )  # fmt: skip

    async def check_adapter(self, base: str, directory: Path, examples: Sequence[Example]) -> Check:
        """Whether a fresh process loads the files with PEFT and gets the engine's logits; ``None`` inside: nothing could be compared.

        Raises ``TimedOut`` and ``Unavailable`` where this machine did not let it run to its end: to be tried again.
        """
        return await factory("peft_check", "fresh-process")(self.engine(base), directory, examples, base)

    def release(self) -> None:
        """Close the connections to the database that stay open, so that its file may be moved."""
        for name in ("lines", "registry"):
            if (held := vars(self).get(name)) is not None:
                held.close()

    async def close(self) -> None:
        """Stop the engines. The parts can be made again afterwards."""
        for engine in self._engines.values():
            await engine.close()
        self._engines.clear()
