"""The `package` source: the Python files of installed distributions, as their RECORD lists them (``package:click``, ``package:a,b,c``).

What is minted of a package is named after the package, not after a person, and stays on this machine: nobody in particular wrote it, so
nobody can consent. A file counts only with the digest that RECORD has for it. Nothing of a package is imported or run.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, DistributionFinder, MetadataPathFinder
from pathlib import Path
from urllib.parse import quote

from clonedna.core.canonical import sha256
from clonedna.core.errors import (
    Corrupt,
    InputError,
    LicenceNotAllowed,
    LicenceUnknown,
    NoSuchAuthor,
    NotFound,
    TooFewSpans,
)
from clonedna.core.events import Emit
from clonedna.core.work import AuthorShare, Collection, Found, Identity, Licence, Refusal, Repository, Span
from clonedna.sources.description import one_line
from clonedna.sources.filters import SEGMENTS, path_refusal
from clonedna.sources.history import Commit
from clonedna.sources.languages import Entry, entry_of
from clonedna.sources.package_licence import is_licence_path, package_licence
from clonedna.sources.usable import MAX_FILE_BYTES, Request, Usable, place

PREFIX = "package:"
MOST_PACKAGES = 32
MAX_RECORD_BYTES = 16_000_000
SECONDS_BETWEEN_EVENTS = 0.5
LOCAL_ONLY = "a package is no person: nobody can consent for it, so a block of it is local-only"
_NAME = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?"
)  # https://packaging.python.org/specifications/name-normalization
_AUTHOR = Commit(id="", subject="", order=0, paths=())  # a package has no history: every line is its own


def is_package(target: str) -> bool:
    """Whether ``target`` is meant as one or several installed packages."""
    return target.startswith(PREFIX)


@dataclass(frozen=True, slots=True)
class _Package:
    """An installed distribution. ``root``: what RECORD's paths are relative to; ``files``: path -> SHA-256 in hex, or empty."""

    name: str
    version: str
    root: Path
    files: dict[str, str]
    licence: Licence
    description: str

    @property
    def repository(self) -> Repository:
        lines = "".join(f"{path} {digest}\n" for path, digest in sorted(self.files.items()) if path.endswith(".py"))
        return Repository(
            name=self.name, url=f"pkg:pypi/{self.name}@{quote(self.version, safe='')}", commit=sha256(lines)[:40], committed_at="",
            licence=self.licence, commits=0, authors=(AuthorShare(identity=Identity(name=self.name), commits=0, share=1.0),),
            description=self.description,
        )  # fmt: skip


class PackageSource:
    """Fulfils the ``Source`` seam for installed distributions.

    ``folder``: where they were installed (``pip install --target``); without one, this interpreter's environment is looked through.
    A package's ``url`` is its package URL (ECMA-427), its ``commit`` the first 40 hex digits of the SHA-256 over path and digest of all
    its Python files, a span's ``blob`` the SHA-256 of its file.
    """

    def __init__(self, *, folder: Path | None = None) -> None:
        self._folder = folder

    def find(self, target: str) -> Found:
        """Raises ``InputError`` (not a name, too many, installed in place, no RECORD), ``NotFound`` (not installed), ``Corrupt``."""
        names = _names(target)
        if self._folder is not None and not self._folder.is_dir():
            raise InputError(f"{self._folder} is no folder", "correct the setting packages (DNA_PACKAGES)")
        where = [str(self._folder.absolute())] if self._folder else None
        packages = [_open(name, where) for name in names]
        roots = dict.fromkeys(str(one.root) for one in packages)
        parts = tuple(one.repository for one in packages)
        return Found(
            repository=parts[0] if len(parts) == 1 else _family(parts),
            location=os.pathsep.join(roots),
            local_only=LOCAL_ONLY,
        )

    def collect(
        self, found: Found, authors: Sequence[Identity], *, licences: Sequence[str], owned_share: float,
        max_files: int, max_changes: int, emit: Emit, since: Repository | None = None,
    ) -> Collection:  # fmt: skip
        """Spans in order of path and line; every line of a package is its own, and it has no changes. ``max_files``: of all together.

        Of several packages one whose licence is not allowed is a refusal. Raises ``NoSuchAuthor``, ``LicenceUnknown``,
        ``LicenceNotAllowed``, ``TooFewSpans`` (no Python in it), ``Corrupt`` (installed anew since it was found), and as ``find``.
        """
        if since is not None:
            raise InputError("a package has no history, so nothing of it is newer", "mint it anew")
        repository = found.repository
        mine = repository.authors[0].identity
        if not any(author.matches(mine.name, mine.email) for author in authors):
            raise NoSuchAuthor(
                f"the author of {repository.name} is the package itself", "leave --author out", candidates=[str(mine)]
            )
        parts = repository.parts or (repository,)
        packages = [
            _open(part.name, found.location.split(os.pathsep) if repository.parts else [found.location])
            for part in parts
        ]
        collections: list[tuple[Repository, Collection]] = []
        refusals: list[Refusal] = []
        left = max_files
        for part, package in zip(parts, packages, strict=True):
            if package.repository != part:
                raise Corrupt(
                    f"{part.name} is not what it was when it was found", "start again: it was installed anew since"
                )
            request = Request(part, tuple(licences), owned_share, left, max_changes)
            try:
                collection = _Reading(package, request, emit).collection()
            except (LicenceUnknown, LicenceNotAllowed) as error:
                if not repository.parts:
                    raise
                refusals.append(Refusal(path=part.name, reason=error.code, detail=(part.licence.spdx or "")[:100]))
                continue
            left -= collection.files_used
            collections.append((part, collection))
        if not collections:
            raise LicenceNotAllowed(
                f"no package of {repository.name} is under a licence that is known and allowed here ({', '.join(licences)})",
                "allow a further one with --allow-licence",
            )
        if not sum(one.files_seen for _, one in collections):
            raise TooFewSpans(
                f"{repository.name} has no Python code: compiled or stubs alone", "choose another package"
            )
        return collections[0][1] if not repository.parts else _joined(repository, collections, refusals)


