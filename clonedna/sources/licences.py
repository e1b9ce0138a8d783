"""Which licence a repository or a file is under, and whether it is allowed. Unknown is refused.

Order of truth: the SPDX id that the platform (GitHub) gives for the repository, the text of licence files at the root (`pyaskalono`,
score >= 0.9), SPDX headers in the files. None of them overrules another: where platform and text name different licences the licence
is unknown, and a file whose header names a licence that is none of its repository's is refused. A header decides alone where nothing
known is stated for the repository. Several licence files mean a choice (OR) only where their names or a note beside them say so; else
all of them hold (AND). A rider that takes something back makes any of it unknown.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import askalono  # type: ignore[import-untyped]
from license_expression import AND, OR, ExpressionError, LicenseSymbol, get_spdx_licensing

from clonedna.core.work import Licence
from clonedna.sources.process import Git, Objects

ENOUGH = 0.9
NO_FILE = "no licence file at the root"
MAX_LICENCE_BYTES = 200_000
HEADER_LINES = 40
_FILE = re.compile(r"^(licen[cs]es?|copying|unlicense)([-_.].*)?$", re.IGNORECASE)
_NOT_A_TEXT = re.compile(r"\.(py|js|ts|json|toml|html?|tmpl|in|header|spdx)$", re.IGNORECASE)
_OTHERS_CODE = re.compile(r"third|3rd|vendor|bundled|dependenc", re.IGNORECASE)
_ONE_OF_SEVERAL = re.compile(r"^(licen[cs]e|copying)[-_.](?!txt$|md$|rst$)[a-z0-9]|^unlicense", re.IGNORECASE)
_CHOICE = re.compile(r"\beither\b|\bdual\b|\bdual-licen[cs]ed\b|\bat your option\b", re.IGNORECASE)
MAX_POINTER = 1200
_HEADER = re.compile(
    r"^\W{0,8}SPDX-License-Identifier:[ \t]*([A-Za-z0-9.+\-() ]+?)[ \t]*(?:\*/|-->)?[ \t]*\r?$", re.MULTILINE
)
# Riders that take back what the text around them grants: beside a long licence they hardly lower a matcher's score.
_RIDERS = re.compile(
    r"commons clause|elastic license|business source license|server side public license|non-?commercial (use|purposes?)? ?only|"
    r"good, not evil|(may|shall|must) not be used (by|for|in|to)\b|right to sell the software",
    re.IGNORECASE,
)
# What licences say themselves: a name is not to promote (BSD, HPND), and a text is not read against who drafted it (MPL).
_OWN_WORDS = re.compile(
    r"\bnames?\b[^.;:]{0,160} (may|shall|must) not be used (to (endorse|promote)|in (any )?(advertising|publicity))\b|"
    r"against the drafter shall not be used to\b",
    re.IGNORECASE,
)
# Apache-2.0 without its appendix is taken for Pixar's edition of it, whose section 6 has other words.
_APACHE_6 = re.compile(r"required for reasonable and customary use in describing the origin of the Work", re.IGNORECASE)
_SPDX = get_spdx_licensing()


def licence_files(git: Git, revision: str) -> tuple[tuple[str, str], ...]:
    """``(name, blob)`` of the regular files at the root whose name is a licence's, sorted."""
    found: list[tuple[str, str]] = []
    for record in git.fields("ls-tree", "-z", revision):
        meta, _, name = record.partition("\t")
        if meta.startswith("100") and is_licence_name(name):
            found.append((name, meta.split()[2]))
    return tuple(sorted(found))


def is_licence_name(name: str) -> bool:
    """Whether a file of this name holds a licence's text."""
    return _FILE.match(name) is not None and _NOT_A_TEXT.search(name) is None


def repository_licence(git: Git, objects: Objects, revision: str) -> Licence:
    """The licence that the root of ``revision`` states; ``spdx`` is ``None`` when it states none that is known."""
    return licence_of_files(objects, licence_files(git, revision))


def licence_of_files(objects: Objects, files: Sequence[tuple[str, str]]) -> Licence:
    """The licence that these ``(name, blob)`` state together."""
    texts = [(name, (objects.get(blob, MAX_LICENCE_BYTES) or b"").decode("utf-8", "replace")) for name, blob in files]
    return licence_of_texts(texts)


