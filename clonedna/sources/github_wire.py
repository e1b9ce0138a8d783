"""GitHub's answers, as far as they are read: field names as GitHub has them, unknown fields passed over, types and sizes checked.

Routes: https://docs.github.com/en/rest (users, search, repos, commits). A wrong shape is ``Unavailable``, not a crash.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from clonedna.core.errors import Unavailable
from clonedna.sources.secrets import secret_in

MAX_TEXT = 1000
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
LOGIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9]|[-_](?=[A-Za-z0-9_])){0,38}(?:\[bot\])?")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
W = TypeVar("W", bound=BaseModel)


def clean(text: str | None) -> str:
    """Third-party text for a fact: one printable line, at most 1,000 characters, without e-mail addresses; nothing where a secret is."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text or "").split())[:MAX_TEXT]
    return "" if secret_in(line) else _EMAIL.sub("[e-mail]", line)


def _whole(pattern: re.Pattern[str]) -> AfterValidator:
    def check(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError("not a name that GitHub gives")
        return text

    return AfterValidator(check)


Login = Annotated[str, _whole(LOGIN)]
Name = Annotated[str, _whole(_NAME)]
CommitId = Annotated[str, _whole(_COMMIT)]


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class UserBrief(_Wire):
    id: int = Field(ge=1)
    login: Login
    type: str = "User"


class UserWire(UserBrief):
    name: str | None = None
    company: str | None = None
    blog: str | None = None
    location: str | None = None
    bio: str | None = None
    followers: int = 0
    public_repos: int = 0
    created_at: str = ""


class FoundWire(_Wire):
    total_count: int
    incomplete_results: bool = False
    items: tuple[UserBrief, ...]


class LicenceWire(_Wire):
    spdx_id: str | None = None


class RepositoryWire(_Wire):
    id: int = Field(ge=1)
    name: Name
    owner: UserBrief
    private: bool = False
    fork: bool = False
    archived: bool = False
    description: str | None = None
    stargazers_count: int = 0
    forks_count: int = 0
    size: int = 0
    language: str | None = None
    license: LicenceWire | None = None
    topics: tuple[str, ...] = ()
    default_branch: str = ""
    pushed_at: str | None = None

    @property
    def full_name(self) -> str:
        return f"{self.owner.login}/{self.name}"


class _Signature(_Wire):
    name: str = ""
    email: str = ""
    date: datetime


class _CommitDetail(_Wire):
    author: _Signature
    message: str = ""


class CommitWire(_Wire):
    sha: CommitId
    commit: _CommitDetail
    author: Annotated[UserBrief | None, BeforeValidator(lambda given: given or None)] = (
        None  # {} for an account that is gone
    )
    parents: tuple[dict[str, Any], ...] = ()

    @property
    def authored(self) -> datetime:
        """When it was written, UTC."""
        date = self.commit.author.date
        return date.replace(tzinfo=UTC) if date.tzinfo is None else date.astimezone(UTC)

    @property
    def subject(self) -> str:
        return self.commit.message.partition("\n")[0]


def read(kind: type[W], value: Any, what: str) -> W:
    """``value`` as ``kind``. Raises ``Unavailable`` with the first field that is wrong."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors(include_url=False, include_input=False)[0]["loc"])
        raise Unavailable(f"GitHub's answer for {what} has no usable {where or 'content'}", "try again later") from None
