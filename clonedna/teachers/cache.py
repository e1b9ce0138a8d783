"""What was asked of a teacher is kept, so that no question is paid twice: one private file an answer, and a way to forget a person's.

An answer about somebody's code that could not be used is kept as the reason alone, and none of that code: a file holds digests, the
instruction and token counts. Examples that a teacher wrote of a skill lie in a folder of their own: nobody's code was in the question.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, Field, ValidationError

from clonedna.core.block import DIGEST_PATTERN
from clonedna.core.canonical import canonical, digest
from clonedna.core.value import Value

FOLDER, EXAMPLES = "teacher-cache", "teacher-examples"
K = TypeVar("K", bound=BaseModel)


class Kept(Value):
    """An answer. ``span``: SHA-256 of the span's text, ``completion``: of what is learnt of it. Either ``instruction`` or ``why`` not.

    Tokens are what the server said; ``None`` where it did not.
    """

    span: str = Field(pattern=DIGEST_PATTERN)
    completion: str = Field(pattern=DIGEST_PATTERN)
    model: str
    prompt: str
    instruction: str = ""
    why: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class AnswerCache(Generic[K]):
    """Answers of one ``kind`` in a folder, by the digest of (what is asked about, prompt version, model). Files are 0600, folders 0700."""

    def __init__(self, folder: Path, kind: type[K]) -> None:
        self._folder, self._kind = folder, kind

    @staticmethod
    def key(about: str, prompt: str, model: str) -> str:
        """``about``: a digest of all that is asked about."""
        return digest([about, prompt, model])

    def get(self, key: str) -> K | None:
        """The answer, or ``None`` where there is none that can be read: then it is asked again."""
        try:
            return self._kind.model_validate_json(self._path(key).read_bytes())
        except (OSError, ValidationError):
            return None

    def put(self, key: str, kept: K) -> None:
        path = self._path(key)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (path.parent, self._folder):
            folder.chmod(0o700)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(canonical(kept))  # not synced: what a power cut takes is asked again
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"


def purge(home: Path, span_digests: Iterable[str]) -> int:
    """Forget all answers about these spans; gives how many there were.

    A digest may be that of a span's text or of a pair's completion (``Pair.provenance.sha256``). Files that cannot be read go as well:
    nobody can say whose they are. Raises ``OSError`` when a file cannot be removed.
    """
    wanted = set(span_digests)
    gone = 0
    for path in _files(home / FOLDER):
        try:
            kept = Kept.model_validate_json(path.read_bytes())
        except ValidationError:
            kept = None
        if kept is None or kept.span in wanted or kept.completion in wanted:
            path.unlink(missing_ok=True)
            gone += 1
    return gone


def _files(folder: Path) -> Iterator[Path]:
    """Answers, and what an interrupted write left."""
    if folder.is_dir():
        yield from sorted(path for path in folder.glob("*/*") if path.is_file())