class _Reading(Usable):
    """One package being read. It is its own ``Contents``: the one file that is being looked at, its digest already checked."""

    def __init__(self, package: _Package, request: Request, emit: Emit) -> None:
        super().__init__(self, request, emit)
        self.package, self._held = package, b""

    def get(self, name: str, most: int) -> bytes | None:
        return self._held if len(self._held) <= most else None

    def collection(self) -> Collection:
        candidates, spans = self._candidates(), list[Span]()
        began = told = time.monotonic()
        for done, (path, digest, entry) in enumerate(candidates, 1):
            if self._hold(path, digest) and (file := self.usable(path, digest, entry, self.package.licence.spdx)):
                spans += self.owned_spans(file, [_AUTHOR] * (file.text.count("\n") + 1))
            if (now := time.monotonic()) - told > SECONDS_BETWEEN_EVENTS or done == len(candidates):
                self.tell(done, len(candidates), now - began)
                told = now
        self.judge_licence()
        return Collection(
            repository=self.request.repository, spans=tuple(sorted(spans, key=lambda one: (one.path, one.start, one.end))),
            refusals=tuple(sorted(set(self.refusals), key=place)), files_seen=self.seen, files_used=len({one.path for one in spans}),
            lines_owned=self.lines_owned,
        )  # fmt: skip

    def _candidates(self) -> list[tuple[str, str, Entry]]:
        """``(path, digest, language)`` of the files of a language that is known, by path, at most ``max_files``."""
        chosen: list[tuple[str, str, Entry]] = []
        for path, digest in sorted(self.package.files.items()):
            entry = entry_of(path)
            if entry is None or ".dist-info/" in path:
                continue
            self.seen += 1
            if reason := _path_refusal(path):
                self.refuse(path, reason)
            elif not digest:
                self.refuse(path, "no_digest", "RECORD has no SHA-256 of it")
            elif len(chosen) >= self.request.max_files:
                self.refuse(path, "over_max_files")
            else:
                chosen.append((path, digest, entry))
        return chosen

    def _hold(self, path: str, digest: str) -> bool:
        data = _read(self.package.root, path, MAX_FILE_BYTES)
        if data is None:
            self.refuse(
                path, "too_large_or_missing", f"over {MAX_FILE_BYTES} bytes, or no file below the package's folder"
            )
        elif hashlib.sha256(data).hexdigest() != digest:
            self.refuse(path, "changed", "not the digest that RECORD has")
        else:
            self._held = data
            return True
        return False


def _path_refusal(path: str) -> str | None:
    """As of any path; but a package may itself be called ``build`` or ``dist``."""
    reason = path_refusal(path)
    return path_refusal(path.partition("/")[2]) if reason in SEGMENTS and "/" in path else reason


def _names(target: str) -> tuple[str, ...]:
    """The packages that are meant, normalised (PEP 503), sorted, each once."""
    given = [name.strip() for name in target.removeprefix(PREFIX).split(",")]
    bad = next((name for name in given if not _NAME.fullmatch(name)), None)
    if bad is not None:
        raise InputError(
            f"{bad[:100]!r} is no name of a package",
            "write package:NAME, or package:NAME,NAME for several",
            param="target",
        )
    names = tuple(sorted({re.sub(r"[-_.]+", "-", name).casefold() for name in given}))
    if len(names) > MOST_PACKAGES:
        raise InputError(f"{len(names)} packages are too many", f"give at most {MOST_PACKAGES}", param="target")
    return names


