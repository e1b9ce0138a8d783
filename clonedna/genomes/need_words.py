"""A request taken apart: words with where they stand, what separates them, and which of them are said not to be wanted.

English words of negation and filler are known; of any other language the words pass as they are. Time is linear in the request's length.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from clonedna.core.words import telling_words, words
from clonedna.genomes.taxonomy import spoken


def _set(some: str) -> frozenset[str]:
    return frozenset(some.split())


NONE, COMMA, HARD = 0, 1, 2
"""What stands between a word and the next: nothing, a comma, the end of a clause."""

_PIECE = re.compile(r"[^\s,;:!?()\[\]{}<>|•…\"“”„«»—–、，。；：！？]+|[\n,;:!?()\[\]{}<>|•…\"“”„«»—–、，。；：！？]")
_UNSPACED = r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
_SCRIPTS = re.compile(rf"(?<={_UNSPACED})(?=[A-Za-z])|(?<=[A-Za-z0-9+#])(?={_UNSPACED})")
_TRAILING = ".'’`*_~=@&$%^\\/"
_LEADING = ".'’`*_~=&$%^\\/"

_SAID_OF_PEOPLE, _ASKING, _DOING, _WHAT_EVERYTHING_IS = (
    (
        "expert experts expertise experienced experience senior junior mid seasoned skilled skill skills talented talent "
        "brilliant excellent great good best better perfect amazing awesome outstanding exceptional strong solid proven "
        "passionate motivated rockstar ninja guru wizard genius world class top notch professional proficient proficiency "
        "fluent fluency knowledge knowledgeable familiar familiarity background understanding deep extensive broad hands year "
        "years month months lead leading principal staff level advanced intermediate beginner beginners basic basics someone "
        "somebody anyone anybody person people guy developer developers dev devs engineer engineers programmer programmers "
        "coder coders specialist specialists consultant freelancer contractor candidate candidates colleague teammate hacker "
        "master mastery veteran competent capable able confident effective efficient high quality"
    ),
    (
        "please kindly thanks thank hello hi hey dear help helps helping need needs needed want wants wanted like likes love "
        "loves look looks looking seek seeking search searching find finding hire hiring require requires required requirement "
        "must should could would may might shall ideally preferably prefer prefers preferred nice bonus also too really very "
        "quite highly especially particularly mainly mostly primarily just only even well currently asap urgently urgent soon "
        "now today quickly quick fast simple simply easy easily various several many some any all every each both lot lots kind "
        "kinds sort type types thing things stuff something anything everything etc eg ie know knows knowing knew think thinks "
        "thinking understand understands got get gets getting give gives assemble assembles assembling clone clones genome "
        "genomes model models layer layers block blocks persona"
    ),
    (
        "write writes writing written wrote build builds building built make makes making made create creates creating created "
        "develop develops developing developed implement implements implementing implemented implementation code codes coding "
        "coded program programs programming programmed work works working worked use uses using used handle handles handling do "
        "does doing done solve solves solving add adds adding provide provides support supports supporting run runs running set "
        "setup can be been being start go going deliver delivering maintain maintains maintaining take takes taking care ensure "
        "involve involving related relevant based"
    ),
    (
        "software application applications app apps project projects product products system systems tool tools tooling "
        "solution solutions development engineering language languages framework frameworks library libraries package packages "
        "technology technologies tech stack task tasks job jobs role team teams company new modern large small big complex own "
        "other others more most less much different specific general common existing current production ready grade style "
        "styles way ways area areas field domain one two three first part parts side custom robust scalable reliable clean "
        "proper properly correct correctly nicely rather instead old idiomatic nothing none service services module modules "
        "plugin plugins pattern patterns pipeline pipelines feature features component components codebase function functions "
        "operator operators w design designs designed designing over under into onto inside within between about against through "
        "across around upon per toward towards"
    ),
)
"""What is said of people, how one asks, what is done to any code, and what all of it is: no skills by themselves."""
FILLER = _set(f"{_SAID_OF_PEOPLE} {_ASKING} {_DOING} {_WHAT_EVERYTHING_IS}")
JOINING = _set("w and or nor plus with using via then but that which who whose where when while & as")
STARTING = _set("with using in for on via that which who whose where to as")
CONTRAST = _set("but however yet though although whereas")
_NEGATIVE = _set(
    "not no non without except excluding avoid avoids avoiding never neither nor dont doesnt isnt cannot minus sans dislike dislikes hate "
    "hates skip exclude excludes"
)
_CLIPPED = _set("don doesn isn won can shouldn mustn didn aren wouldn needn haven hasn")
_TWO = frozenset({("instead", "of"), ("rather", "than"), ("other", "than"), ("anything", "but"), ("w", "o")})
_AFTER_NOT = _set("only just merely necessarily too very so overly always")
_OF_PEOPLE = _set("experienced good familiar skilled keen fond interested comfortable strong fluent")
_MODAL = _set("can could may might must shall should will")
_MUST_NOT = _set("cannot can won shouldn mustn")
_POSTFIX = _set("needed required necessary wanted allowed desired")


@dataclass(frozen=True, slots=True)
class Word:
    """One word. ``piece``: the run between spaces that it is of; ``part``: of that, what slashes separate; ``shown``: that part as written.

    ``stop``: what stands behind it; ``plain``: it says nothing by itself.
    """

    text: str
    piece: int
    part: int
    shown: str
    stop: int
    plain: bool

    @property
    def capital(self) -> bool:
        return self.shown[:1].isupper()


def taken_apart(request: str) -> list[Word]:
    """The request's words in their order."""
    found: list[Word] = []
    for number, match in enumerate(_PIECE.finditer(_SCRIPTS.sub(" ", spoken(request)))):
        piece = match.group()
        if len(piece) == 1 and not piece.isalnum() and piece not in "&@#":
            _stop(found, COMMA if piece in ",、，" else HARD)
            continue
        ends = piece[-1] == "." and len(piece.rstrip(".")) > 0
        for part, written in enumerate(piece.split("/")):
            shown = written.rstrip(_TRAILING).lstrip(_LEADING)
            for text in words(shown, wholes=False):
                common = not telling_words(text) and (len(text) > 1 or text in "ai")
                found.append(Word(text, number, part, shown, NONE, common))
        if ends:
            _stop(found, HARD)
    return found


