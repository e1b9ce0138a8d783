"""A page is fetched from a public address only, the one that was checked, within bounds; a loopback server stands in for the web."""

from __future__ import annotations

import gzip
import ipaddress
import threading
import zlib
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import anyio
import pytest

from clonedna.core.errors import AddressRefused, DnaError, DocumentBroken, FetchFailed, TimedOut, TooLarge
from clonedna.sources.fetching import Fetched, Rules, allowed_addresses, fetch, is_public

LOCAL = Rules(allow_loopback=True, max_bytes=50_000, seconds=5)
PAGE = b"<p>hello</p>"


class Web(ThreadingHTTPServer):
    """Answers by path; remembers the headers of each request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.pages: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.silent = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Web

    def do_GET(self) -> None:
        self.server.asked.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
        if self.path == "/slow":
            self.server.silent.wait(20)
        status, headers, body = self.server.pages.get(self.path, (404, {}, b"no"))
        self.send_response(status)
        for name, value in ({"Content-Type": "text/html"} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def web() -> Iterator[Web]:
    server = Web()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.silent.set()
    server.shutdown()
    thread.join()
    server.server_close()


def get(url: str, rules: Rules = LOCAL, **options: object) -> Fetched:
    async def run() -> Fetched:
        return await fetch(url, rules, **options)  # type: ignore[arg-type]

    return anyio.run(run)


def resolver(*answers: Sequence[str]) -> tuple[object, list[str]]:
    """Gives one answer after the other, the last for ever; and the hosts that it was asked for."""
    left, asked = list(answers), []

    async def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return left.pop(0) if len(left) > 1 else left[0]

    return resolve, asked


def test_a_page_comes_with_its_kind(web: Web) -> None:
    web.pages["/a"] = (200, {"Content-Type": "text/html; charset=latin-1"}, PAGE)
    page = get(f"{web.url}/a")
    assert (page.body, page.type, page.charset, page.url) == (PAGE, "text/html", "latin-1", f"{web.url}/a")


def test_what_may_be_private_in_an_address_is_not_kept(web: Web) -> None:
    web.pages["/a?token=x"] = (200, {}, PAGE)
    assert get(f"{web.url}/a?token=x#part").url == f"{web.url}/a"


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "240.0.0.1",
     "255.255.255.255", "192.0.0.1", "192.0.2.1", "198.18.0.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1",
     "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::7f00:1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::", "2002:a00:1::",
     "2001:0:0:0:0:0:f5ff:fffe", "2001:db8::1", "fec0::1", "4000::1"],
)  # fmt: skip
def test_no_address_but_a_public_one_is_asked(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))
    resolve, _ = resolver([address])
    with pytest.raises(AddressRefused):
        get("http://page.example/", Rules(), resolve=resolve)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "::ffff:93.184.216.34"])
def test_public_addresses_are(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "localhost"]
)
def test_odd_spellings_of_this_machine_are_this_machine(host: str) -> None:
    with pytest.raises((AddressRefused, FetchFailed)):
        get(f"http://{host}/", Rules())


def test_one_private_address_among_public_ones_is_enough() -> None:
    resolve, _ = resolver(["93.184.216.34", "10.0.0.1"])
    with pytest.raises(AddressRefused):
        get("http://page.example/", Rules(), resolve=resolve)


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://page.example/", "gopher://page.example/", "javascript:alert(1)", "//page.example/", "page.example",
     "http://ada:secret@page.example/", "http://ada@page.example/", "http:///", "http://page.example\\@127.0.0.1/",
     "http://page.example/\r\nHost: x", "http://page .example/", "http://page.example/" + "a" * 3000, "http://page.example:99999/"],
)  # fmt: skip
def test_what_is_no_plain_address_is_refused_before_anything_is_asked(url: str) -> None:
    resolve, asked = resolver(["93.184.216.34"])
    with pytest.raises(AddressRefused) as error:
        get(url, Rules(), resolve=resolve)
    assert not asked
    assert error.value.hint
    assert "secret" not in str(error.value.as_json())


@pytest.mark.parametrize("port", [22, 25, 6379, 8080])
def test_odd_ports_are_refused_unless_the_setting_names_them(port: int) -> None:
    resolve, _ = resolver(["93.184.216.34"])
    with pytest.raises(AddressRefused):
        get(f"http://page.example:{port}/", Rules(), resolve=resolve)

    async def addresses() -> list[object]:
        import httpx2

        url = httpx2.URL(f"http://page.example:{port}/")
        return list(await allowed_addresses(url, Rules(ports=(port,)), resolve))  # type: ignore[arg-type]

    assert anyio.run(addresses) == [ipaddress.ip_address("93.184.216.34")]


def test_a_name_that_changes_its_mind_is_asked_once_and_met_where_it_was_checked(web: Web) -> None:
    """DNS rebinding: the second answer would be another machine; nobody asks for it, and the host's name still arrives."""
    web.pages["/"] = (200, {}, PAGE)
    resolve, asked = resolver(["127.0.0.1"], ["203.0.113.9"])
    page = get(f"http://rebound.example:{web.server_port}/", resolve=resolve)
    assert page.body == PAGE
    assert asked == ["rebound.example"]
    assert web.asked[0][1]["host"] == f"rebound.example:{web.server_port}"


