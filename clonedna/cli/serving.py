"""`dna serve` and `dna ps`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clonedna.cli.context import Json, State, print_json, table, tell

if TYPE_CHECKING:
    from clonedna.app.settings import Settings
    from clonedna.core.model import EngineStatus, Spread

SERVER = "http://127.0.0.1:8000"
PS_SECONDS = 10.0
CLOSE_SECONDS = 10.0
SHOWN = 20


def add_to(app: typer.Typer) -> None:
    app.command()(serve)
    app.command()(ps)


def serve(
    context: typer.Context,
    base: Annotated[str | None, typer.Option(help="The base to serve: nano, a folder, or a hub name.")] = None,
    host: Annotated[str | None, typer.Option(help="Where to listen; beyond this machine needs a key.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0: any free one.")] = None,
    preload: Annotated[list[str] | None, typer.Option(help="A block to load at the start; again for more.")] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="A file with the key that clients must send (DNA_API_KEY).")
    ] = None,
    drain_seconds: Annotated[
        float | None, typer.Option(min=0, help="How long running answers may go on after TERM or Ctrl-C.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Serve the base and all its blocks over HTTP, as OpenAI's API has it.

    The first TERM or Ctrl-C lets running answers end, the second stops at once.
    """
    import anyio

    from clonedna.app import logs

    state: State = context.obj
    settings = _settings(
        state, base=base, host=host, port=port, drain_seconds=drain_seconds, api_key=_key(api_key_file)
    )
    logs.configure(form=settings.log_format, level=settings.log_level)
    anyio.run(_serve, settings, preload or [], as_json)


async def _serve(settings: Settings, preload: list[str], as_json: bool) -> None:
    import anyio

    from clonedna.app.gate import Gate
    from clonedna.app.parts import Parts
    from clonedna.app.service import Service
    from clonedna.server import main
    from clonedna.server.api import application

    parts = Parts(settings)
    with main.listen(settings, has_token=lambda: Gate(parts).live()) as made:
        tell(f"loading {settings.base} ...")
        try:
            service = Service(parts, settings.base)
            serving = service.serving
            for name in preload:
                await serving.prepare(name)
            models = [model.id for model in await serving.models()]

            def ready() -> None:
                url = main.address(made)
                if as_json:
                    print_json({"url": url, "base": serving.engine.base.id, "models": models})
                more = f" and {len(models) - SHOWN} more" if len(models) > SHOWN else ""
                tell(f"listening on {url} (OpenAI's base_url: {url}/v1)\nmodels: {', '.join(models[:SHOWN])}{more}")

            app = application(service)
            await main.Server(app, settings, ready=ready).run_on(made)
        finally:
            with anyio.move_on_after(CLOSE_SECONDS, shield=True):
                await parts.close()


def ps(
    context: typer.Context,
    server: Annotated[str, typer.Option(help="A running server.")] = SERVER,
    as_json: Json = False,
) -> None:
    """Show what a running server holds: adapters, requests, caches, times."""
    from clonedna.core.model import EngineStatus

    state: State = context.obj
    answer = _ask(server, state.settings)
    if as_json:
        print_json(answer)
        return
    status, names = EngineStatus.model_validate(answer["engine"]), answer["names"]
    rows = [
        [
            names.get(one.id, one.id), one.state + (" (pinned)" if one.pinned else ""), str(one.uses), str(one.hits), str(one.loads),
            str(one.evictions), f"{one.idle:.0f} s", _megabytes(one.bytes), str(one.rank), one.owner or "-",
        ]
        for one in status.adapters
    ]  # fmt: skip
    columns = ["adapter", "state", "uses", "hits", "loads", "evictions", "idle", "size", "rank", "owner"]
    table("", columns, rows, whole=2)
    if not rows:
        tell("no adapter is loaded; each is when it is first asked for")
    print()
    table("", ["", ""], _facts(status))


def _facts(status: EngineStatus) -> list[list[str]]:
    return [
        ["base", f"{status.base.id} on {status.base.device}, {status.base.threads} threads"],
        ["requests", f"{status.running} running, {status.waiting} waiting, {status.requests} so far; {status.training} trainers"],
        ["tokens", f"{status.prompt_tokens} read, {status.completion_tokens} written"],
        ["adapters", f"{_megabytes(status.adapter_bytes)} of {_megabytes(status.adapter_budget)}, "
                     f"{status.slots_used} of {status.slots} slots" + (", thrashing" if status.thrashing else "")],
        ["loads", f"{status.loads}, {status.hits} hits, {status.evictions} evictions"],
        ["swap", _times(status.swap)],
        ["cache", f"{_megabytes(status.cache_bytes)} of {_megabytes(status.cache_budget)}; "
                  f"prefix: {status.prefix_hits} of {status.prefix_queries} tokens"],
        ["first token", _times(status.first_token)],
        ["token gap", _times(status.gap)],
        ["gap in training", _times(status.gap_training)],
    ]  # fmt: skip


def _times(spread: Spread) -> str:
    if spread.p50 is None or spread.p95 is None:
        return "not measured yet"
    return f"p50 {spread.p50:.2f} ms, p95 {spread.p95:.2f} ms (n {spread.n})"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def _settings(state: State, **flags: Any) -> Settings:
    from clonedna.app.settings import load_settings

    return load_settings({"home": state.home, **flags}, config=state.config)


def _key(path: Path | None) -> str | None:
    from clonedna.core.errors import BadConfig

    if path is None:
        return None
    try:
        key = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfig(f"cannot read the key file {path}: {error}", "give a file with one line: the key") from None
    if not key or not key.isascii() or any(c.isspace() for c in key):
        raise BadConfig(f"{path} holds no key", "give a file with one line: the key, in ASCII")
    return key


def _ask(server: str, settings: Settings) -> dict[str, Any]:
    """What the server says of its engine. Raises ``Unavailable``, ``Unauthorised``, ``InputError``."""
    import httpx2

    from clonedna.app.paired import Paired
    from clonedna.core.errors import InputError, Unauthorised, Unavailable

    key = settings.token or settings.admin_key or settings.api_key
    given = key.get_secret_value() if key else Paired(settings.home).token(server)
    headers = {"Authorization": f"Bearer {given}"} if given else {}
    hint = "start one with: dna serve, or give --server"
    try:
        answer = httpx2.get(f"{server.rstrip('/')}/api/v1/engine", headers=headers, timeout=PS_SECONDS)
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol):
        raise InputError(f"{server!r} is no URL of a server", f"write it as {SERVER}") from None
    except httpx2.HTTPError as error:
        raise Unavailable(f"no server answers at {server}: {error}", hint) from None
    if answer.status_code == 401:
        raise Unauthorised(f"{server} wants a token or key", "set DNA_TOKEN, or pair: dna --server URL pair CODE")
    try:
        answer.raise_for_status()
        found = answer.json()
        _ = found["engine"], found["names"]
    except (httpx2.HTTPError, ValueError, KeyError, TypeError):
        raise Unavailable(f"{server} is no server of this kind, or fails (status {answer.status_code})", hint) from None
    return found
