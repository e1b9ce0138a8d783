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
    "a an and are as at be by can do for from has have he her his i in is it its me my no not of on or our she so that the their them they"
    " this to us was we were what when where which who whose will with you your"
)
_COMMON = frozenset(_SENTENCES.split())


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
    return ([word for word in found if word not in _COMMON] or found)[:most]


def _plain(text: str) -> str:
    """Without accents and ligatures; ``C++`` and ``C#`` as words."""
    spoken = _SIGNS.sub(lambda found: found["letter"].lower() + _SPOKEN[found["sign"]], text)
    apart = unicodedata.normalize("NFKD", spoken)
    return unicodedata.normalize("NFKC", "".join(c for c in apart if unicodedata.category(c) != "Mn"))
