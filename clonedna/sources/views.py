"""Where a repository is read: a bare *view* in our cache, never the repository itself.

A view of a local repository borrows its objects and nothing else: configuration, hooks, attributes and work tree stay outside, so
nothing there can make git run something, and no byte is written there. A view of a URL is a bare copy of what its HEAD reaches.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from clonedna.core.canonical import sha256
from clonedna.core.errors import AddressRefused, GitFailed, NoSpace, NotARepository, TimedOut
from clonedna.core.work import Identity
from clonedna.sources.process import Git, failure

HEAD = "refs/heads/dna"
MAX_SHALLOW = 16_000_000
_SCHEME = re.compile(
    r"^((https|ssh|git)://([^/\s@]*@)?[^/\s@-]|http://(127\.0\.0\.1|localhost|\[::1\])(:\d+)?/|file:///)\S*$",
    re.IGNORECASE,
)  # plain http only on this machine
_SCP = re.compile(r"^(?:[\w.-]+@)?(?P<host>[A-Za-z0-9][\w.-]*):(?P<path>(?!//)[^:\s-][^\s]*)$")
_HINT = "give the path of a repository, or a git URL (https, ssh, git, file)"


@dataclass(frozen=True, slots=True)
class View:
    """``directory``: the bare repository to read. ``url``: fit for a block. ``you``: the git identity of whoever works here."""

    directory: Path
    name: str
    url: str
    you: Identity | None


@dataclass(frozen=True, slots=True)
class Views:
    """Makes and updates views under ``cache``; ``timeout`` (seconds) and ``most_bytes`` bound a transfer.

    ``outside``: for somebody who may only name public addresses.
    """

    cache: Path
    timeout: float
    most_bytes: int
    outside: bool = False

    def open(self, target: str) -> View:
        """A view of a path or URL, with its HEAD as of now. Raises ``NotARepository``, ``GitFailed``, ``TimedOut``, ``NoSpace``, and
        ``AddressRefused`` (``outside``)."""
        if target.startswith("-") or not target.isprintable():
            raise NotARepository(f"{target[:200]!r} is no repository", "write ./ before a path that begins with a dash")
        try:
            there = bool(target) and Path(target).exists()
        except OSError:
            there = False
        if there and self.outside:
            raise AddressRefused("this is a place of the machine's own disk", "give the repository's https address")
        return self._local(Path(target)) if there else self._remote(target)

    def _local(self, target: Path) -> View:
        outside = Git(target if target.is_dir() else target.parent, timeout=min(60, self.timeout))
        try:
            common = Path(outside.text("rev-parse", "--path-format=absolute", "--git-common-dir"))
            objects = Path(outside.text("rev-parse", "--path-format=absolute", "--git-path", "objects"))
            form = outside.text("rev-parse", "--show-object-format")
            inside = outside.text("rev-parse", "--is-inside-work-tree") == "true"
            top = Path(
                outside.text("rev-parse", "--show-toplevel")
                if inside
                else outside.text("rev-parse", "--absolute-git-dir")
            )
        except GitFailed as error:
            raise NotARepository(f"{target} is not in a git repository ({error.message})", _HINT) from None
        try:
            commit = outside.text("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
        except GitFailed:
            raise NotARepository(
                f"{target} has no commit yet", "commit something first, or check it with: git fsck"
            ) from None
        directory = self.cache / f"view-{sha256(f'{form}:{common.resolve()}')[:24]}"
        with self._holding(directory):
            if not directory.exists():
                with self._new(directory) as fresh:
                    Git(fresh, timeout=60).run("init", "-q", "--bare", f"--object-format={form}", "--template=", ".")
                    (fresh / "objects/info").mkdir(exist_ok=True)
            (directory / "objects/info/alternates").write_bytes(os.fsencode(f"{_quoted(objects.resolve())}\n"))
            _copy_shallow(common / "shallow", directory / "shallow")
            _set_head(directory, commit)
        origin = _origin(outside)
        here = top.parent.name if top.name == ".git" else top.name
        name = _name(origin or here)
        return View(directory, name, origin or f"local:{name}", identity(outside.directory))

    def _remote(self, target: str) -> View:
        if not (_SCHEME.match(target) or _SCP.match(target)):
            raise NotARepository(f"{clean_url(target)[:200]} does not exist and is no git URL", _HINT)
        url = clean_url(target)
        directory = self.cache / f"clone-{sha256(url)[:24]}"
        with self._holding(directory):
            if directory.exists():
                self._fetch(directory, target)
            else:
                with self._new(directory) as fresh:
                    Git(fresh, timeout=60).run("init", "-q", "--bare", "--template=", ".")
                    self._fetch(fresh, target)
                    _set_head(fresh, None)
        name = _name(url)
        return View(directory, name, f"local:{name}" if url.startswith("file:") else url, identity(directory))

    def _fetch(self, directory: Path, target: str) -> None:
        """Bring HEAD and what it reaches. The URL is an argument, so that its credentials are never written to the disk."""
        scheme = target.partition("://")[0].lower() if "://" in target else "ssh"
        git = Git(directory, timeout=self.timeout, protocols=[scheme], settings=self._pinned(target))
        arguments = (
            "fetch", "-q", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head", "--no-auto-maintenance", "--update-shallow",
            "--force", "--end-of-options", target, f"HEAD:{HEAD}",
        )  # fmt: skip
        with tempfile.TemporaryFile() as said:
            process = git.start(arguments, subprocess.DEVNULL, said)
            try:
                self._watch(process, directory)
            finally:
                git.end(process)
                if process.returncode:
                    for left in directory.glob("objects/pack/tmp_*"):
                        left.unlink(missing_ok=True)
            if process.returncode:
                said.seek(0)
                raise _fetch_failure(target, said.read(100_000))

    def _pinned(self, target: str) -> tuple[str, ...]:
        if not self.outside:
            return ()
        from clonedna.sources.outside import pinned

        return pinned(target)

    def _watch(self, process: subprocess.Popen[bytes], directory: Path) -> None:
        """Wait for a transfer; look four times a second whether it takes too long or brings too much."""
        until = time.monotonic() + self.timeout
        done = threading.Event()
        while process.poll() is None:
            done.wait(0.02 if time.monotonic() < until - self.timeout + 1 else 0.25)
            if time.monotonic() > until:
                raise TimedOut(
                    f"the repository did not arrive within {self.timeout:.0f} s",
                    "raise the setting git_timeout, or clone it yourself and give the path",
                )
            if _size(directory) > self.most_bytes:
                raise GitFailed(
                    f"the repository is over {self.most_bytes} bytes",
                    "raise the setting max_clone_bytes, or clone it yourself and give the path",
                )

    @contextmanager
    def _new(self, directory: Path) -> Generator[Path]:
        """A directory under a temporary name that becomes ``directory`` when all went well: a killed process leaves no half view."""
        fresh = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=self.cache))
        try:
            yield fresh
            fresh.rename(directory)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise

    @contextmanager
    def _holding(self, directory: Path) -> Generator[None]:
        """One process at a time makes or updates a view."""
        try:
            self.cache.mkdir(parents=True, exist_ok=True)
            lock = (self.cache / f"{directory.name}.lock").open("w")
        except OSError as error:
            raise NoSpace(
                f"the cache cannot be written: {error}", "free some space, or choose another DNA_HOME"
            ) from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                yield
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise GitFailed(
                        f"the repository cannot be read: {error}", "check its files and permissions"
                    ) from error
                raise NoSpace(
                    f"the cache cannot be written: {error}", "free some space, or choose another DNA_HOME"
                ) from error


def _copy_shallow(theirs: Path, ours: Path) -> None:
    """Where a shallow history ends, as the repository says; only a plain file of ids, since a link could name any file here."""
    ours.unlink(missing_ok=True)
    try:
        status = theirs.lstat()
    except OSError:
        return
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_SHALLOW:
        raise NotARepository(f"{theirs.name} of the repository is no plain list of commits", "check it with: git fsck")
    ours.write_bytes(theirs.read_bytes())


def _set_head(directory: Path, commit: str | None) -> None:
    git = Git(directory, timeout=60)
    if commit:
        git.run("update-ref", HEAD, commit)
    git.run("symbolic-ref", "HEAD", HEAD)


def _fetch_failure(target: str, stderr: bytes) -> GitFailed | NoSpace | NotARepository:
    url = clean_url(target)
    if b"couldn't find remote ref HEAD" in stderr:
        return NotARepository(f"{url} has no commit yet", "commit and push something first")
    error = failure("fetch", stderr)
    return type(error)(f"{url}: {error.message}".replace(target, url), error.hint)


def _quoted(path: Path) -> str:
    """A path as `objects/info/alternates` wants it: quoted as C when it begins with a quote or a hash, or holds a line end."""
    text = str(path)
    if "\n" in text or text.startswith(('"', "#")):
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    return text


def clean_url(url: str) -> str:
    """The URL without user, password, query and fragment; ``user@host:path`` becomes ``ssh://host/path``."""
    scp = _SCP.match(url)
    if scp and "://" not in url:
        return f"ssh://{scp['host']}/{scp['path'].lstrip('/')}"
    try:
        parts = urlsplit(url)
    except ValueError:
        return url.rpartition("@")[2].partition("?")[0]
    host = parts.netloc.rpartition("@")[2]
    return (
        f"{parts.scheme}://{host}{parts.path.rstrip('/')}" if parts.scheme and "://" in url else url.rpartition("@")[2]
    )


