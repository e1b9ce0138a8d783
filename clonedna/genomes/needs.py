"""What a request asks for: its words as skills of the taxonomy, with weights, or as free text where the taxonomy has nothing.

The longest spelling of a node wins; what matches none is compared with the nodes by an encoder, where one is given, and stays a skill in
the request's own words where nothing is clearly near. The same request always gives the same skills; it is data, whatever it says.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from threading import Lock

import numpy as np

from clonedna.core.errors import InputError
from clonedna.core.genome import MOST_ASKED, MOST_REQUEST, MOST_SKILLS, DesiredGenome, Skill
from clonedna.core.seams import Encoder, Index
from clonedna.core.vectors import Hit, Vectors
from clonedna.genomes.clauses import MOST_PARTS, Clause, clauses
from clonedna.genomes.need_words import (
    COMMA,
    JOINING,
    NONE,
    Word,
    says_nothing,
    shown,
    taken_apart,
    together,
    unwanted,
)
from clonedna.genomes.taxonomy import Alias, Taxonomy, key, parts

NEAR, APART, ALONE = 0.40, 0.04, 0.55
"""A phrase is a node's where its cosine with the node is at least ``NEAR`` and ``APART`` more than with the next one. Chosen for MiniLM,
to be seldom wrong rather than often there (``bench/needs.py``). Any other encoder needs a threshold of its own. A word alone is near to
much that is not meant (tables, files, classes): it must be nearer, ``ALONE``."""
MOST_PHRASES, MOST_TEXT = 12, 200
WHOLE, BENT, SHARED, FREE = 1.0, 0.95, 0.5, 0.5
"""Strengths: a spelling in full; its plural or with a version's digits; one that several nodes have; the request's own words."""
_BEFORE = "in using with via learn knows know speaks uses use writes write writing written"
_AFTER = (
    "code programming programmer programmers developer developers dev engineer engineers language library framework app apps application "
    "applications service services script scripts program programs package packages module modules project projects server servers backend "
    "frontend api apis cli based plugin plugins project component components hooks stack codebase runtime job jobs cluster pipeline "
    "pipelines chart charts container template templates route routes endpoint endpoints game games design"
)
_CUES_BEFORE, _CUES_AFTER = frozenset(_BEFORE.split()), frozenset(_AFTER.split())


@dataclass(frozen=True, slots=True)
class _Found:
    """Words from ``start`` to ``end`` that are a node's."""

    start: int
    end: int
    alias: Alias
    strength: float


