"""Runs in a process of its own (``python -m clonedna.sources.reading_child KIND LIMITS``): a document in on stdin, JSON out on stdout.

Bounds itself before it reads a byte (address space, CPU seconds, no files written, no core), then parses. What a reader of the page or
paper does not see is left out and counted: elements that are hidden, comments, scripts; PDF text that is drawn invisibly; DOCX text
marked as hidden. Output: ``{"text", "hidden", ...}`` or ``{"error": WORD}``.
"""

from __future__ import annotations

import io
import json
import re
import resource
import sys
import zipfile
from typing import Any

MAX_ITEMS, MAX_DEPTH, MAX_VALUE = 200, 6, 2000
HIDING = re.compile(
    r"display\s*:\s*none|visibility\s*:\s*(?:hidden|collapse)|opacity\s*:\s*0*\.?0+\s*(?:[;}!]|$)|font-size\s*:\s*0*\.?0*[a-z%]*\s*(?:[;}!]|$)|"
    r"(?:left|top|right|text-indent|margin-left)\s*:\s*-\d{3,}|clip\s*:\s*rect\(\s*0|clip-path\s*:\s*(?:inset\(\s*(?:50|100)%|circle\(0)",
    re.IGNORECASE,
)
_RULE = re.compile(r"([^{}]{1,500})\{([^{}]{0,4000})\}")
_SIMPLE = re.compile(r"(?:[a-z][a-z0-9]*)?([.#])([\w-]{1,100})", re.IGNORECASE)
UNSEEN = ("script", "style", "template", "noscript", "iframe", "object", "svg", "textarea", "select", "dialog")
W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"


class Cannot(Exception):
    """``args[0]``: the word for why."""