def _open(name: str, where: list[str] | None) -> _Package:
    """The distribution of this name, first found in ``where`` (``None``: where this interpreter looks)."""
    # Not Distribution.discover: a backport of importlib.metadata in the process would give each distribution a second time.
    paths = where or list(dict.fromkeys(os.path.realpath(path) for path in sys.path))
    found = list(MetadataPathFinder.find_distributions(DistributionFinder.Context(name=name, path=paths)))
    roots = [Path(str(one.locate_file(""))).resolve() for one in found]
    if not found:
        raise NotFound(f"no package {name} is installed {'there' if where else 'here'}", "see what is: pip list")
    if roots.count(roots[0]) > 1:
        raise InputError(
            f"{name} is installed twice in one folder", f"install it anew: pip install --force-reinstall {name}"
        )
    chosen, root = found[0], roots[0]
    if _editable(chosen):
        raise InputError(
            f"{name} is installed in place (editable)", "give the path of its repository instead: its history is there"
        )
    record = chosen.read_text("RECORD")
    if record is None or len(record) > MAX_RECORD_BYTES or not root.is_dir():
        why = "has no RECORD of its files" if record is None else "is no folder of files that can be checked"
        raise InputError(f"{name} {why}", f"install it anew from a wheel: pip install --force-reinstall {name}")
    files = _recorded(record)
    if chosen.read_text("METADATA") is None:
        raise InputError(
            f"{name} has no METADATA", f"install it anew from a wheel: pip install --force-reinstall {name}"
        )
    licence = package_licence(
        chosen, {path: data for path in files if (data := _checked(root, path, files)) is not None}
    )
    summary = chosen.metadata.get_all("Summary") or [""]
    return _Package(name, chosen.version, root, files, licence, one_line(str(summary[0])))


def _checked(root: Path, path: str, files: dict[str, str]) -> str | None:
    """The text of a licence file whose digest holds, else ``None``; of any other file ``None``."""
    if not is_licence_path(path):
        return None
    data = _read(root, path, MAX_FILE_BYTES)
    return (
        data.decode("utf-8", "replace")
        if data is not None and hashlib.sha256(data).hexdigest() == files[path]
        else None
    )


def _editable(distribution: Distribution) -> bool:
    """By the direct URL record (PEP 610)."""
    try:
        return bool(json.loads(distribution.read_text("direct_url.json") or "{}").get("dir_info", {}).get("editable"))
    except (ValueError, AttributeError):
        return False


def _recorded(record: str) -> dict[str, str]:
    """Path -> SHA-256 in hex (empty where RECORD has none), of all files that lie below the root."""
    files: dict[str, str] = {}
    for row in csv.reader(record.splitlines()):
        path = row[0] if row else ""
        if path and not path.startswith("/") and "\\" not in path and ".." not in path.split("/"):
            algorithm, _, value = (row[1] if len(row) > 1 else "").partition("=")
            try:
                files[path] = (
                    base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).hex() if algorithm == "sha256" else ""
                )
            except ValueError:
                files[path] = ""
    return files


def _read(root: Path, path: str, most: int) -> bytes | None:
    """A regular file below ``root``, also behind links; ``None`` when it is none, or over ``most`` bytes."""
    try:
        there = (root / path).resolve()
        if not there.is_relative_to(root) or not there.is_file():
            return None
        with there.open("rb") as file:
            data = file.read(most + 1)
    except (OSError, ValueError):
        return None
    return data if len(data) <= most else None


def _family(parts: tuple[Repository, ...]) -> Repository:
    """Several packages as one: all their licences hold."""
    name = ",".join(part.name for part in parts)
    each = sorted({part.licence.spdx for part in parts if part.licence.spdx})
    together = " AND ".join(f"({one})" if " " in one and len(each) > 1 else one for one in each)
    return Repository(
        name=name, url=f"local:{name}", commit=sha256("".join(f"{one.url} {one.commit}\n" for one in parts))[:40], committed_at="",
        licence=Licence(spdx=together or None, how="of the packages, each its own"), commits=0,
        authors=(AuthorShare(identity=Identity(name=name), commits=0, share=1.0),), parts=parts,
    )  # fmt: skip


def _joined(
    repository: Repository, collections: Sequence[tuple[Repository, Collection]], refusals: Sequence[Refusal]
) -> Collection:
    """The collections of several packages as one; each span says which it stands in."""
    spans = [
        span.model_copy(update={"repository": part.name, "url": part.url}) for part, one in collections for span in one.spans
    ]  # fmt: skip
    refused = [
        refusal.model_copy(update={"path": f"{part.name}: {refusal.path}"[:600]}) for part, one in collections for refusal in one.refusals
    ]  # fmt: skip
    return Collection(
        repository=repository.model_copy(update={"parts": tuple(part for part, _ in collections)}),
        spans=tuple(sorted(spans, key=lambda one: (one.path, one.start, one.end, one.url))), refusals=(*refusals, *refused),
        files_seen=sum(one.files_seen for _, one in collections), files_used=sum(one.files_used for _, one in collections),
        lines_owned=sum(one.lines_owned for _, one in collections),
    )  # fmt: skip