class Reader:
    """Reads requests against one taxonomy; threads may share it.

    With an encoder, the first reading that needs the nodes' vectors encodes them (seconds), or takes them from ``index``, where they stay.
    """

    def __init__(
        self, taxonomy: Taxonomy, encoder: Encoder | None = None, *, index: Index | None = None, near: float = NEAR, apart: float = APART
    ) -> None:  # fmt: skip
        self.taxonomy, self.encoder = taxonomy, encoder
        self._index, self._near, self._apart = index, near, apart
        self._lock, self._rows = Lock(), dict[str, Vectors]()
        self._keys = {
            f"{node}#{sha256(taxonomy.text(node).encode()).hexdigest()[:12]}": node for node in taxonomy.nodes
        }

    def read(self, request: str) -> DesiredGenome:
        """The skills of a request, the weightiest first, at most ``MOST_SKILLS``; weights are strength times rarity, and add up to 1.

        Raises ``InputError`` for one that is empty, longer than ``MOST_REQUEST`` characters, or names nothing that could be a skill.
        """
        text = cleaned(request)
        said = taken_apart(text)
        found = self._named(said)
        inside = [False] * len(said)
        for one in found:
            inside[one.start : one.end] = [True] * (one.end - one.start)
        under = unwanted(said, inside)
        refused = {node for one in found if under[one.start] for node in one.alias.nodes}
        named, left = self._mentions(found, under), list[_Mention]()
        phrases = _phrases(said, inside, under)
        for (phrase, place), (node, strength) in zip(phrases, self._near_nodes(phrases), strict=True):
            rarity = self.taxonomy.rarity(parts(phrase))
            if not node or node in refused:
                left.append(_Mention("", phrase, place, FREE, rarity))
            elif all(node != one.node for one in named):
                named.append(_Mention(node, phrase, place, strength, rarity))
        weights = _Asked(text, said, inside, under).skills(named, left)
        if not weights:
            raise _nothing(bool(refused) or any(under))
        return DesiredGenome(
            request=text, skills=_weighed(weights), taxonomy=self.taxonomy.version, encoder=self.encoder.name if self.encoder else "",
        )  # fmt: skip

    def _mentions(self, found: Sequence[_Found], under: Sequence[bool]) -> list[_Mention]:
        return [
            _Mention(
                node, self.taxonomy.nodes[node].label, one.start, one.strength * (SHARED if len(one.alias.nodes) > 1 else 1.0),
                self.taxonomy.rarity(one.alias.words),
            )
            for one in found
            if not under[one.start]
            for node in one.alias.nodes
        ]  # fmt: skip

    def _named(self, said: Sequence[Word]) -> list[_Found]:
        """The longest spelling that begins at each word, from left to right."""
        found: list[_Found] = []
        place = 0
        while place < len(said):
            one = self._longest(said, place)
            if one is None:
                place += 1
            else:
                found.append(one)
                place = one.end
        return [one for one in found if not one.alias.everyday or _as_a_name(said, one, found)]

    def _longest(self, said: Sequence[Word], start: int) -> _Found | None:
        # A spelling of n words may be written as more: "java script", "e 2 e".
        for end in range(min(len(said), start + self.taxonomy.longest + 2), start, -1):
            window = said[start:end]
            if any(word.stop != NONE for word in window[:-1]) or not _whole(said, start, end):
                continue
            for name, strength in _spellings(window):
                alias = self.taxonomy.aliases.get(name)
                if alias is not None:
                    return _Found(start, end, alias, strength)
        return None

    def _near_nodes(self, phrases: Sequence[tuple[str, int]]) -> list[tuple[str, float]]:
        """For each phrase the node that is clearly near and its cosine, or no node."""
        if self.encoder is None or not phrases:
            return [("", FREE) for _ in phrases]
        found: list[tuple[str, float]] = []
        rows = self.encoder.encode([phrase for phrase, _ in phrases]).rows
        for (phrase, _), row in zip(phrases, rows, strict=True):
            hits = self._two_nearest(self.encoder, Vectors(self.encoder.name, row[None, :]))
            node, cosine = self._keys[hits[0].key], hits[0].cosine
            least = self._near if " " in phrase else max(self._near, ALONE)
            clear = cosine >= least and (len(hits) == 1 or cosine - hits[1].cosine >= self._apart)
            # A word that was found to be none of a node's names (swift, go) does not make it near.
            clear = clear and not {key(one) for one in self.taxonomy.nodes[node].everyday}.intersection(parts(phrase))
            found.append((node, min(1.0, cosine)) if clear else ("", FREE))
        return found

    def _two_nearest(self, encoder: Encoder, phrase: Vectors) -> Sequence[Hit]:
        keys = list(self._keys)
        with self._lock:
            if self._index is not None:
                missing = sorted(self._keys.keys() - self._index.keys())
                if missing:
                    self._index.add(missing, encoder.encode([self.taxonomy.text(self._keys[one]) for one in missing]))
                return self._index.search(phrase, 2, among=self._keys.keys())
            if encoder.name not in self._rows:
                self._rows[encoder.name] = encoder.encode([self.taxonomy.text(self._keys[one]) for one in keys])
        cosines = self._rows[encoder.name].rows @ phrase.rows[0]
        return [Hit(keys[int(one)], float(cosines[one])) for one in np.argsort(-cosines, kind="stable")[:2]]


def cleaned(request: str) -> str:
    """The request as one line without control characters. Raises ``InputError`` when it is empty or too long."""
    if len(request) > MOST_REQUEST:
        raise InputError(
            f"the request has {len(request)} characters",
            f"say in at most {MOST_REQUEST} what is wanted",
            param="request",
        )
    lines = ["".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in line) for line in request.splitlines()]
    text = "; ".join(flat for line in lines if (flat := " ".join(line.split())))
    if not text:
        raise InputError("the request is empty", 'say what is wanted, e.g. "Python, web scraping"', param="request")
    return text[:MOST_REQUEST]


