"""One web page, asked for in a way that no address can turn against the machine that asks.

A host is resolved once; every address that comes back must be a public one, and the connection goes to that very address, so a name
that changes its mind in between (DNS rebinding) changes nothing. Each redirect is a new request that is checked like the first. No
proxy, no cookie, no referrer, no credentials. Number of redirects, seconds and bytes (as sent and unpacked) are bounded.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import zlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import anyio
import httpx2

from clonedna.core.errors import AddressRefused, DocumentBroken, FetchFailed, TimedOut, TooLarge

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
REDIRECTS = frozenset((301, 302, 303, 307, 308))
TYPES = ("text/html", "application/xhtml+xml", "text/plain")
MAX_URL, TRIES, CHUNK = 2000, 3, 1 << 16
_HINT = "give the http(s) address of a public page, without user name and password"
# Beyond what `ipaddress` of Python 3.11 calls private or reserved. https://www.iana.org/assignments/iana-ipv6-special-registry
_SPECIAL = tuple(
    ipaddress.ip_network(one)
    for one in ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2001:db8::/32", "3fff::/20", "64:ff9b:1::/48")
)
_UNICAST = ipaddress.ip_network("2000::/3")  # the only IPv6 space that is given out (RFC 4291, section 2.4)
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052


@dataclass(frozen=True, slots=True)
class Rules:
    """``ports`` that may be asked; ``seconds`` for all of it, redirects and all; ``max_bytes`` of the page, unpacked.

    ``allow_loopback``: addresses of this machine may be asked too, on any port (for tests, and for pages under work).
    """

    allow_loopback: bool = False
    ports: tuple[int, ...] = (80, 443)
    max_redirects: int = 5
    max_bytes: int = 4_000_000
    seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Fetched:
    """``url``: where it came from in the end. ``body``: unpacked. ``charset``: as the server says, or empty."""

    url: str
    type: str
    charset: str
    body: bytes


async def fetch(url: str, rules: Rules, *, resolve: Resolver | None = None) -> Fetched:
    """The page at ``url``. ``resolve``: host, port -> addresses; the system's by default.

    Raises ``AddressRefused``, ``FetchFailed``, ``TooLarge``, ``TimedOut``, ``DocumentBroken`` (not a page, or packed in an unknown way).
    """
    try:
        with anyio.fail_after(rules.seconds):
            return await _follow(url, rules, resolve or _resolve)
    except TimeoutError:
        raise TimedOut(
            f"the page did not come within {rules.seconds:g} s", "try again, or raise the setting web_timeout"
        ) from None


async def _follow(url: str, rules: Rules, resolve: Resolver) -> Fetched:
    here = _parsed(url)
    for _ in range(rules.max_redirects + 1):
        answer = await _ask(here, rules, resolve)
        if isinstance(answer, Fetched):
            return answer
        here = _joined(here, answer)
    raise AddressRefused(
        f"more than {rules.max_redirects} redirects from {_shown(_parsed(url))}", "give the page's final address"
    )


async def _ask(url: httpx2.URL, rules: Rules, resolve: Resolver) -> Fetched | str:
    """The page, or where it redirects to."""
    addresses = await allowed_addresses(url, rules, resolve)
    for i, address in enumerate(addresses[:TRIES]):
        try:
            return await _ask_at(url, address, rules)
        except httpx2.ConnectError as error:
            if i + 1 == min(TRIES, len(addresses)):
                raise FetchFailed(
                    f"no connection to {_shown(url)}: {_why(error)}", "check the address in a browser"
                ) from None
        except httpx2.TimeoutException:
            raise TimeoutError from None
        except httpx2.HTTPError as error:
            raise FetchFailed(
                f"{_shown(url)} did not answer properly ({type(error).__name__})", "check the address in a browser"
            ) from None
    raise FetchFailed(f"{_shown(url)} has no address", "check the address in a browser")


async def _ask_at(url: httpx2.URL, address: Address, rules: Rules) -> Fetched | str:
    """One request to one address: the URL names the address, so nothing below resolves anything; the certificate is the host's."""
    host = f"[{address}]" if address.version == 6 else str(address)
    headers = {
        "Host": url.netloc.decode("ascii"), "Accept": ", ".join(TYPES), "Accept-Encoding": "gzip, identity",
        "User-Agent": "clone-dna", "Connection": "close",
    }  # fmt: skip
    async with httpx2.AsyncClient(trust_env=False, follow_redirects=False, timeout=rules.seconds) as client:
        request = client.build_request(
            "GET", url.copy_with(host=host, fragment=None), headers=headers, extensions={"sni_hostname": url.host},
        )  # fmt: skip
        response = await client.send(request, stream=True)
        try:
            if response.status_code in REDIRECTS and "location" in response.headers:
                return response.headers["location"]
            if response.status_code != 200:
                raise FetchFailed(
                    f"{_shown(url)} answered {response.status_code}", "check the address in a browser",
                    status=response.status_code,
                )  # fmt: skip
            kind, charset = _content_type(response.headers.get("content-type", ""))
            if kind not in TYPES:
                raise DocumentBroken(
                    f"{_shown(url)} is {kind or 'of no stated type'}, not a page",
                    "a resume is given with --resume FILE",
                )
            return Fetched(_shown(url), kind, charset, await _body(response, url, rules))
        finally:
            await response.aclose()


