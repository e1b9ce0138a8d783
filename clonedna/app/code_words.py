"""Code and questions about code as words to search by: identifiers whole and in their parts, small letters, in the order they stand.

``readConfigFile`` and ``read_config_file`` both give ``read``, ``config``, ``file``; so a question in plain words finds either. Words that
only hold a sentence together say nothing of code, and are left out.
"""

from __future__ import annotations

import re

MOST_WORDS = 4_000
MOST_LETTERS = 64
_GLUE_TEXT = (
    "a an and are as at be by can do does for from give has have how i if in into is it its make me my no not of on one or our please"
    " should so some such than that the their then there these they this to use using want was we what when where which will with would"
    " write you your"
)
_GLUE = frozenset(_GLUE_TEXT.split())
_IDENTIFIER = re.compile(r"[^\W\d]\w*|\d+")
# An abbreviation before a word (HTTPServer), a word with or without its capital (small letters of any script), capitals alone, digits.
_PART = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[^\W\d_A-Z]+|[A-Z]+|\d+")


def code_words(text: str) -> list[str]:
    """The first ``MOST_WORDS`` words of a text; single letters are left out, and longer words than ``MOST_LETTERS`` are cut."""
    found: list[str] = []
    for match in _IDENTIFIER.finditer(text):
        parts = [part.casefold() for part in _PART.findall(match[0])]
        whole = match[0].casefold()
        found += [word[:MOST_LETTERS] for word in parts if len(word) > 1 and word not in _GLUE]
        if len(parts) > 1:
            found.append(whole[:MOST_LETTERS])
        if len(found) >= MOST_WORDS:
            break
    return found[:MOST_WORDS]