def _nothing(negated: bool) -> InputError:
    if negated:
        return InputError("the request says only what is not wanted", "say what is wanted, too", param="request")
    return InputError(
        "the request names no skill", "name languages, libraries, kinds of work or fields", param="request"
    )


def _whole(said: Sequence[Word], start: int, end: int) -> bool:
    """Whether words from several pieces are whole ones, and not a negation or an article with what follows."""
    first, last = said[start], said[end - 1]
    if first.piece == last.piece:
        return True
    before, behind = said[start - 1] if start else None, said[end] if end < len(said) else None
    cut = (before is not None and together(before, first)) or (behind is not None and together(last, behind))
    alone = first.text in ("a", "an", "i", "no", "not", "non", "nor") and not together(first, said[start + 1])
    return not cut and not alone


def _spellings(window: Sequence[Word]) -> list[tuple[str, float]]:
    """How the words may stand in the taxonomy: as they are, as a singular, and without a version's digits at the end."""
    whole = "".join(word.text for word in window)
    found = [(whole, WHOLE)]
    if len(whole) > 3 and whole.endswith("s") and not whole.endswith("ss"):
        found.append((whole[:-1], BENT))
        if whole.endswith("ies"):
            found.append((whole[:-3] + "y", BENT))
        if whole.endswith(("ses", "xes", "ches", "shes", "zes")):
            found.append((whole[:-2], BENT))
    bare = whole.rstrip("0123456789")
    if bare != whole and bare and len(window) == 1:
        found.append((bare, BENT))
    return found


def _as_a_name(said: Sequence[Word], one: _Found, found: Sequence[_Found]) -> bool:
    """Whether an ordinary word (go, swift, r) is written as a name: with a capital, as a member of a list, or beside a word for code."""
    first, last = said[one.start], said[one.end - 1]
    if len(one.alias.words) == 1 and len(first.text) == 1 and not _letter_alone(said, one):
        return False
    before = said[one.start - 1] if one.start and _beside(said[one.start - 1], first) else None
    behind = said[one.end] if one.end < len(said) and _beside(last, said[one.end]) else None
    starts = before is None or before.text in JOINING
    ends = behind is None or behind.text in JOINING
    letter, telling = (
        len(first.text) == 1,
        before is not None and (says_nothing(before) or _is_named(found, one.start - 1)),
    )
    if first.capital and (ends if before is None else telling or not letter):
        return True
    if (starts and ends) or (behind is not None and behind.text in _CUES_AFTER):
        return True
    if before is not None and before.text in _CUES_BEFORE and (ends or behind is None or behind.plain):
        return True
    beside = any(other is not one and other.start == one.end and not other.alias.everyday for other in found)
    return first.capital and beside


def _beside(one: Word, other: Word) -> bool:
    """Whether nothing stands between two words, not even the slash of ``React/Vue``."""
    return one.stop == NONE and (one.piece != other.piece or one.part == other.part)


def _is_named(found: Sequence[_Found], place: int) -> bool:
    return any(one.start <= place < one.end for one in found)


def _letter_alone(said: Sequence[Word], one: _Found) -> bool:
    """Whether a single letter is a word: not of ``R&D`` or ``vitamin-C``."""
    word = said[one.start]
    neighbours = (said[one.start - 1] if one.start else None, said[one.end] if one.end < len(said) else None)
    return len(word.shown) == 1 and not any(other is not None and together(other, word) for other in neighbours)


def _phrases(said: Sequence[Word], inside: Sequence[bool], under: Sequence[bool]) -> list[tuple[str, int]]:
    """What no node has a spelling for, as it is written, and where it begins: runs of words between names, commas and joining words,
    without filler at their edges; at most ``MOST_PHRASES``, each once, those with the most words first."""
    runs: list[list[int]] = [[]]
    for place, (word, known, negated) in enumerate(zip(said, inside, under, strict=True)):
        if known or negated or word.text in JOINING:
            runs.append([])
            continue
        runs[-1].append(place)
        if word.stop >= COMMA:
            runs.append([])
    found: dict[str, tuple[int, int]] = {}
    for run in runs:
        kept = _trimmed([said[place] for place in run])
        if kept:
            found.setdefault(_within(shown(kept)), (len(kept), run[0]))
    order = sorted(found, key=lambda text: (-found[text][0], text))[:MOST_PHRASES]
    return [(text, found[text][1]) for text in order]