def _name(url: str) -> str:
    last = url.rstrip("/").replace(":", "/").rpartition("/")[2].removesuffix(".git")
    return re.sub(r"[^\w.-]", "-", last)[:100] or "repository"


def _origin(git: Git) -> str | None:
    """Where a local repository came from, fit for a block: a network URL without credentials, or nothing."""
    try:
        url = git.text("config", "--local", "--get", "remote.origin.url")
    except GitFailed:
        return None
    remote = re.match(r"(https?|ssh|git)://[^/]", url, re.IGNORECASE) or ("://" not in url and _SCP.match(url))
    return clean_url(url) if remote else None


def identity(directory: Path) -> Identity | None:
    """user.name and user.email as git would use them in ``directory``. Reading configuration runs nothing."""
    kept = ("HOME", "XDG_CONFIG_HOME", "PATH", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM")
    seen = {key: value for key, value in os.environ.items() if key in kept}

    def value(key: str) -> str:
        command = ["git", "--no-pager", "-C", str(directory), "-c", "safe.directory=*", "config", "--get", key]
        try:
            done = subprocess.run(command, capture_output=True, env=seen, check=False, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout.decode("utf-8", "replace").strip()

    name, email = value("user.name"), value("user.email")
    return Identity(name=name, email=email) if name or email else None


def _size(directory: Path) -> int:
    """Bytes of all files below ``directory``; those that vanish meanwhile count nothing."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except OSError:
                continue
    return total