async def _body(response: httpx2.Response, url: httpx2.URL, rules: Rules) -> bytes:
    """The body, unpacked here, so that it is never larger than it may be, not even for a moment."""
    packing = response.headers.get("content-encoding", "identity").strip().casefold()
    if packing not in ("identity", "", "gzip", "x-gzip"):
        raise DocumentBroken(f"{_shown(url)} came packed as {packing[:20]!r}, which was not asked for", "try again")
    unpack = zlib.decompressobj(wbits=31) if packing.endswith("gzip") else None
    body = bytearray()
    sent = 0
    async for piece in response.aiter_raw(CHUNK):
        sent += len(piece)
        try:
            body += unpack.decompress(piece, rules.max_bytes + 1 - len(body)) if unpack else piece
        except zlib.error:
            raise DocumentBroken(f"{_shown(url)} came damaged (gzip)", "try again") from None
        if max(len(body), sent) > rules.max_bytes or (unpack and unpack.unconsumed_tail):
            raise TooLarge(
                f"{_shown(url)} has more than {rules.max_bytes} bytes",
                "give a smaller page, or raise the setting web_max_bytes",
            )
    if unpack and not unpack.eof:
        raise DocumentBroken(f"{_shown(url)} came damaged (gzip)", "try again")
    return bytes(body)


async def allowed_addresses(url: httpx2.URL, rules: Rules, resolve: Resolver) -> list[Address]:
    """Where ``url``'s host is, when all its addresses may be asked. Raises ``AddressRefused``, ``FetchFailed``."""
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        texts = await resolve(url.host, port)
    except (OSError, UnicodeError):
        raise FetchFailed(f"no host is called {url.host[:100]!r}", "check the address") from None
    addresses = [ipaddress.ip_address(text) for text in dict.fromkeys(texts)]
    for address in addresses:
        loopback = rules.allow_loopback and _embedded(address).is_loopback
        if not loopback and not is_public(address):
            raise AddressRefused(f"{url.host[:100]!r} is at an address that is not public", _HINT)
        if not loopback and port not in rules.ports:
            raise AddressRefused(
                f"port {port} is not asked (allowed: {', '.join(map(str, rules.ports))})",
                "give a page on a usual port, or add the port to the setting web_ports",
            )
    return addresses


def is_public(address: Address) -> bool:
    """Whether an address may belong to a public web server: not private, shared, loopback, link-local, multicast, reserved,
    unspecified, documentation or transition space, whatever IPv6 form an IPv4 address is written in.
    """
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return False
        inner = _embedded(address)
        if inner is not address:
            return is_public(inner)
        if address not in _UNICAST:
            return False
    special = any(address in network for network in _SPECIAL if network.version == address.version)
    return address.is_global and not (
        special or address.is_multicast or address.is_reserved or address.is_loopback or address.is_unspecified
    )


def _embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for: mapped, 6to4, Teredo, NAT64 (RFC 4291, 3056, 4380, 6052); else itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped:
        return address.ipv4_mapped
    if address.sixtofour:
        return address.sixtofour
    if address.teredo:
        return address.teredo[1]
    if address in _TRANSLATED:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


async def _resolve(host: str, port: int) -> Sequence[str]:
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(one[4][0]) for one in found]


def _parsed(text: str) -> httpx2.URL:
    if not text.isprintable() or "\\" in text or " " in text or len(text) > MAX_URL:
        raise AddressRefused(
            "this is no web address: it holds spaces, backslashes or control characters, or is too long", _HINT
        )
    try:
        url = httpx2.URL(text)
    except (httpx2.InvalidURL, ValueError):
        raise AddressRefused(f"{text[:100]!r} is no web address", _HINT) from None
    return _checked(url)


def _joined(here: httpx2.URL, location: str) -> httpx2.URL:
    if not location.isprintable() or "\\" in location or len(location) > MAX_URL:
        raise AddressRefused(f"{_shown(here)} redirects to something that is no web address", _HINT)
    try:
        return _checked(here.join(location))
    except (httpx2.InvalidURL, ValueError):
        raise AddressRefused(f"{_shown(here)} redirects to something that is no web address", _HINT) from None


def _checked(url: httpx2.URL) -> httpx2.URL:
    if url.scheme not in ("http", "https"):
        raise AddressRefused(f"only http and https are asked, not {url.scheme[:20] or 'nothing'!r}", _HINT)
    if url.userinfo:
        raise AddressRefused("an address with a user name or password is not asked", _HINT)
    if not url.host or not 0 < (url.port or 80) < 65536:
        raise AddressRefused("the address has no host, or a port that cannot be", _HINT)
    return url


def _shown(url: httpx2.URL) -> str:
    """The address as it is written into errors and evidence: without query and fragment, which may carry what is private."""
    return str(url.copy_with(query=None, fragment=None))


def _content_type(header: str) -> tuple[str, str]:
    kind, *parameters = (part.strip() for part in header.split(";"))
    charset = next((p.partition("=")[2].strip("\"' ") for p in parameters if p.casefold().startswith("charset=")), "")
    return kind.casefold(), charset[:40]


def _why(error: httpx2.ConnectError) -> str:
    """A word for it: whether the certificate is wrong, or nobody listens."""
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, ssl.SSLError):
            return "its certificate does not hold"
        below = below.__cause__ or below.__context__
    return "nobody answers there"
