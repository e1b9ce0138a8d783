"""Words of a text as a catalogue finds them: identifiers in parts, without case and accents; the same for what is stored and asked."""

from __future__ import annotations

import re
import unicodedata

MOST_LETTERS = 64
_SIGNS = re.compile(r"(?<!\w)(?P<letter>[CcFf])(?P<sign>\+\+|#)")
_SPOKEN = {"++": "pp", "#": "sharp"}
_RUN = re.compile(r"\w+")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|_+")
_SENTENCES = (
    "a an and are as at be by can do does for from give had has have he her his how i if in into is it its make me my no "
    "not of on one or our please she should so some such than that the their them then there these they this to us use "
    "using want was we were what when where which who whose will with would write you your"
)
COMMON = frozenset(_SENTENCES.split())
"""Words that are in every sentence."""


def words(text: str, most: int = 4000, *, wholes: bool = True) -> list[str]:
    """At most ``most`` words in their order: letters and digits alone, each at most 64. ``parseHTTPHeader`` and ``parse_http_header`` are
    ``parse``, ``http``, ``header``, and (``wholes``) ``parsehttpheader``."""
    found: list[str] = []
    for match in _RUN.finditer(_plain(text)):
        parts = [part for part in _HUMP.split(match.group()) if part]
        whole = ["".join(parts)] if wholes and len(parts) > 1 else []
        found += (part.casefold()[:MOST_LETTERS] for part in (*parts, *whole))
        if len(found) >= most:
            break
    return found[:most]


def asked_words(text: str, most: int = 32, *, wholes: bool = True) -> list[str]:
    """The words of a question, each once, without those that are in every sentence; all of them where there are no others."""
    found = list(dict.fromkeys(words(text, wholes=wholes)))
    return ([word for word in found if word not in COMMON] or found)[:most]


def telling_words(text: str, most: int = 4000) -> list[str]:
    """The words of a text without single letters and those that are in every sentence: they say nothing of code."""
    return [word for word in words(text, most) if len(word) > 1 and word not in COMMON]


def _plain(text: str) -> str:
    """Without accents and ligatures; ``C++`` and ``C#`` as words."""
    spoken = _SIGNS.sub(lambda found: found["letter"].lower() + _SPOKEN[found["sign"]], text)
    apart = unicodedata.normalize("NFKD", spoken)
    return unicodedata.normalize("NFKC", "".join(c for c in apart if unicodedata.category(c) != "Mn"))