def agreed(platform: str | None, files: Licence, by: str = "the platform") -> Licence:
    """What the platform's SPDX id for a repository and its licence files say together; ``by``: who states the id, in words.

    The platform's id stands alone where the root has no licence file; ``NOASSERTION`` and what is no SPDX id say nothing. Where both
    name a licence and they differ, and where a text is not recognised or carries a rider, none is known. An id that asks for all that the
    files name and more (``MIT AND X``) holds as it is.
    """
    stated = platform if platform and platform != "NOASSERTION" and _parsed(platform) is not None else None
    if stated is None or (files.spdx is None and files.how != NO_FILE):
        return files
    if files.spdx is None:
        return Licence(spdx=stated, how=f"{by}'s id; {files.how}")
    if _asks_more(stated, files.spdx):
        return Licence(spdx=stated, how=f"{by}'s id, of which {files.how} has a part", score=files.score)
    if contradicts(stated, files.spdx):
        return Licence(spdx=None, how=f"{by} says {stated}, {files.how} says {files.spdx}")
    return files.model_copy(update={"how": f"{by}'s id and {files.how}"})


def licence_of_texts(files: Sequence[tuple[str, str]]) -> Licence:
    """The licence that licence files ``(name, text)`` state together."""
    own = [(name, text) for name, text in files if not _OTHERS_CODE.search(name)]
    named = [name for name, _ in own if _ONE_OF_SEVERAL.match(name)]
    pointers = {
        name for name, text in own if name not in named and len(named) > 1 and len(text) < MAX_POINTER and _CHOICE.search(text)
    }  # fmt: skip
    found: list[tuple[str, str, float]] = []
    for name, text in own:
        if name in pointers:
            continue
        plain = " ".join(text.split())
        if _RIDERS.search(_OWN_WORDS.sub(" ", plain)):
            return Licence(spdx=None, how=f"file:{name} carries a rider that restricts it")
        stated = header_licence(text)
        match = askalono.identify(text)  # pyright: ignore[reportAttributeAccessIssue]
        score = round(float(match.score), 4)
        if score >= ENOUGH:
            apache = match.name == "Pixar" and _APACHE_6.search(plain) is not None
            found.append((name, "Apache-2.0" if apache else str(match.name), score))
        elif stated and len(text) < MAX_POINTER and _parsed(stated):
            found.append((name, stated, 1.0))
        else:
            return Licence(spdx=None, how=f"file:{name} is no licence text that is known", score=score)
    if not found:
        return Licence(spdx=None, how=NO_FILE)
    each = list(dict.fromkeys(spdx for _, spdx, _ in found))
    choice = len(named) == len(found) and (len(named) > 1 or bool(pointers))
    together = (" OR " if choice else " AND ").join(f"({one})" if " " in one and len(each) > 1 else one for one in each)
    return Licence(
        spdx=together, how=f"file:{', '.join(name for name, _, _ in found)}", score=min(score for _, _, score in found)
    )


def header_licence(text: str) -> str | None:
    """The SPDX expression of a line in the first 40 that begins with ``SPDX-License-Identifier:`` (behind comment marks), if there is one.

    Several such lines all hold.
    """
    head = "\n".join(text.split("\n", HEADER_LINES)[:HEADER_LINES])
    stated = list(dict.fromkeys(match.strip() for match in _HEADER.findall(head)))
    return (
        " AND ".join(f"({one})" if " " in one else one for one in stated)
        if len(stated) > 1
        else next(iter(stated), None)
    )


def allowed(expression: str, licences: Sequence[str]) -> bool:
    """Whether an SPDX expression is allowed: every part of an AND, any part of an OR. Not what cannot be parsed, nor exceptions (WITH)."""
    names = {name.casefold() for name in licences}

    def fits(node: object) -> bool:
        if isinstance(node, LicenseSymbol):
            return str(node.key).casefold() in names
        if isinstance(node, OR):
            return any(fits(part) for part in node.args)
        return isinstance(node, AND) and all(fits(part) for part in node.args)

    return fits(_parsed(expression))


def contradicts(one: str, other: str | None) -> bool:
    """Whether ``one`` names a licence that ``other`` does not; nothing contradicts what states nothing (``None``)."""
    return other is not None and not names_of(one) <= names_of(other)


def _asks_more(one: str, other: str) -> bool:
    """Whether ``one`` is some licences that all hold, those of ``other`` and more."""
    parsed: Any = _parsed(one)
    plain = isinstance(parsed, AND) and all(isinstance(part, LicenseSymbol) for part in parsed.args)
    return plain and names_of(other) < names_of(one)


def names_of(expression: str) -> frozenset[str]:
    """The licences of an expression, as SPDX writes them; what cannot be parsed is a name of its own."""
    parsed: Any = _parsed(expression)
    return frozenset(str(key) for key in _SPDX.license_keys(parsed)) if parsed is not None else frozenset((expression,))


def _parsed(expression: str) -> object:
    """The expression, or ``None`` when it is none or names a licence that SPDX does not know."""
    try:
        return _SPDX.parse(expression, validate=True)
    except (ExpressionError, RecursionError):
        return None