def test_each_redirect_is_checked_like_the_first(web: Web) -> None:
    web.pages["/"] = (302, {"Location": "http://169.254.169.254/latest/meta-data"}, b"")
    with pytest.raises(AddressRefused):
        get(web.url)
    web.pages["/"] = (301, {"Location": "file:///etc/passwd"}, b"")
    with pytest.raises(AddressRefused):
        get(web.url)
    web.pages["/"] = (307, {"Location": "http://ada:pw@127.0.0.1/"}, b"")
    with pytest.raises(AddressRefused):
        get(web.url)


def test_a_public_page_cannot_redirect_to_this_machine(web: Web) -> None:
    """The first name is allowed as loopback stand-in; the second resolves to a private address."""
    web.pages["/"] = (302, {"Location": "http://inside.example/"}, b"")
    resolve, asked = resolver(["127.0.0.1"], ["10.0.0.1"])
    with pytest.raises(AddressRefused):
        get(f"http://outside.example:{web.server_port}/", resolve=resolve)
    assert asked == ["outside.example", "inside.example"]


def test_relative_redirects_are_followed_to_a_bound(web: Web) -> None:
    web.pages["/"] = (302, {"Location": "next"}, b"")
    web.pages["/next"] = (200, {}, PAGE)
    assert get(web.url).url == f"{web.url}/next"
    web.pages["/round"] = (302, {"Location": "/round"}, b"")
    before = len(web.asked)
    with pytest.raises(AddressRefused):
        get(f"{web.url}/round")
    assert len(web.asked) - before == LOCAL.max_redirects + 1


def test_too_many_bytes_are_too_many_packed_or_not(web: Web) -> None:
    web.pages["/big"] = (200, {}, b"x" * 60_000)
    web.pages["/bomb"] = (200, {"Content-Encoding": "gzip"}, gzip.compress(b"\0" * 20_000_000, mtime=0))
    web.pages["/fine"] = (200, {"Content-Encoding": "gzip"}, gzip.compress(PAGE, mtime=0))
    assert get(f"{web.url}/fine").body == PAGE
    for path in ("/big", "/bomb"):
        with pytest.raises(TooLarge):
            get(web.url + path)


@pytest.mark.parametrize(
    ("headers", "body"),
    [({"Content-Encoding": "br"}, PAGE), ({"Content-Encoding": "gzip"}, PAGE), ({"Content-Encoding": "gzip"}, gzip.compress(PAGE, mtime=0)[:-9]),
     ({"Content-Encoding": "gzip, gzip"}, PAGE), ({"Content-Encoding": "gzip"}, zlib.compress(PAGE)), ({"Content-Type": "image/png"}, PAGE),
     ({"Content-Type": ""}, PAGE)],
)  # fmt: skip
def test_what_is_no_page_or_damaged_is_an_error(web: Web, headers: dict[str, str], body: bytes) -> None:
    web.pages["/"] = (200, headers, body)
    with pytest.raises(DocumentBroken) as error:
        get(web.url)
    assert error.value.hint


def test_time_is_bounded(web: Web) -> None:
    with pytest.raises(TimedOut):
        get(f"{web.url}/slow", Rules(allow_loopback=True, seconds=0.3))


def test_a_status_and_a_closed_door_are_clear_errors(web: Web) -> None:
    with pytest.raises(FetchFailed) as error:
        get(f"{web.url}/missing")
    assert error.value.facts == {"status": 404}
    closed = web.server_port
    web.shutdown()
    web.server_close()
    with pytest.raises(DnaError) as error:
        get(f"http://127.0.0.1:{closed}/")
    assert isinstance(error.value, FetchFailed)


def test_no_cookie_referrer_or_proxy_of_this_machine_goes_along(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    web.pages["/"] = (302, {"Location": "/b", "Set-Cookie": "a=b"}, b"")
    web.pages["/b"] = (200, {}, PAGE)
    get(web.url)
    sent = web.asked[1][1]
    assert not {"cookie", "referer", "authorization"} & set(sent)
