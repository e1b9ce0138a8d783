"""Which licence a repository or a file is under, and whether it is allowed. Unknown is refused.

Order of truth: the text of LICENSE files at the root (`pyaskalono`, score >= 0.9), then SPDX headers in the files themselves; a file's own
header wins for that file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import askalono
from license_expression import ExpressionError, LicenseSymbol, get_spdx_licensing

from clonedna.core.work import Licence

ENOUGH = 0.9
LICENCE_FILE = re.compile(r"^(licen[cs]e|copying|unlicense)([-_.].*)?$", re.IGNORECASE)
_HEADER = re.compile(r"SPDX-License-Identifier:\s*([A-Za-z0-9.+\-() ]+?)\s*(?:\*/|-->|$)", re.MULTILINE)
_NOT_A_TEXT = re.compile(r"\.(py|js|ts|json|toml|html?)$", re.IGNORECASE)
# Riders that take back what the text around them grants; a matcher of whole texts may overlook them.
_RIDERS = re.compile(
    r"commons clause|elastic license|business source license|server side public license", re.IGNORECASE
)
_SPDX = get_spdx_licensing()


def licence_of_texts(files: Sequence[tuple[str, str]]) -> Licence:
    """The licence of a repository from its licence files ``(path, text)``. Several allowed at choice (``LICENSE-MIT``, ``LICENSE-APACHE``) join by OR."""
    found: list[tuple[str, str, float]] = []
    for path, text in files:
        if _NOT_A_TEXT.search(path):
            continue
        if _RIDERS.search(text):
            return Licence(spdx=None, how=f"file:{path} carries a rider that restricts the licence")
        match = askalono.identify(text)
        if match is None or match.score < ENOUGH:
            return Licence(
                spdx=None,
                how=f"file:{path} is no known licence text",
                score=round(float(match.score), 4) if match else None,
            )
        found.append((path, str(match.name), float(match.score)))
    if not found:
        return Licence(spdx=None, how="no licence file at the root")
    names = list(dict.fromkeys(name for _, name, _ in found))
    where = ", ".join(path for path, _, _ in found)
    return Licence(spdx=" OR ".join(names), how=f"file:{where}", score=round(min(score for _, _, score in found), 4))


def header_licence(text: str) -> str | None:
    """The SPDX expression that a file states in its first 4,000 characters, if it does."""
    match = _HEADER.search(text[:4000])
    return match[1].strip() if match else None


def allowed(expression: str, licences: Sequence[str]) -> bool:
    """Whether an SPDX expression is allowed: every part of an AND, any part of an OR. What cannot be parsed is not. Exceptions (WITH) are not."""
    try:
        parsed = _SPDX.parse(expression, validate=True)
    except ExpressionError:
        return False
    names = {name.casefold() for name in licences}

    def fits(node: object) -> bool:
        if isinstance(node, LicenseSymbol):
            return node.key.casefold() in names
        parts = [fits(part) for part in getattr(node, "args", ())]
        if not parts:
            return False
        return any(parts) if type(node).__name__ == "OR" else all(parts)

    return parsed is not None and fits(parsed)