def main() -> None:
    """Bound this process, parse, print."""
    kind, limits = sys.argv[1], json.loads(sys.argv[2])
    sys.setrecursionlimit(2000)
    for what, value in (
        (resource.RLIMIT_AS, limits["memory"]), (resource.RLIMIT_CPU, int(limits["seconds"]) + 1), (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):  # fmt: skip
        resource.setrlimit(what, (value, value))
    data = sys.stdin.buffer.read(limits["bytes"] + 1)
    try:
        answer = {"html": html, "pdf": pdf, "docx": docx, "text": plain}[kind](data, limits)
        answer["text"] = answer["text"][: limits["characters"]]
        if not answer["text"].strip() and kind != "html":
            raise Cannot("empty")
    except Cannot as error:
        answer = {"error": error.args[0]}
    except MemoryError:
        answer = {"error": "memory"}
    except Exception:  # a parser's own failure on a stranger's bytes: its words are not passed on
        answer = {"error": "broken"}
    sys.stdout.write(json.dumps(answer))


def plain(data: bytes, limits: dict[str, Any]) -> dict[str, Any]:
    """UTF-8 (or with a byte order mark what that says) text."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = data.decode("utf-16")
    else:
        text = data.decode("utf-8-sig")
    if "\0" in text:
        raise Cannot("broken")
    return {"text": text, "hidden": 0}


# PDF


def pdf(data: bytes, limits: dict[str, Any]) -> dict[str, Any]:
    """Text of each page that is drawn visibly, in the order of the content stream."""
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    if b"%PDF-" not in data[:1024]:
        raise Cannot("broken")
    try:
        reader = PdfReader(io.BytesIO(data), strict=False)
        if reader.is_encrypted:
            raise Cannot("encrypted")
        if len(reader.pages) > limits["pages"]:
            raise Cannot("pages")
        texts: list[str] = []
        hidden = 0
        for page in reader.pages:
            hidden += _show_only_visible(page, reader)
            texts.append(page.extract_text())
            if sum(map(len, texts)) > limits["characters"]:
                break
    except PyPdfError:
        raise Cannot("broken") from None
    return {"text": "\n".join(texts), "hidden": hidden}


def _show_only_visible(page: Any, reader: Any) -> int:
    """Take out what draws text in mode 3 or 7 (invisible), in a size under 1, or white on a page without dark areas; gives how many."""
    from pypdf.generic import ContentStream, NameObject

    contents = page.get_contents()
    if contents is None:
        return 0
    stream = ContentStream(contents, reader)
    operations = list(stream.operations)
    dark = _paints_dark(operations)
    kept: list[Any] = []
    state = (0, 12.0, False)  # mode, size, white
    stack: list[tuple[int, float, bool]] = []
    scale = 1.0
    for operands, operator in operations:
        mode, size, white = state
        if operator == b"q":
            stack.append(state)
        elif operator == b"Q" and stack:
            state = stack.pop()
        elif operator == b"Tr" and operands:
            state = (int(operands[0]), size, white)
        elif operator == b"Tf" and len(operands) > 1:
            state = (mode, float(operands[1]), white)
        elif operator == b"BT":
            scale = 1.0
        elif operator == b"Tm" and len(operands) == 6:
            scale = max(abs(float(operands[2])), abs(float(operands[3])))
        elif operator in (b"g", b"rg", b"k", b"sc", b"scn"):
            state = (mode, size, _is_white(operator, operands))
        elif operator in (b"Tj", b"TJ", b"'", b'"') and (
            mode in (3, 7) or abs(size) * scale < 1 or (white and not dark)
        ):
            continue
        kept.append((operands, operator))
    if len(kept) != len(operations):
        stream.operations = kept
        page[NameObject("/Contents")] = stream
    return len(operations) - len(kept)


def _is_white(operator: bytes, operands: list[Any]) -> bool:
    try:
        values = [float(value) for value in operands]
    except (TypeError, ValueError):
        return False
    return bool(values) and (max(values) <= 0.02 if operator == b"k" or len(values) == 4 else min(values) >= 0.98)


def _paints_dark(operations: list[Any]) -> bool:
    """Whether an area is filled with another colour than white: then white text on it is seen. A page without colours fills black."""
    white = False
    for operands, operator in operations:
        if operator in (b"g", b"rg", b"k", b"sc", b"scn"):
            white = _is_white(operator, operands)
        elif operator in (b"f", b"F", b"f*", b"B", b"B*", b"b", b"b*") and not white:
            return True
    return False


# DOCX


def docx(data: bytes, limits: dict[str, Any]) -> dict[str, Any]:
    """Paragraphs of the main part, hidden runs and deleted text left out. Only this one part of the archive is unpacked, to a bound."""
    from defusedxml.ElementTree import iterparse

    if data.startswith(b"\xd0\xcf\x11\xe0"):  # an OLE file: how Office keeps encrypted documents ([MS-OFFCRYPTO])
        raise Cannot("encrypted")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            part = archive.getinfo("word/document.xml")
            if part.flag_bits & 1:
                raise Cannot("encrypted")
            with archive.open(part) as file:
                xml = file.read(limits["unpacked"] + 1)
    except (zipfile.BadZipFile, KeyError, OSError, EOFError, NotImplementedError):
        raise Cannot("broken") from None
    if len(xml) > limits["unpacked"]:
        raise Cannot("unpacked")
    lines: list[str] = []
    line: list[str] = []
    hidden = depth = 0
    run_hidden = False
    for event, element in iterparse(io.BytesIO(xml), events=("start", "end"), forbid_dtd=True):
        depth += 1 if event == "start" else -1
        if depth > 200:
            raise Cannot("broken")
        if event == "start":
            if element.tag == f"{W}r":
                run_hidden = False
            continue
        if element.tag in (f"{W}vanish", f"{W}webHidden") and element.get(f"{W}val") not in ("0", "false"):
            run_hidden = True
        elif element.tag == f"{W}t" and element.text:
            if run_hidden:
                hidden += 1
            else:
                line.append(element.text)
        elif element.tag in (f"{W}tab", f"{W}br", f"{W}cr"):
            line.append("\n" if element.tag != f"{W}tab" else " | ")
        elif element.tag == f"{W}p":
            lines.append("".join(line))
            line = []
            element.clear()
    return {"text": "\n".join(lines), "hidden": hidden}


# HTML


def html(data: bytes, limits: dict[str, Any]) -> dict[str, Any]:
    """A page as a reader sees it: text, main text, title, description, links, and what JSON-LD and microdata say."""
    from lxml import html as lxml_html

    parser = lxml_html.HTMLParser(
        encoding=_charset(data, limits["charset"]), huge_tree=False, remove_comments=True, remove_pis=True
    )
    tree = lxml_html.document_fromstring(data, parser=parser)  # what lxml raises is main's "broken"
    structured = _structured(tree)
    styles = " ".join(style.text_content()[:100_000] for style in tree.iter("style"))
    title, description = tree.findtext(".//title") or "", _meta(tree, "description", "og:description")
    author = _meta(tree, "author", "profile:username")
    hidden = _prune(tree, _hiding_names(styles))
    links = [
        {"href": (a.get("href") or "")[:MAX_VALUE], "rel": (a.get("rel") or "")[:100], "text": " ".join(a.text_content().split())[:200]}
        for a in tree.xpath("//a[@href] | //link[@href]")[: MAX_ITEMS * 5]
    ]  # fmt: skip
    return {
        "main": _main_text(tree)[: limits["characters"]], "text": _text(tree), "hidden": hidden, "title": title[:300],
        "description": description, "author": author, "links": links,
        "structured": structured,
    }  # fmt: skip


def _charset(data: bytes, said: str) -> str | None:
    """What the server said, when there is such a charset, else UTF-8 if it is, else what the page itself says."""
    try:
        return said if said and "".encode(said) == b"" else str(data.decode("utf-8") and "utf-8")
    except (LookupError, UnicodeDecodeError):
        return None


def _meta(tree: Any, *names: str) -> str:
    for name in names:
        for meta in tree.xpath("//meta[@name=$n or @property=$n]", n=name):
            if meta.get("content"):
                return meta.get("content")[:MAX_VALUE]
    return ""


def _hiding_names(styles: str) -> tuple[frozenset[str], frozenset[str]]:
    """Classes and ids that a style sheet of the page hides by a simple selector."""
    classes: set[str] = set()
    ids: set[str] = set()
    for selectors, body in _RULE.findall(styles):
        if HIDING.search(body):
            for selector in selectors.split(","):
                match = _SIMPLE.fullmatch(selector.strip())
                if match:
                    (classes if match[1] == "." else ids).add(match[2])
    return frozenset(classes), frozenset(ids)


def _prune(tree: Any, names: tuple[frozenset[str], frozenset[str]]) -> int:
    """Take out what a reader does not see; gives how many hidden elements with text there were (scripts and styles do not count)."""
    classes, ids = names
    hidden = 0
    for element in list(tree.iter()):
        if not isinstance(element.tag, str) or element.getparent() is None:
            continue
        unseen = element.tag in UNSEEN
        if not unseen and not (
            element.get("hidden") is not None or (element.get("aria-hidden") or "").casefold() == "true"
            or HIDING.search(element.get("style") or "") or classes.intersection((element.get("class") or "").split())
            or element.get("id") in ids or (element.tag == "input")
        ):  # fmt: skip
            continue
        hidden += not unseen and bool(element.text_content().strip())
        element.drop_tree()
    return hidden


def _text(tree: Any) -> str:
    """All text that is left, a line for each block; navigation is left out."""
    import html_text

    for element in tree.xpath("//nav | //footer"):
        element.drop_tree()
    return html_text.extract_text(tree, guess_layout=True)


def _main_text(tree: Any) -> str:
    """The page's main text without its frame, as trafilatura finds it; empty when it finds none."""
    import trafilatura
    from lxml import html as lxml_html

    return (
        trafilatura.extract(
            lxml_html.tostring(tree, encoding="unicode"),
            favor_precision=True,
            include_comments=False,
            include_tables=False,
            fast=True,
        )
        or ""
    )


def _structured(tree: Any) -> list[dict[str, Any]]:
    """JSON-LD and microdata objects, cut to a depth and a number."""
    from extruct.jsonld import JsonLdExtractor
    from extruct.w3cmicrodata import MicrodataExtractor

    found: list[dict[str, Any]] = []
    for script in tree.xpath('//script[@type="application/ld+json"]')[:20]:
        try:
            found += [{"by": "json-ld", "object": _cut(one)} for one in JsonLdExtractor().extract_items(script)]
        except (ValueError, RecursionError):
            continue  # one broken script says nothing about the others
    try:
        found += [
            {"by": "microdata", "object": _cut(one)}
            for one in MicrodataExtractor().extract_items(tree, base_url=None)[:20]
        ]
    except (ValueError, RecursionError):
        return found[:MAX_ITEMS]
    return found[:MAX_ITEMS]


def _cut(value: Any, depth: int = 0) -> Any:
    if isinstance(value, dict) and depth < MAX_DEPTH:
        return {str(k)[:100]: _cut(v, depth + 1) for k, v in list(value.items())[:MAX_ITEMS]}
    if isinstance(value, list) and depth < MAX_DEPTH:
        return [_cut(v, depth + 1) for v in value[:MAX_ITEMS]]
    return value[:MAX_VALUE] if isinstance(value, str) else value if isinstance(value, int | float | bool) else None


if __name__ == "__main__":
    main()
