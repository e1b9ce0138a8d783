"""What ``/openapi.json`` says: FastAPI's description of the routes, completed in one place.

Each operation gets a tag, the scope that it needs (``x-scope``) and how to prove it (``security``), an example of its body, of each
answer, and of each error that it documents, with that error's own code. Nothing here decides what a route does: scopes are read from the
routes' dependencies, errors from the one tree, examples from the schemas.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import iter_route_contexts

from clonedna import API_VERSION, __version__
from clonedna.core import errors as tree
from clonedna.server.access import Needs
from clonedna.server.errors import body
from clonedna.server.examples import example

Json = dict[str, Any]
ABOUT = """Mint, examine, serve and share blocks: LoRA adapters that carry one person's way of writing code.

`/v1` is as OpenAI has it, `/api/v1` is our own. Send `Authorization: Bearer TOKEN`; each operation names the scope that the token
needs in `x-scope` (`admin` has all). Errors are `{"error": {"code", "message", "hint", "request_id"}}`; every answer has `X-Request-ID`
and `X-DNA-API`, the version of our own routes."""
SCHEME = "token"
OPEN = "none"
TAGS = {
    "access": "Tokens with scopes, pairing of machines, the log of what was changed.",
    "chat": "Conversations with blocks, the base and personas, kept in threads; two sides compared.",
    "consent": "What people allowed to be made of their work, and took back.",
    "developer": "What was made of one person's work; proof that one is that person; revocation.",
    "fine-tuning": "Files of pairs, and jobs that make a block of them, as OpenAI's API has it.",
    "jobs": "Long things: started, followed, cancelled, resumed.",
    "keys": "The keys that this server signs with and believes.",
    "openai": "As OpenAI's API has it, and vLLM's routes for adapters.",
    "operations": "Health, figures, versions, what the server holds, whether the machine is fit.",
    "personas": "Who talks, what speaks for them and did before, their lineage, their archives.",
    "registry": "Blocks: listed, searched, shown, compared, downloaded, taken in, revoked.",
    "teams": "Teams with slots for roles, and the people found for them.",
}
# What is said of each error in the examples: (status, class, message, next step, part of the path where it can come). The first of a
# status is every route's.
ERRORS: tuple[tuple[type[tree.DnaError], str, str, str], ...] = (
    (tree.InputError, "limit: Input should be less than or equal to 100", "correct this field", ""),
    (tree.BadReference, "'a b' is not a block", "write name, name@version, or at least 8 digits of its id", "{reference}"),
    (tree.Unauthorised, "a token or key is needed, and this is none of this server's", "send Authorization: Bearer TOKEN", ""),
    (tree.Refused, "this token or key has no scope admin", "use one that has it", ""),
    (tree.BlockRevoked, "block ada@1.0.0 was revoked", "choose another version: dna ls", "{reference}"),
    (tree.BlockRejected, "ada@1.0.0 was rejected by the gate", "see why: dna show ada@1.0.0", "{reference}"),
    (tree.NotFound, "no such thing here", "check the name", ""),
    (tree.BlockNotFound, "no block 'adda'; closest: ada", "see all blocks with: dna ls", "{reference}"),
    (tree.JobNotFound, "no jobs match 'mint-2'", "see all jobs with: dna jobs ls", "{job"),
    (tree.MethodNotAllowed, "PUT is not for /api/v1/registry", "see /openapi.json", ""),
    (tree.TooSlow, "the body did not come in time", "send it at once", ""),
    (tree.TooLarge, "the request is larger than this server takes", "send less, or raise max_body_bytes", ""),
    (tree.BadRange, "the file has 1000 bytes, and the range begins behind them", "ask for less", ""),
    (tree.Corrupt, "what was read is not what was written", "get it again", ""),
    (tree.BlockCorrupt, "adapter_model.safetensors is not the file that was signed", "get the block again", "{reference}"),
    (tree.Overloaded, "256 requests are in flight", "ask again in a moment", ""),
    (tree.Internal, "the server failed at this request", "its log says why; please report it", ""),
    (tree.Unavailable, "the server is stopping", "ask another one, or again in a moment", ""),
    (tree.NoSpace, "no space left for the catalogue", "free some space and try again", "/api/"),
    (tree.TimedOut, "another process held the catalogue for 30 s", "try again", "/api/"),
)  # fmt: skip


def describe(app: FastAPI) -> Json:
    """The whole description; made once for an application."""
    made = get_openapi(title=app.title, version=__version__, description=ABOUT, routes=app.routes)
    made["info"]["x-api-version"] = API_VERSION
    made.setdefault("components", {})["securitySchemes"] = {
        SCHEME: {"type": "http", "scheme": "bearer", "description": "A token, or a key of the server's settings."}
    }
    scopes = dict(_scopes(app))
    used: set[str] = set()
    for path, methods in made["paths"].items():
        for method, operation in methods.items():
            if method == "head":  # an answer without a body
                for answer in operation["responses"].values():
                    answer.pop("content", None)
            _complete(operation, path, scopes[path, method], made["components"])
            used |= set(operation["tags"])
    made["tags"] = [{"name": tag, "description": TAGS.get(tag, f"`/api/v1/{tag}`")} for tag in sorted(used)]
    for name in ("HTTPValidationError", "ValidationError"):
        made["components"].get("schemas", {}).pop(name, None)
    return made


def _scopes(app: FastAPI) -> Iterator[tuple[tuple[str, str], str]]:
    """The scope that each route needs, by path and method."""
    for context in iter_route_contexts(app.routes):
        route = cast(Any, context)
        dependant = getattr(route, "dependant", None)
        if dependant is None:
            continue
        needs = [one.call.scope for one in dependant.dependencies if isinstance(one.call, Needs)]
        for method in route.methods:
            yield (route.path_format, method.casefold()), needs[0] if needs else OPEN


def _complete(operation: Json, path: str, scope: str, components: Json) -> None:
    operation["tags"] = operation.get("tags") or [_tag(path)]
    operation["x-scope"] = scope
    operation["security"] = [] if scope == OPEN else [{SCHEME: []}]
    operation.setdefault("description", operation["summary"])
    for content in operation.get("requestBody", {}).get("content", {}).values():
        _exemplify(content, components)
    answers = operation["responses"]
    if answers.get("422", {}).get("description") == "Validation Error":
        del answers["422"]  # what a client sends wrong is 400 here
    for status, answer in answers.items():
        if status.isdigit() and int(status) >= 400:
            answer["description"] = _statuses(path, int(status))[0].__name__
            if "application/json" in answer.get("content", {}):
                answer["content"]["application/json"]["examples"] = _error_examples(path, int(status))
        else:
            for content in answer.get("content", {}).values():
                _exemplify(content, components)


def _exemplify(content: Json, components: Json) -> None:
    schema = content.get("schema")
    if schema and not {"example", "examples"} & set(content):
        content["example"] = example(schema, components.get("schemas", {}))


def _statuses(path: str, status: int) -> list[type[tree.DnaError]]:
    found = [kind for kind, _, _, where in ERRORS if kind.http_status == status and where in path]
    return found or [tree.DnaError]


def _error_examples(path: str, status: int) -> Json:
    """An example for each code that this route may answer with this status, in the route's own shape."""
    return {
        kind.code: {"value": _with_id(path, body(path, kind(message, hint)))}
        for kind, message, hint, where in ERRORS
        if kind.http_status == status and where in path
    }


def _with_id(path: str, told: Json) -> Json:
    return told if path.startswith("/v1") else {"error": told["error"] | {"request_id": "5f3a9c0d11e2b784"}}


def _tag(path: str) -> str:
    if path.startswith(("/v1/files", "/v1/fine_tuning")):
        return "fine-tuning"
    if path.startswith("/v1/"):
        return "openai"
    words = path.split("/")
    return words[3] if path.startswith("/api/v1/") and words[3] != "engine" else "operations"
