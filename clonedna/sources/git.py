"""The `git` source: a local repository or a git URL, read at one commit, never from the work tree.

Everything is read through a bare *view* of our own: objects are borrowed from the repository (or cloned from the URL), configuration,
hooks and attributes are not, so nothing in a repository can make git run something. The view also carries an index of changed paths
that makes blame fast, without a byte written into the person's repository.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import urlsplit

from clonedna.core.canonical import sha256
from clonedna.core.errors import GitFailed, InputError, NoSpace, NoSuchAuthor, NotARepository, TimedOut
from clonedna.core.events import Emit
from clonedna.core.work import Collection, Found, Identity, Licence, Repository
from clonedna.sources.collecting import Request, collect_spans
from clonedna.sources.history import author_shares, read_history
from clonedna.sources.licences import LICENCE_FILE, licence_of_texts
from clonedna.sources.process import Git, environment, failure

URL = re.compile(r"^(https?://|ssh://|git://|file://|[\w.-]+@[\w.-]+:)", re.IGNORECASE)
FULL = "refs/heads/dna"


class GitSource:
    """Fulfils the ``Source`` seam. ``cache`` holds the views; ``max_clone_bytes`` bounds what a URL may bring."""

    def __init__(self, *, cache: Path, timeout: float = 600.0, max_clone_bytes: int = 2_000_000_000) -> None:
        self.cache, self.timeout, self.max_clone_bytes = cache, timeout, max_clone_bytes

    def find(self, target: str) -> Found:
        """Raises ``NotARepository``, ``InputError`` (a target that is an option), ``GitFailed``, ``TimedOut``, ``NoSpace``."""
        if target.startswith("-"):
            raise InputError(f"{target!r} is no repository", "write ./ before a path that begins with a dash")
        view, name, url, you = self._local(Path(target)) if Path(target).exists() else self._remote(target)
        git = Git(view, timeout=self.timeout)
        commit, _, committed = git.text("log", "-1", "--format=%H%x1f%cI", "HEAD", "--").strip().partition("\x1f")
        total, shares = author_shares(git, commit)
        repository = Repository(
            name=name,
            url=url,
            commit=commit,
            committed_at=committed,
            licence=self._licence(git, commit),
            commits=total,
            authors=shares,
        )
        return Found(repository=repository, location=str(view), you=you)

    def collect(
        self, found: Found, authors: Sequence[Identity], *, licences: Sequence[str], owned_share: float,
        max_files: int, max_changes: int, emit: Emit,
    ) -> Collection:  # fmt: skip
        """Raises ``NoSuchAuthor`` (with the closest names), ``LicenceUnknown``, ``LicenceNotAllowed``, ``GitFailed``."""
        git = Git(Path(found.location), timeout=self.timeout)
        _index_paths(git)
        commits = read_history(git, found.repository.commit)
        own = [commit for commit in commits if commit.by(authors)]
        if not own:
            raise _no_such_author(authors, found.repository)
        request = Request(found.repository, tuple(licences), owned_share, max_files, max_changes)
        return collect_spans(git, request, commits, own, emit)

    def _local(self, target: Path) -> tuple[Path, str, str, Identity | None]:
        """A view of a local repository: its objects by reference, its HEAD, nothing of its configuration."""
        outside = Git(target if target.is_dir() else target.parent, timeout=60)
        try:
            common, objects, top = (
                Path(target, line) for line in outside.text(
                    "rev-parse", "--path-format=absolute", "--git-common-dir", "--git-path", "objects", "--absolute-git-dir"
                ).splitlines()
            )  # fmt: skip
            commit = outside.text("rev-parse", "--verify", "--quiet", "--end-of-options", "HEAD^{commit}").strip()
        except (GitFailed, ValueError) as error:
            if (
                isinstance(error, GitFailed)
                and (target / ".git").exists() | (target / "HEAD").exists()
                and "not a git" not in error.message
            ):
                raise NotARepository(
                    f"{target} has no commit that can be read", "commit something first, or check it with: git fsck"
                ) from None
            raise NotARepository(
                f"{target} is not in a git repository", "give the path of a repository, or a git URL"
            ) from None
        form = outside.text("rev-parse", "--show-object-format").strip()
        view = self.cache / f"view-{sha256(str(common.resolve()))[:24]}"
        with self._holding(view):
            if not (view / "HEAD").exists():
                self._make(view, "init", "-q", "--bare", f"--object-format={form}")
            (view / "objects/info").mkdir(parents=True, exist_ok=True)
            (view / "objects/info/alternates").write_text(f"{_quoted(objects.resolve())}\n")
            shallow = common / "shallow"
            if shallow.exists():
                shutil.copyfile(shallow, view / "shallow")
            else:
                (view / "shallow").unlink(missing_ok=True)
            git = Git(view, timeout=60)
            git.run("update-ref", FULL, commit)
            git.run("symbolic-ref", "HEAD", FULL)
        remote = _url_of(outside)
        bare = top.name if top.name != ".git" else top.parent.name
        name = _name(remote) if remote else re.sub(r"\.git$", "", bare) or "repository"
        return view, name, remote or f"local:{name}", _identity(outside)

    def _remote(self, target: str) -> tuple[Path, str, str, Identity | None]:
        """A bare clone in the cache, brought up to date when it is there."""
        if not URL.match(target):
            raise NotARepository(
                f"{target} does not exist and is no git URL", "give the path of a repository, or a git URL"
            )
        url = clean_url(target)
        view = self.cache / f"clone-{sha256(url)[:24]}"
        with self._holding(view):
            if (view / "HEAD").exists():
                self._bounded(
                    [
                        "git",
                        "-C",
                        str(view),
                        "fetch",
                        "-q",
                        "--no-tags",
                        "--no-recurse-submodules",
                        "--force",
                        "origin",
                        "HEAD:" + FULL,
                    ],
                    view,
                )
            else:
                self._make(view, "init", "-q", "--bare")
                try:
                    Git(view, timeout=60).run("remote", "add", "origin", target)
                    self._bounded(
                        [
                            "git",
                            "-C",
                            str(view),
                            "fetch",
                            "-q",
                            "--no-tags",
                            "--no-recurse-submodules",
                            "origin",
                            "HEAD:" + FULL,
                        ],
                        view,
                    )
                except BaseException:
                    shutil.rmtree(view, ignore_errors=True)
                    raise
            Git(view, timeout=60).run("symbolic-ref", "HEAD", FULL)
        return (
            view,
            _name(url),
            url if not url.startswith("file:") else f"local:{_name(url)}",
            _identity(Git(None, timeout=60)),
        )

    def _make(self, view: Path, *init: str) -> None:
        """Initialise under a temporary name, then rename: a killed process leaves no half view."""
        temporary = view.with_name(f".{view.name}.{os.getpid()}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            Git(None, timeout=60).run(*init, "--template=", str(temporary))
            temporary.rename(view)
        except OSError as error:
            raise NoSpace(
                f"the cache cannot be written: {error}", "free some space, or choose another DNA_HOME"
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _bounded(self, command: list[str], directory: Path) -> None:
        """Run a transfer; stop it when it takes too long or brings too much. The bound is checked twice a second."""
        command[1:1] = []
        hardened = Git(directory, timeout=self.timeout).command(*command[3:])
        stop = threading.Event()
        process = subprocess.Popen(
            hardened, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment()
        )
        too_much: list[str] = []

        def watch() -> None:
            end = time.monotonic() + self.timeout
            while not stop.wait(0.5):
                if time.monotonic() > end:
                    too_much.append("time")
                elif _size(directory) > self.max_clone_bytes:
                    too_much.append("bytes")
                if too_much:
                    process.kill()
                    return

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            _, stderr = process.communicate()
        finally:
            process.kill()
            stop.set()
        if too_much == ["time"]:
            raise TimedOut(
                f"the repository did not arrive within {self.timeout:.0f} s",
                "raise the setting git_timeout, or clone it yourself and give the path",
            )
        if too_much:
            raise GitFailed(
                f"the repository is over {self.max_clone_bytes} bytes",
                "raise the setting max_clone_bytes, or clone it yourself and give the path",
            )
        if process.returncode:
            raise failure("fetch", re.sub(rb"//[^/@\s]+@", b"//", stderr))

    @contextmanager
    def _holding(self, view: Path) -> Generator[None]:
        """One process at a time makes or updates a view."""
        try:
            self.cache.mkdir(parents=True, exist_ok=True)
            with (self.cache / f"{view.name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise NoSpace(
                f"the cache cannot be written: {error}", "free some space, or choose another DNA_HOME"
            ) from error

    @staticmethod
    def _licence(git: Git, commit: str) -> Licence:
        names: list[tuple[str, str]] = []
        for record in git.text("ls-tree", "-z", commit).split("\0"):
            meta, _, path = record.partition("\t")
            if " blob " in meta and meta.startswith("100") and LICENCE_FILE.match(path):
                names.append((path, meta.split()[2]))
        blobs = dict(git.blobs([blob for _, blob in names], 200_000))
        texts = [(path, data.decode("utf-8", "replace")) for path, blob in sorted(names) if (data := blobs.get(blob))]
        return licence_of_texts(texts)


def _quoted(path: Path) -> str:
    """A path as `objects/info/alternates` wants it: quoted as C when it begins with a quote or holds a line end."""
    text = str(path)
    if "\n" in text or text.startswith(('"', "#")):
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    return text


def _index_paths(git: Git) -> None:
    """Write the commit-graph with changed-path filters into the view (Bloom filters; makes blame of many files fast). Not needed for truth."""
    try:
        git.run("-c", "core.commitGraph=true", "commit-graph", "write", "--reachable", "--changed-paths", timeout=120)
    except (GitFailed, TimedOut):
        return  # a shallow or grafted history has none; blame then walks it


def clean_url(url: str) -> str:
    """The URL without credentials, query and fragment."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def _name(url: str) -> str:
    last = url.rstrip("/").replace(":", "/").rpartition("/")[2]
    return re.sub(r"[^\w.-]", "-", re.sub(r"\.git$", "", last))[:100] or "repository"


