"""Write docs/reference from the program itself: `python tools/reference.py` (`make reference`); `--check` only says what is stale.

Three pages: the routes as the OpenAPI description has them, the commands as the command line has them, the settings as ``Settings`` has
them. Errors have a page of their own, docs/errors.md, which a test compares with the tree. Nothing here is written by hand, and nothing
depends on the machine it is made on.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "reference"
MADE = "Made by `make reference` from the program itself; a test fails when it is stale.\n"
MOST_EXAMPLE = 600
Json = dict[str, Any]


def pages() -> dict[str, str]:
    """Each page by its name."""
    return {"http.md": http_page(_description()), "cli.md": cli_page(), "settings.md": settings_page()}


def stale(made: Mapping[str, str]) -> list[str]:
    """The names of pages that do not say what the program says."""
    return [name for name, text in made.items() if not _same(FOLDER / name, text)]


def _same(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text("utf-8") == text


def _description() -> Json:
    from clonedna.app.parts import Parts
    from clonedna.app.service import Service
    from clonedna.app.settings import Settings
    from clonedna.core.fakes import FakeEngine
    from clonedna.core.seams import Engine
    from clonedna.server.api import application

    class Described(Parts):
        def engine(self, base: str) -> Engine:
            return FakeEngine()

    with tempfile.TemporaryDirectory() as home:
        return application(Service(Described(Settings(home=Path(home), base="fake")), "fake")).openapi()


def http_page(described: Json) -> str:
    lines = ["# HTTP", "", MADE, described["info"]["description"], ""]
    lines += [f"Version of our own routes: {described['info']['x-api-version']}. Errors: [list](../errors.md).", ""]
    lines += ["| Route | Scope | What |", "|---|---|---|"]
    operations = list(_operations(described))
    for path, method, operation in operations:
        first = _first(operation["description"])
        lines.append(f"| [`{method} {path}`](#{_anchor(method, path)}) | {operation['x-scope']} | {_cell(first)} |")
    for tag in described["tags"]:
        lines += ["", f"## {tag['name']}", "", tag["description"]]
        for path, method, operation in operations:
            if tag["name"] in operation["tags"]:
                lines += ["", *_operation(path, method, operation)]
    return "\n".join(lines) + "\n"


def _operations(described: Json) -> Iterator[tuple[str, str, Json]]:
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


def _anchor(method: str, path: str) -> str:
    return re.sub(r"[^\w -]", "", f"{method} {path}".casefold()).replace(" ", "-")


def _operation(path: str, method: str, operation: Json) -> list[str]:
    lines = [f"### `{method} {path}`", "", f"Scope: {operation['x-scope']}. {_prose(operation['description'])}"]
    if given := operation.get("parameters"):
        lines += ["", "| Parameter | In | Type | Default |", "|---|---|---|---|"]
        for one in given:
            schema, mark = one["schema"], "" if one["required"] else " (optional)"
            default = json.dumps(schema["default"]) if schema.get("default") is not None else ""
            lines.append(f"| `{one['name']}`{mark} | {one['in']} | {_cell(_type(schema))} | {_cell(default)} |")
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        lines += ["", f"Body: `{kind}`{_name(content)}{_shown(content)}"]
    for status, answer in operation["responses"].items():
        if int(status) < 400:
            kinds = answer.get("content", {})
            told = "; ".join(f"`{kind}`{_name(content)}" for kind, content in kinds.items())
            lines += [
                "",
                f"{status}: {told or 'no body'}{''.join(_shown(content) for content in list(kinds.values())[:1])}",
            ]
    errors = [status for status in operation["responses"] if int(status) >= 400]
    return [*lines, "", f"Errors: {', '.join(errors) or 'none'}."]


def _name(content: Json) -> str:
    name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
    return f" ({name})" if name else ""


def _shown(content: Json) -> str:
    """The example, in one block of code; nothing where there is none, or it is long."""
    if "example" not in content:
        return ""
    text = json.dumps(content["example"], ensure_ascii=False)
    return f"\n\n```json\n{text}\n```" if len(text) <= MOST_EXAMPLE and text[:1] in "{[" else ""


def _type(schema: Json) -> str:
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"] if one.get("type") != "null")
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    bounds = {"minimum": "≥", "maximum": "≤", "maxLength": "at most", "maxItems": "at most"}
    told = [
        f"{word} {schema[key]:g}" if key != "maxLength" else f"{word} {schema[key]} characters"
        for key, word in bounds.items()
        if key in schema
    ]
    inner = f" of {_type(schema['items'])}" if schema.get("type") == "array" else ""
    return " ".join([schema.get("type", "any") + inner, *told])


def cli_page() -> str:
    import typer.main

    from clonedna.cli.main import app

    root = typer.main.get_command(app)
    commands = list(_commands("dna", root))
    lines = ["# Command line", "", MADE, _prose(root.help or ""), ""]
    lines += ["Every command takes the options of `dna` itself before its own name.", ""]
    lines += ["| Command | What |", "|---|---|"]
    lines += [
        f"| [`{name}`](#{name.replace(' ', '-')}) | {_cell(_first(one.help or ''))} |" for name, one in commands[1:]
    ]
    for name, one in commands:
        lines += ["", f"## {name}", "", _prose(one.help or ""), *_parameters(name, one)]
    return "\n".join(lines) + "\n"


def _commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """The command itself, then those below it, in the order of ``--help``; groups themselves are not listed but the first."""
    below = getattr(command, "commands", None)
    if below is None or name == "dna":
        yield name, command
    for word, one in (below or {}).items():
        yield from _commands(f"{name} {word}", one)


def _parameters(name: str, command: Any) -> list[str]:
    words = [
        f"{'[' if not one.required else ''}{_metavar(one)}{']' if not one.required else ''}"
        for one in command.params
        if one.param_type_name == "argument"
    ]
    usage = " ".join(
        [name, "[OPTIONS]" if any(one.param_type_name == "option" for one in command.params) else "", *words]
    ).replace("  ", " ")
    lines = ["", "```", usage.strip(), "```"]
    shown = [one for one in command.params if one.name != "help" and not getattr(one, "hidden", False)]
    if shown:
        lines += ["", "| Given | What | Default |", "|---|---|---|"]
        lines += [f"| {_cell(_given(one))} | {_cell(one.help or '')} | {_cell(_default(one))} |" for one in shown]
    return lines


def _metavar(one: Any) -> str:
    return one.metavar or (one.name or "").upper() + ("..." if one.nargs == -1 else "")


def _given(one: Any) -> str:
    if one.param_type_name == "argument":
        return f"`{_metavar(one)}`"
    names = ", ".join(f"`{name}`" for name in (*one.opts, *one.secondary_opts))
    kind = "" if one.is_flag else f" {'several ' if one.multiple else ''}{one.metavar or _kind(one)}"
    return f"{names}{kind}"


def _kind(one: Any) -> str:
    """The words to choose from, or the type of one value."""
    kind = one.type_descriptor.annotation
    while get_origin(kind) is list:
        (kind,) = get_args(kind)
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind))
    return {str: "TEXT", Path: "PATH"}.get(kind, getattr(kind, "__name__", str(kind)).upper())


def _default(one: Any) -> str:
    value = one.default
    if (
        value is None
        or callable(value)
        or value == ()
        or value == []
        or one.required
        or repr(value).startswith("Sentinel")
    ):
        return ""
    return f"`{getattr(value, 'value', value)}`" if not isinstance(value, bool) else ("yes" if value else "")


def settings_page() -> str:
    from clonedna.app.settings import ENVIRONMENT_ONLY, PREFIX, Settings

    lines = ["# Settings", "", MADE]
    lines += [
        "Flags, then the environment (`DNA_` and the name in capitals), then `./dna.toml`, then the user's `dna.toml`, then these",
        "defaults. Unknown names are refused, in files and in the environment. Those marked * are taken from the environment alone.",
        "", "| Setting | Environment | Type | Default |", "|---|---|---|---|",
    ]  # fmt: skip
    for name, field in Settings.model_fields.items():
        mark = "*" if name in ENVIRONMENT_ONLY else ""
        lines.append(
            f"| `{name}`{mark} | `{PREFIX}{name.upper()}` | {_cell(_annotated(field))} | {_cell(_usual(name, field))} |"
        )
    lines += ["", "## What they mean", "", *_paragraphs(Settings.__doc__ or "")]
    return "\n".join(lines).rstrip() + "\n"


def _annotated(field: FieldInfo) -> str:
    kind = str(field.annotation).replace("typing.", "").replace("<class '", "").replace("'>", "")
    kind = re.sub(r"\b(?:pathlib\._local|pathlib|pydantic\.types)\.", "", kind)
    if field.annotation is SecretStr or SecretStr in get_args(field.annotation):
        kind = "secret"
    kind = re.sub(r"Literal\[(.*)\]", lambda found: found[1].replace("'", "`").replace("``", "empty"), kind)
    kind = re.sub(r"Annotated\[(\w+),.*?\)\]\]?(, \.\.\.)?", r"\1", kind) if "Annotated" in kind else kind
    return kind.replace(" | None", "")


def _usual(name: str, field: FieldInfo) -> str:
    if name == "home":
        return "the user's data folder"
    value = field.default
    if value is None or value is PydanticUndefined or value == "":
        return "none"
    return f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`"


def _paragraphs(text: str) -> list[str]:
    """The docstring's sentences, a line of it that ends with a full stop ending a paragraph."""
    found: list[str] = []
    for line in _prose(text).splitlines():
        found.append(line.strip())
        if line.rstrip().endswith("."):
            found.append("")
    return found


def _prose(text: str) -> str:
    return re.sub(r"``([^`]*)``", r"`\1`", text).replace("\b", "").strip()


def _first(text: str) -> str:
    """The first sentence."""
    paragraph = _prose(text).partition("\n\n")[0].replace("\n", " ")
    return re.split(r"(?<=[.:]) (?=[A-Z])", paragraph)[0].strip()


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 when a page is stale")
    options = parser.parse_args()
    made = pages()
    old = stale(made)
    if options.check:
        print(*(f"stale: docs/reference/{name}" for name in old), sep="\n", file=sys.stderr)
        return 1 if old else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in old:
        (FOLDER / name).write_text(made[name], "utf-8")
    print(f"written: {', '.join(old) or 'nothing'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
