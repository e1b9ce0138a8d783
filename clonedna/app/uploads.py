"""Files that clients gave: stored by content, listed by id, bounded in bytes and lines.

    files/content/<sha256>   the bytes, once
         /<file id>.json     what somebody called them, and when

Everything is written to another name and renamed. Content goes when the last record of it does.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import threading
import time
from pathlib import Path
from typing import BinaryIO, Literal

from pydantic import Field

from clonedna.app.settings import Settings
from clonedna.app.workspace import require_space, space_errors, write_atomic
from clonedna.core.block import DIGEST_PATTERN
from clonedna.core.errors import Corrupt, InputError, NotFound, TooLarge
from clonedna.core.value import Value
from clonedna.mint.given import MOST_LINES

CHUNK = 1 << 20
MOST_FILES = 10_000
_ID = re.compile(r"^file-[0-9a-f]{24}$")
_CONTROL = re.compile(r"[\x00-\x1f\x7f/\\]")
Purpose = Literal["fine-tune", "fine-tune-results"]


class Upload(Value):
    """One file. ``sequence`` orders files that came in the same second."""

    id: str = Field(pattern=_ID.pattern)
    sha256: str = Field(pattern=DIGEST_PATTERN)
    bytes: int
    created_at: int
    sequence: int
    filename: str
    purpose: Purpose


class Uploads:
    """The files of one home."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.directory = settings.home / "files"
        self._lock = threading.Lock()

    def put(self, stream: BinaryIO, filename: str, purpose: Purpose) -> Upload:
        """Keep what ``stream`` holds. Raises ``InputError`` (empty, too many lines or files), ``TooLarge``, ``NoSpace``."""
        require_space(self.directory, self.settings.min_free_bytes)
        with self._lock:
            if len(self._ids()) >= MOST_FILES:
                raise InputError(f"{MOST_FILES} files are kept already", "delete some")
        temporary = self.directory / "content" / f".{secrets.token_hex(8)}.tmp"
        try:
            with space_errors(temporary):
                temporary.parent.mkdir(parents=True, exist_ok=True)
                digest, size = self._copy(stream, temporary, purpose)
                upload = Upload(
                    id=f"file-{secrets.token_hex(12)}", sha256=digest, bytes=size, created_at=int(time.time()),
                    sequence=time.time_ns(), filename=_CONTROL.sub("_", filename)[-255:] or "file", purpose=purpose,
                )  # fmt: skip
                with self._lock:
                    temporary.replace(self.directory / "content" / digest)
                    write_atomic(self._record(upload.id), upload.model_dump_json().encode())
        finally:
            temporary.unlink(missing_ok=True)
        return upload

    def list(self) -> list[Upload]:
        """All, newest first."""
        found = [self._read(file_id) for file_id in self._ids()]
        return sorted((one for one in found if one), key=lambda one: one.sequence, reverse=True)

    def get(self, file_id: str, *, param: str = "file_id") -> Upload:
        """Raises ``NotFound``, naming the request's field ``param``."""
        found = self._read(file_id) if _ID.match(file_id) else None
        if found is None:
            raise NotFound(f"no file {file_id[:80]!r}", "upload it with POST /v1/files", param=param)
        return found

    def content(self, upload: Upload) -> Path:
        """Where its bytes are. Raises ``Corrupt`` when they are gone."""
        path = self.directory / "content" / upload.sha256
        if not path.is_file():
            raise Corrupt(f"the content of {upload.id} is gone", "upload it again")
        return path

    def delete(self, file_id: str) -> Upload:
        """Forget a file; a job that was made from it keeps its own copy. Raises ``NotFound``."""
        with self._lock:
            upload = self.get(file_id)
            self._record(file_id).unlink(missing_ok=True)
            if all(other.sha256 != upload.sha256 for other in self.list()):
                (self.directory / "content" / upload.sha256).unlink(missing_ok=True)
        return upload

    def _copy(self, stream: BinaryIO, target: Path, purpose: Purpose) -> tuple[str, int]:
        hashed, size, lines = hashlib.sha256(), 0, 0
        with target.open("wb") as out:
            while chunk := stream.read(CHUNK):
                size, lines = size + len(chunk), lines + chunk.count(b"\n")
                if size > self.settings.max_upload_bytes:
                    raise TooLarge(
                        f"the file has more than {self.settings.max_upload_bytes} bytes",
                        "give a smaller one",
                        param="file",
                    )
                if purpose == "fine-tune" and lines > MOST_LINES:
                    raise InputError(f"the file has more than {MOST_LINES} lines", "give a smaller one", param="file")
                hashed.update(chunk)
                out.write(chunk)
            if not size:
                raise InputError("the file is empty", "give one JSON object a line", param="file")
            out.flush()
            os.fsync(out.fileno())
        return hashed.hexdigest(), size

    def _ids(self) -> list[str]:
        return [path.stem for path in self.directory.glob("file-*.json") if _ID.match(path.stem)]

    def _record(self, file_id: str) -> Path:
        return self.directory / f"{file_id}.json"

    def _read(self, file_id: str) -> Upload | None:
        try:
            return Upload.model_validate_json(self._record(file_id).read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:
            raise Corrupt(f"the record of {file_id} is damaged", f"remove files/{file_id}.json") from None