def _trimmed(run: Sequence[Word]) -> Sequence[Word]:
    start, end = 0, len(run)
    while start < end and says_nothing(run[start]):
        start += 1
    while end > start and says_nothing(run[end - 1]):
        end -= 1
    kept = run[start:end]
    letters = sum(len(word.text) for word in kept if not says_nothing(word) and any(c.isalpha() for c in word.text))
    return kept if letters > 1 else ()


def _within(text: str, most: int = MOST_TEXT) -> str:
    """Cut at a word's end."""
    return text if len(text) <= most else text[:most].rsplit(" ", 1)[0]


class _Asked:
    """What is read for each skill of a request: all that is wanted (twice, beside a clause), the clause that it stands in, its name."""

    def __init__(self, request: str, said: Sequence[Word], inside: Sequence[bool], under: Sequence[bool]) -> None:
        self._said, self._under = said, under
        self._clauses = clauses(said, inside, under)
        # What is not wanted would be near, if it were read; of many clauses the whole says little about one.
        wanted = ("; ".join(one.text for one in self._clauses) if any(under) else "") or request
        self._alone = len(self._clauses) == 1
        times = 1 if self._alone else 2 if len(self._clauses) <= MOST_PARTS else 0
        self._whole = (_within(wanted, MOST_ASKED),) * times

    def skills(self, named: Sequence[_Mention], left: Sequence[_Mention]) -> dict[tuple[str, str], _Weighed]:
        """``named``: nodes; ``left``: words that are none's.

        A name that is alone in its clause is what the clause asks for. Of several each is read by its own name, too, and all that is left
        of their clause is one skill more; so it is with what is left beside a language, which rarely is all that is wanted.
        """
        names, rest = Counter(self._at(one.place) for one in named), {self._at(one.place) for one in left}
        whole = {
            clause
            for one in named
            if (clause := self._at(one.place)) and names[clause] == 1 and not (one.language and clause in rest)
        }
        weights: dict[tuple[str, str], _Weighed] = {}
        for one in named:
            clause = self._at(one.place)
            asked = (*self._whole, *self._read(clause))
            _keep(weights, one, one.name, asked if clause in whole else (*asked, one.name))
        for one in left:
            clause = self._at(one.place)
            asked = (*self._whole, *self._read(clause))
            if clause is None:
                _keep(weights, one, one.name, (*self._whole, one.name))
            elif clause not in whole:
                _keep(weights, one, self._text(clause), self._whole if self._alone else asked)
        return weights

    def _at(self, place: int) -> Clause | None:
        return next((one for one in self._clauses if one.start <= place < one.end), None)

    def _read(self, clause: Clause | None) -> tuple[str, ...]:
        if clause is None:
            return ()
        return self._whole if self._alone else (_within(clause.text, MOST_ASKED),)

    def _text(self, clause: Clause) -> str:
        words = [self._said[place] for place in range(clause.start, clause.end) if not self._under[place]]
        return _within(shown(_trimmed(words) or words))


@dataclass(frozen=True, slots=True)
class _Mention:
    """A skill where it was said: its node (none: words alone) and name, the place of its first word."""

    node: str
    name: str
    place: int
    strength: float
    rarity: float

    @property
    def language(self) -> bool:
        return self.node.startswith("lang/")


@dataclass(frozen=True, slots=True)
class _Weighed:
    weight: float
    strength: float
    asked: tuple[str, ...]


def _keep(weights: dict[tuple[str, str], _Weighed], one: _Mention, text: str, asked: tuple[str, ...]) -> None:
    """Of two mentions of one skill the weightier one counts."""
    key, weight = (one.node, text), round(one.strength * one.rarity, 9)
    known = weights.get(key)
    if known is None or weight > known.weight:
        weights[key] = _Weighed(weight, one.strength, asked)


def _weighed(weights: dict[tuple[str, str], _Weighed]) -> tuple[Skill, ...]:
    """The weightiest skills, their weights normalised; of equals by node and text."""
    order = sorted(weights.items(), key=lambda one: (-one[1].weight, one[0]))[:MOST_SKILLS]
    whole = math.fsum(one.weight for _, one in order)
    return tuple(
        Skill(text=text, node=node, weight=one.weight / whole, strength=one.strength, asked=one.asked)
        for (node, text), one in order
    )