def _stop(found: list[Word], how: int) -> None:
    if found and found[-1].stop < how:
        last = found[-1]
        found[-1] = Word(last.text, last.piece, last.part, last.shown, how, last.plain)


def says_nothing(word: Word) -> bool:
    """A word that is in every request: no skill by itself."""
    return word.plain or word.text in FILLER or word.text.isdigit()


def unwanted(said: Sequence[Word], named: Sequence[bool]) -> list[bool]:
    """For each word, whether it stands under a negation. ``named``: words that a skill's name was found in, which negate nothing.

    A negation reaches to the end of its clause, to a comma (but over a list that ends in ``or``), or to a word that turns away from it.
    What must not happen, or is done without doing something ("may not pass through walls", "without losing a bit"), is told of what is
    wanted, unless something is named in it ("without writing JavaScript").
    """
    under = [False] * len(said)
    place = 0
    while place < len(said):
        length = 0 if named[place] else _negation(said, place)
        if not length:
            place += 1
            continue
        under[place : place + length] = [True] * length
        end = _reach(said, place, place + length, under)
        if _describes(said, place) and not any(named[place:end]):
            under[place:end] = [False] * (end - place)
        place = end
    for number, word in enumerate(said[:-1]):
        follows = said[number + 1]
        if together(word, follows) and follows.text == "free" and "-" in word.shown:
            under[number] = under[number + 1] = True
    return under


def together(one: Word, other: Word) -> bool:
    """Whether two words are written as one."""
    return one.piece == other.piece and one.part == other.part


def _negation(said: Sequence[Word], place: int) -> int:
    """How many words of a negation begin here."""
    text, following, third = (said[n].text if n < len(said) else "" for n in range(place, place + 3))
    if (text, following) in _TWO or (text in _CLIPPED and following == "t"):
        return 2
    if text in _NEGATIVE and not (text in ("not", "no") and following in _AFTER_NOT and third not in _OF_PEOPLE):
        return 1
    return 0


def _describes(said: Sequence[Word], place: int) -> bool:
    """Whether the negation that begins here says how something behaves, rather than what is not wanted."""
    text, before = said[place].text, said[place - 1].text if place else ""
    following = said[place + 1].text if place + 1 < len(said) else ""
    doing = text == "without" and following.endswith("ing")
    return doing or text in _MUST_NOT or (text in ("not", "never") and before in _MODAL)


def _reach(said: Sequence[Word], start: int, first: int, under: list[bool]) -> int:
    """Mark what this negation reaches; gives the place behind it."""
    place, covered = first, False
    if said[first - 1].stop == HARD:
        return first
    if first < len(said) and said[first].text in _POSTFIX:  # "X is not needed"
        back = start - 1
        while back >= 0 and said[back].stop == NONE and said[back].text not in JOINING:
            under[back] = True
            back -= 1
        return first + 1
    while place < len(said):
        word = said[place]
        if place > first and together(said[start], said[first]) and not together(said[start], word):  # "non-Java"
            return place
        turns = word.text in CONTRAST or (covered and word.text in STARTING)
        if turns or (covered and word.text in ("want", "need", "wants", "needs")):
            return place
        under[place] = True
        covered = covered or not says_nothing(word)
        if word.stop == HARD or (word.stop == COMMA and not _list_of_alternatives(said, place + 1)):
            return place + 1
        place += 1
    return place


def _list_of_alternatives(said: Sequence[Word], place: int) -> bool:
    """Whether what follows a comma is the rest of ``A, B or C``: short members, and ``or`` or ``nor`` before the last."""
    since = 0
    for word in said[place : place + 24]:
        if word.text in ("or", "nor"):
            return True
        if word.text in CONTRAST or word.text == "and" or word.text in _NEGATIVE:
            return False
        since += 1
        if word.stop == HARD or since > 3:
            return False
        if word.stop == COMMA:
            since = 0
    return False


def shown(kept: Sequence[Word]) -> str:
    """The words as they were written, each piece once, with the commas between them."""
    told: dict[tuple[int, int], str] = {}
    commas: set[tuple[int, int]] = set()
    for word in kept:
        told.setdefault((word.piece, word.part), word.shown)
        if word.stop == COMMA:
            commas.add((word.piece, word.part))
    return " ".join(f"{text}," if place in commas else text for place, text in told.items()).rstrip(",")
