"""What GitHub publishes about an account: its number, its SSH keys, and files in places that only the account can write.

REST routes of GitHub and of Enterprise servers (docs.github.com/rest): ``/users/{login}``, ``/user/{id}``,
``/users/{login}/ssh_signing_keys`` and ``/keys``, ``/repos/{login}/{login}`` with ``/contents`` and ``/compare``, ``/gists/{id}``.
Redirects are not followed, answers are bounded, and what they hold is data.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import re
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import httpx2

from clonedna.core.errors import BadConfig, Unavailable
from clonedna.core.people import Account
from clonedna.trust.evidence import sound_keys
from clonedna.trust.statements import LOGIN, invalid

GITHUB = "https://api.github.com"
MAX_BYTES = 2_000_000
MAX_PAGES = 10
_LOGIN = re.compile(LOGIN)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PLACE = "put the statement into the account's profile repository or a gist of its own; see docs/consent.md"


class GitHubAccounts:
    """Fulfils ``evidence.Accounts``. ``url``: the API's root; ``token``: only raises the limits; ``seconds`` bounds each question."""

    def __init__(self, url: str = GITHUB, token: str = "", *, seconds: float = 20.0) -> None:
        """Raises ``BadConfig`` for an address that others on the way could answer for: https, or http on this machine."""
        parts = urlsplit(url)
        self._local = _loopback(parts.hostname or "")
        self._tls = parts.scheme == "https"
        if (
            not parts.netloc
            or "@" in parts.netloc
            or not (parts.scheme == "https" or (parts.scheme == "http" and self._local))
        ):
            raise BadConfig(f"{url[:100]!r} is no safe address of GitHub's API", f"set github_url, e.g. {GITHUB}")
        self._url, self._token, self._seconds = url.rstrip("/"), token, seconds
        host = parts.netloc.casefold()
        self.host = "github.com" if host == "api.github.com" else host

    def by_login(self, login: str) -> Account | None:
        """The account that has this login now; ``None`` when nobody has it."""
        return self._account(f"/users/{quote(login, safe='')}") if _LOGIN.fullmatch(login) else None

    def by_id(self, account_id: int) -> Account | None:
        """The account with this number under whatever login it has now; ``None`` when it is gone."""
        return self._account(f"/user/{account_id}")

    def keys(self, login: str) -> tuple[str, ...]:
        """Sound SSH keys published for the login: for signing, and for authentication."""
        lines: list[str] = []
        for kind in ("ssh_signing_keys", "keys"):
            for page in range(1, MAX_PAGES + 1):
                found = self._get(f"/users/{quote(login, safe='')}/{kind}?per_page=100&page={page}")
                rows = found if isinstance(found, list) else []
                lines += [row["key"] for row in rows if isinstance(row, dict) and isinstance(row.get("key"), str)]
                if len(rows) < 100:
                    break
        return sound_keys(lines)

    def written_by(self, account: Account, where: str) -> bytes:
        """The bytes at ``.../{login}/{login}/blob/{commit}/{path}`` or of the one file of a gist.

        Raises ``ConsentInvalid``: ``ordinary_repository`` (collaborators could have written it), ``not_the_owner``,
        ``not_at_that_commit``, ``no_evidence``; ``Unavailable``.
        """
        parts = [unquote(part) for part in urlsplit(where).path.split("/") if part]
        host = (urlsplit(where).hostname or "").casefold()
        if not parts or any(part in (".", "..") or "\0" in part for part in parts):
            raise invalid("no_evidence", f"{where[:120]!r} is no file of a profile and no gist", _PLACE)
        if host.startswith("gist.") or parts[0] == "gist":
            return self._gist(account, parts[-1])
        if len(parts) < 5 or parts[2] not in ("blob", "raw") or not _COMMIT.fullmatch(parts[3]):
            raise invalid("no_evidence", "name the file at one commit: .../LOGIN/LOGIN/blob/COMMIT/PATH", _PLACE)
        if parts[0].casefold() != account.login.casefold() or parts[1].casefold() != account.login.casefold():
            raise invalid(
                "ordinary_repository", f"{parts[0]}/{parts[1]} is not the profile of {account.login}: others may write there", _PLACE
            )  # fmt: skip
        return self._profile_file(account, parts[3], "/".join(parts[4:]))

    def _profile_file(self, account: Account, commit: str, path: str) -> bytes:
        name = f"/repos/{quote(account.login)}/{quote(account.login)}"
        about = self._get(name)
        if not isinstance(about, dict) or _owner(about) != account.id:
            raise invalid(
                "not_the_owner", f"{account.login}/{account.login} is not owned by account {account.id}", _PLACE
            )
        if about.get("fork") or about.get("private"):
            raise invalid("ordinary_repository", "the profile repository is a fork, or not public", _PLACE)
        branch = str(about.get("default_branch") or "main")
        # A commit of anybody's fork can be read under this name, too: it counts only when the default branch has it.
        compared = self._get(f"{name}/compare/{commit}...{quote(branch, safe='')}")
        status = compared.get("status") if isinstance(compared, dict) else None
        base = _sha(compared.get("merge_base_commit")) if isinstance(compared, dict) else None
        if status not in ("ahead", "identical") or base != commit:
            raise invalid(
                "not_at_that_commit", f"commit {commit[:12]} is not on {branch} of the profile repository", _PLACE
            )
        found = self._get(f"{name}/contents/{quote(path)}?ref={commit}")
        if not isinstance(found, dict) or found.get("type") != "file" or found.get("encoding") != "base64":
            raise invalid(
                "no_evidence", f"no file {path[:80]!r} at commit {commit[:12]} of the profile repository", _PLACE
            )
        try:
            return base64.b64decode("".join(str(found.get("content", "")).split()), validate=True)
        except binascii.Error:
            raise Unavailable("GitHub's answer about a file cannot be read", "try again later") from None

    def _gist(self, account: Account, gist: str) -> bytes:
        found = self._get(f"/gists/{gist}") if re.fullmatch(r"[0-9a-f]{1,64}", gist) else None
        if not isinstance(found, dict):
            raise invalid("no_evidence", f"no gist {gist[:40]!r}", _PLACE)
        if _owner(found) != account.id:
            raise invalid("not_the_owner", f"the gist is not owned by {account.login} (account {account.id})", _PLACE)
        files = found.get("files")
        held = [one for one in files.values() if isinstance(one, dict)] if isinstance(files, dict) else []
        if len(held) != 1 or held[0].get("truncated") or not isinstance(held[0].get("content"), str):
            raise invalid("no_evidence", "the gist must hold the statement and nothing else", _PLACE)
        return str(held[0]["content"]).encode("utf-8", "surrogatepass")

    def _account(self, path: str) -> Account | None:
        found = self._get(path)
        if found is None:
            return None
        number, login = (found.get("id"), found.get("login")) if isinstance(found, dict) else (None, None)
        if not isinstance(number, int) or not isinstance(login, str) or not _LOGIN.fullmatch(login):
            raise Unavailable("GitHub's answer about an account cannot be read", "check github_url")
        if found.get("type", "User") != "User":
            raise invalid(
                "not_a_person", f"{login} is not the account of a person", "ask the people who wrote the code"
            )
        return Account(host=self.host, id=number, login=login)

    def _get(self, path: str) -> Any:
        """The JSON at ``path``; ``None`` for 404, 410 and 451. Raises ``Unavailable`` for everything else that is no answer."""
        headers = {
            "accept": "application/vnd.github+json",
            "x-github-api-version": "2022-11-28",
            "user-agent": "clone-dna",
        }
        if self._token:
            headers["authorization"] = f"Bearer {self._token}"
        try:
            with (
                # Certificates are read only where there is TLS: reading them takes longer than a question on this machine.
                httpx2.Client(
                    timeout=self._seconds, follow_redirects=False, trust_env=not self._local, verify=self._tls
                ) as client,
                client.stream("GET", self._url + path, headers=headers) as answer,
            ):
                body = b""
                for chunk in answer.iter_bytes():
                    body += chunk
                    if len(body) > MAX_BYTES:
                        raise Unavailable(f"GitHub's answer has more than {MAX_BYTES} bytes", "try again later")
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise Unavailable(
                f"GitHub cannot be asked about the account ({type(error).__name__})", "check the network and github_url, then try again"
            ) from None  # fmt: skip
        if answer.status_code in (404, 410, 451):
            return None
        if answer.status_code in (403, 429):
            raise Unavailable(
                "GitHub takes no more questions for now", "set github_token, or wait an hour", status=answer.status_code
            )
        if answer.status_code != 200:
            raise Unavailable(
                f"GitHub answered {answer.status_code} about the account", "try again later", status=answer.status_code
            )
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise Unavailable("GitHub's answer is no JSON", "check github_url") from None


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _owner(found: dict[str, Any]) -> int | None:
    owner = found.get("owner")
    number = owner.get("id") if isinstance(owner, dict) else None
    return number if isinstance(number, int) and not isinstance(number, bool) else None


def _sha(commit: Any) -> str | None:
    return commit.get("sha") if isinstance(commit, dict) else None
