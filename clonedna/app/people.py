"""Finding people on GitHub and what can be counted of them; and the side list of those that somebody wants to remember.

people.json   the side list: accounts by numeric id, in the order they were kept
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

from clonedna.app.parts import Parts, factory
from clonedna.app.workspace import write_atomic
from clonedna.core.canonical import canonical
from clonedna.core.errors import Corrupt, NotFound
from clonedna.core.people import Account, GithubProfile, Headhunt, HuntStep, Role
from clonedna.core.value import Value

MOST_KEPT = 1000


class SideList(Value):
    """Accounts that were kept. It says nothing of consent."""

    accounts: tuple[Account, ...] = ()


class People:
    """The use cases around an account; every call asks GitHub anew (what did not change costs nothing of its limit)."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def headhunt(self, query: str, role: Role | None = None, most: int = 10) -> Headhunt:
        """Up to ``most`` (1-30) people for a query, a role, or both. Raises ``InputError``, and what GitHub's client raises."""
        with self._parts.github() as github:
            return factory("github", "headhunt")(github, query, role, most)

    def hunt(self, query: str, role: Role | None = None, most: int = 10) -> Generator[HuntStep]:
        """The same, one by one as they are read. Close it to stop. Raises as ``headhunt``."""
        with self._parts.github() as github:
            yield from factory("github", "hunt")(github, query, role, most)

    def account(self, handle: str) -> Account:
        """The account of a handle. Raises ``BadReference``, ``NotFound``, and what the client raises."""
        with self._parts.github() as github:
            found: Any = factory("github", "account")(github, handle)
        return found

    def github_profile(self, handle: str) -> GithubProfile:
        """The typed facts of one account. Raises ``BadReference``, ``NotFound``, ``InputError`` (no person), and what the client raises."""
        with self._parts.github() as github:
            return factory("github", "profile")(github, handle, most=self._parts.settings.max_repositories)

    # The side list.

    @property
    def _file(self) -> Path:
        return self._parts.settings.home / "people.json"

    def kept(self) -> SideList:
        """The side list. Raises ``Corrupt`` when its file is not what was written."""
        try:
            return SideList.model_validate_json(self._file.read_bytes())
        except FileNotFoundError:
            return SideList()
        except (OSError, ValueError) as error:
            raise Corrupt(f"the side list {self._file.name} cannot be read", "move it away and start anew") from error

    def keep(self, account: Account) -> SideList:
        """Put an account on the list, or its new login in place of the old one."""
        others = [one for one in self.kept().accounts if (one.host, one.id) != (account.host, account.id)]
        return self._write(SideList(accounts=(*others, account)[-MOST_KEPT:]))

    def drop(self, login: str) -> SideList:
        """Take an account off the list. Raises ``NotFound``."""
        before = self.kept().accounts
        left = tuple(one for one in before if one.login.casefold() != login.removeprefix("@").casefold())
        if len(left) == len(before):
            raise NotFound(f"{login[:80]!r} is not on the side list", "see: dna headhunt --list")
        return self._write(SideList(accounts=left))

    def keep_handle(self, handle: str) -> SideList:
        """Look an account up and keep it. Raises as ``github_profile`` does."""
        return self.keep(self.account(handle))

    def _write(self, value: SideList) -> SideList:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self._file, canonical(value))
        return value
