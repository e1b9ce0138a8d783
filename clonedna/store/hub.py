"""A block as a repository on the Hugging Face hub, or on whatever speaks as it does: a block's folder is one already.

Out: exactly the block's files, into a private repository unless told otherwise, and looked at afterwards. In: of one commit, the files
that a block has, within their limits; what they are is for the caller to verify. The token is the caller's, goes to the hub's own address
alone, and is in no message.
"""

from __future__ import annotations

import ipaddress
import re
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from clonedna.core.errors import (
    BadAnswer,
    BadConfig,
    InputError,
    NotFound,
    Refused,
    TimedOut,
    Unauthorised,
    Unavailable,
)
from clonedna.store.blocks import ALLOWED, LIMITS, PICTURES
from clonedna.store.files import closed_world, corrupt

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelInfo

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?/[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")
SECONDS = 30.0


class HubRepositories:
    """Repositories of one hub. ``token`` may be empty: then only what is public can be read."""

    def __init__(self, url: str, token: str) -> None:
        """Raises ``BadConfig`` for an address that others on the way could read or answer for: https, or http on this machine."""
        parts = urlsplit(url)
        if parts.scheme != "https" and not (parts.scheme == "http" and _here(parts.hostname or "")):
            raise BadConfig(f"{url[:100]!r} is no safe address of a hub", "set hub_url, e.g. https://huggingface.co")
        self._url, self._token = url.rstrip("/"), token

    def put(self, directory: Path, repository: str, *, public: bool, message: str) -> str:
        """Commit the block in ``directory``; gives the commit. A new repository is private, or with ``public`` not.

        Raises ``InputError`` (no name), ``Unauthorised``, ``Refused`` (may not write; it is public and that was not asked for),
        ``BadAnswer`` when the hub holds other files afterwards, ``Unavailable``.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        _checked(repository)
        if not self._token:
            raise Unauthorised("the hub wants a token", "set HF_TOKEN to one that may write there")
        closed_world(directory, LIMITS, ALLOWED)
        with self._asked(repository) as api:
            there = self._repository(api, repository, public=public)
            names = sorted(path.name for path in directory.iterdir())
            stale = [name for name in PICTURES if name in there and name not in names]
            done = api.create_commit(
                repository,
                [*(CommitOperationAdd(name, directory / name) for name in names), *(CommitOperationDelete(name) for name in stale)],
                commit_message=message,
            )  # fmt: skip
            found = _sizes(api.model_info(repository, revision=done.oid, files_metadata=True, timeout=SECONDS))
        for name in names:
            if found.get(name) != (directory / name).stat().st_size:
                raise BadAnswer(
                    f"{repository} has no whole {name} after the commit", "does its .gitignore leave it out? remove that, and push again"
                )  # fmt: skip
        return done.oid

    def get(self, repository: str, revision: str, directory: Path) -> str:
        """Fetch a block's files into ``directory``, which must not exist, as of ``revision``; gives the commit.

        Raises ``InputError``, ``NotFound``, ``Unauthorised``, ``Refused``, ``BlockCorrupt`` (a file missing or too big), ``Unavailable``.
        """
        from huggingface_hub import hf_hub_download

        _checked(repository)
        if not _REVISION.fullmatch(revision) or ".." in revision:
            raise InputError(f"{revision[:80]!r} is no revision", "give a branch, a tag or a commit")
        with self._asked(repository) as api:
            info = api.model_info(repository, revision=revision, files_metadata=True, timeout=SECONDS)
            commit, there = str(info.sha or ""), _sizes(info)
            _check_files(there)
            directory.mkdir(parents=True)
            beside = directory.with_name(f"{directory.name}.hub")
            for name in sorted(set(there) & set(ALLOWED)):
                got = hf_hub_download(
                    repository, name, revision=commit, local_dir=beside, token=self._token or False, endpoint=self._url,
                    etag_timeout=SECONDS,
                )  # fmt: skip
                Path(got).rename(directory / name)
        return commit

    def _repository(self, api: HfApi, repository: str, *, public: bool) -> set[str]:
        """Make it if it is not there; gives the names of the files in it."""
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            info = api.model_info(repository, timeout=SECONDS)
        except RepositoryNotFoundError:
            api.create_repo(repository, private=not public)
            return set()
        if not info.private and not public:
            raise Refused(
                f"{repository} is there already, and public", "give --public if everybody may have the block, or another name"
            )  # fmt: skip
        return {one.rfilename for one in info.siblings or ()}

    @contextmanager
    def _asked(self, repository: str) -> Generator[HfApi]:
        """The hub's library, without its bars, warnings and its own ways to find a token; its errors as ours."""
        import httpx2
        from huggingface_hub import HfApi, errors
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield HfApi(endpoint=self._url, token=self._token or False)
        except errors.GatedRepoError:
            raise Refused(f"{repository} is gated", "ask for access on its page") from None
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError):
            raise NotFound(
                f"no repository {repository} (of that revision) that this token may read",
                "check the name; private ones take HF_TOKEN",
            ) from None
        except errors.HfHubHTTPError as error:
            raise _told(error, repository) from None
        except httpx2.TimeoutException:
            raise TimedOut(f"{self._url} did not answer in time", "try again") from None
        except (
            httpx2.HTTPError,
            errors.OfflineModeIsEnabled,
            errors.LocalEntryNotFoundError,
            ConnectionError,
        ) as error:
            raise Unavailable(
                f"{self._url} cannot be reached: {type(error).__name__}", "check hub_url and the network"
            ) from None
        except (ValueError, RuntimeError) as error:  # the library's: a card that the hub refuses, an upload that failed
            raise BadAnswer(
                f"the hub did not take or give {repository}: {type(error).__name__}", "try again; see its page"
            ) from None


def _told(error: Any, repository: str) -> Exception:
    status = getattr(getattr(error, "response", None), "status_code", 0)
    if status == 401:
        return Unauthorised("the hub does not know this token", "set HF_TOKEN to a valid one")
    if status == 403:
        return Refused(f"this token may not do that with {repository}", "use one that may write there")
    if status in (400, 409, 413, 422):
        return BadAnswer(f"the hub refused {repository} with status {status}", "see the repository's page")
    return Unavailable(f"the hub answered with status {status}", "try again later")


def _sizes(info: ModelInfo) -> dict[str, int]:
    return {one.rfilename: one.size if one.size is not None else -1 for one in info.siblings or ()}


def _check_files(there: dict[str, int]) -> None:
    for name in sorted(LIMITS):
        if name not in there:
            raise corrupt(name, "missing")
    for name, limit in ALLOWED.items():
        if name in there and not 0 <= there[name] <= limit:
            raise corrupt(name, f"{there[name]} bytes, where 0 to {limit} are allowed")


def _checked(repository: str) -> None:
    if not _NAME.fullmatch(repository) or ".." in repository or "--" in repository:
        raise InputError(f"{repository[:100]!r} is no repository", "write OWNER/NAME")


def _here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