def _url_of(git: Git) -> str | None:
    """Where a local repository came from, fit for a block: a network URL without credentials, or nothing."""
    try:
        url = git.text("config", "--local", "--get", "remote.origin.url").strip()
    except GitFailed:
        return None
    return clean_url(url) if URL.match(url) and not url.casefold().startswith("file:") else None


def _identity(git: Git) -> Identity | None:
    """The person's own git identity, from their own configuration; reading it runs nothing."""
    values: list[str] = []
    kept = {
        key: value
        for key, value in os.environ.items()
        if key in ("HOME", "XDG_CONFIG_HOME", "PATH", "GIT_CONFIG_GLOBAL")
    }
    for key in ("user.name", "user.email"):
        where = ["-C", str(git.directory)] if git.directory else []
        done = subprocess.run(
            ["git", *where, "config", "--get", key], capture_output=True, env=kept, check=False, timeout=30
        )
        values.append(done.stdout.decode("utf-8", "replace").strip())
    return Identity(name=values[0], email=values[1]) if any(values) else None


def _size(directory: Path) -> int:
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except OSError:
                continue
    return total


def _no_such_author(authors: Sequence[Identity], repository: Repository) -> NoSuchAuthor:
    asked = ", ".join(str(author) for author in authors)
    known = {str(share.identity): share for share in repository.authors}
    close = get_close_matches(asked, known, n=3, cutoff=0.3) or list(known)[:3]
    return NoSuchAuthor(
        f"no commits by {asked} in {repository.name}",
        f"closest: {'; '.join(close)}" if close else "list the authors with: dna authors",
        candidates=close,
    )
