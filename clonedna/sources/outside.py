"""How git reads a URL for somebody who may not look into this machine's own network: https alone, at an address that was checked.

The host is resolved once, here; git is told to connect to these addresses and to follow no redirect, so a name that changes its mind in
between (DNS rebinding) or a server that points elsewhere leads nowhere. Where a proxy is set, the proxy resolves, and is what decides.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from clonedna.core.errors import AddressRefused, GitFailed
from clonedna.sources.fetching import is_public

Resolver = Callable[[str, int], Sequence[str]]


def resolve(host: str, port: int) -> Sequence[str]:
    """The system's answer."""
    return [str(one[4][0]) for one in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def pinned(url: str, resolver: Resolver | None = None) -> tuple[str, ...]:
    """Settings for a git that fetches ``url`` (git-config: ``http.curloptResolve``, ``http.followRedirects``).

    Raises ``AddressRefused`` for another protocol than https and for an address that is not public, ``GitFailed`` for an unknown host.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 443
    except ValueError:
        host, port, parts = "", 0, None
    if parts is None or parts.scheme.casefold() != "https" or not host or not host.isascii():
        raise AddressRefused(
            "only https is read for those who do not administer this machine", "give the repository's https address"
        )
    try:
        found = [ipaddress.ip_address(one) for one in dict.fromkeys((resolver or resolve)(host, port))]
    except (OSError, UnicodeError, ValueError):
        raise GitFailed(f"no host is called {host[:100]!r}", "check the address") from None
    if not found or not all(is_public(one) for one in found):
        raise AddressRefused(
            f"{host[:100]!r} is at an address that is not public",
            "give a public address, or a token with the scope admin",
        )
    return "http.followRedirects=false", f"http.curloptResolve={host}:{port}:{','.join(map(str, found))}"
