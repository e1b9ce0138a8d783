"""The tokens that this machine got for other servers by pairing: one private file a server in the home, read again by later commands.

A token is kept under scheme, host and port of its server, and given to no other one.
"""

from __future__ import annotations

import stat
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, ValidationError

from clonedna.core.canonical import canonical, sha256
from clonedna.core.errors import BadConfig, InputError
from clonedna.core.value import Value
from clonedna.trust.files import disk_errors, private_directory, write_private

MOST_BYTES = 4096
PORTS = {"http": 80, "https": 443}


class PairedServer(Value):
    """A server, and the token it gave this machine under ``name``."""

    server: str
    name: str
    token: str = Field(repr=False)


class Paired:
    """Kept tokens of one home."""

    def __init__(self, home: Path) -> None:
        self._directory = home / "servers"

    def keep(self, url: str, name: str, token: str) -> Path:
        """Keep a token (mode 0600) in the place of an earlier one; gives its file. Raises ``NoSpace``, ``Unavailable``."""
        private_directory(self._directory)
        path = self._path(url)
        write_private(path, canonical(PairedServer(server=origin(url), name=name, token=token)))
        return path

    def token(self, url: str) -> str | None:
        """The token for this server. Raises ``BadConfig`` for a file that is damaged, or that others may read."""
        path = self._path(url)
        try:
            with path.open("rb") as file:
                mode, data = stat.S_IMODE(path.stat().st_mode), file.read(MOST_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BadConfig(f"cannot read {path}: {error.strerror}", "check its permissions, or pair again") from None
        if mode & 0o077:
            raise BadConfig(f"others on this machine may read {path}", f"chmod 600 {path}, and pair again to be sure")
        try:
            kept = PairedServer.model_validate_json(data)
        except ValidationError:
            raise BadConfig(f"{path} is damaged", "pair again: dna --server URL pair CODE") from None
        return kept.token if kept.server == origin(url) else None

    def forget(self, url: str) -> bool:
        """Forget the token for this server; whether there was one. The server still knows it."""
        path = self._path(url)
        with disk_errors(path):
            there = path.exists()
            path.unlink(missing_ok=True)
        return there

    def _path(self, url: str) -> Path:
        return self._directory / f"{sha256(origin(url))[:32]}.json"


def readable_on_the_way(url: str) -> bool:
    """Whether what is sent to this server can be read by who carries it: no TLS, and another machine. Raises as ``origin``."""
    return urlsplit(origin(url)).scheme == "http" and not on_this_machine(url)


def on_this_machine(url: str) -> bool:
    """Whether a server's URL names this machine itself. Raises as ``origin``."""
    host = urlsplit(origin(url)).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def origin(url: str) -> str:
    """Scheme, host and port of a server's URL. Raises ``InputError``."""
    try:
        parts = urlsplit(url)
        port = parts.port or PORTS[parts.scheme]
    except (ValueError, KeyError):
        raise InputError(f"{url[:200]!r} is no URL of a server", "write it as http://127.0.0.1:8000") from None
    host = (parts.hostname or "").rstrip(".")
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"
