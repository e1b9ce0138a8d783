"""What a person's page or paper says of them, found by plain rules: labelled sections, sentences about oneself, links to an account.

Rules read words, they follow none. Still, from a sentence on that speaks to a machine (*ignore previous instructions*), the rest of its
paragraph is left out and counted, so that neither these rules nor a teacher model nor a reader meets it. Whatever is found is the
person's own statement, quoted; nobody is judged, and what they say they lack is not listed.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from clonedna.core.profile import MAX_QUOTE, Evidence, EvidenceKind, Item, LanguageItem
from clonedna.sources.reading import clean

AnItem = TypeVar("AnItem", bound=Item)
MAX_ITEMS, MAX_ITEM, MAX_DESCRIPTION = 80, 60, 500
_WORDS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))


def _known(text: str) -> frozenset[str]:
    return frozenset(word for part in text.split("|") if (word := " ".join(part.split())))


_LABEL = {label: kind for kind, text in _WORDS["labels"].items() for label in _known(text)}
PROGRAMMING, SPOKEN = _known(_WORDS["programming"]), _known(_WORDS["spoken"])
_NOT_HANDLES = _known(_WORDS["not_accounts"])
_IN_SENTENCES = sorted(
    (PROGRAMMING - _known(_WORDS["everyday"])) | _known(_WORDS["tools"]), key=lambda name: (-len(name), name)
)
_TERM = re.compile(rf"(?<![\w.+#-])(?:{'|'.join(map(re.escape, _IN_SENTENCES))})(?![\w+#-]|\.\w)", re.IGNORECASE)
_SELF = re.compile(
    r"\b(?:I|I['’]ve|I['’]m|we)\s+(?:\w+\s+){0,3}?(?:write|wrote|written|work(?:ed|ing)?|build|built|program|code|develop(?:ed)?|"
    r"maintain(?:ed)?|use|used|using|know|speak|specialis\w+|specializ\w+|ship(?:ped)?|design(?:ed)?|teach|taught|contribute[ds]?)\b|"
    r"\b(?:experienced|proficient|fluent|skilled|versed|expert|expertise|specialis\w+|specializ\w+|working knowledge|experience)\b"
    r"[^.]{0,20}?\b(?:in|with|of)\b",
    re.IGNORECASE,
)
_LACK = re.compile(
    r"\b(?:not|never|no longer|cannot|without|dislike|hate|avoid|lack|learning|learn|wish|hope|want to|would like|used to)\b|n['’]t\b",
    re.IGNORECASE,
)
_INSTRUCTION = re.compile(
    r"\b(?:ignore|disregard|forget|override|bypass)\b.{0,60}\b(?:instructions?|prompts?|previous|above|prior|rules|guidelines|context)\b|"
    r"\b(?:system|developer) (?:prompt|message)\b|\byou are (?:now )?(?:an?|the|my)\b.{0,40}\b(?:ai|assistant|model|llm|bot|agent)\b|"
    r"\b(?:as an|dear|hey|note to|attention|if you are an?|instructions? (?:to|for)) (?:the )?"
    r"(?:ai|llm|language model|assistant|chatbot|bot|agent|screening)\b|"
    r"\b(?:ai|llm|language model|assistant|chatbot|screening tool|parser)s?\b[^.]{0,40}\b(?:must|should|shall|has to|have to|please)\b|"
    r"</?(?:system|assistant|user|instructions?)>|\[/?(?:inst|system)\]|<\|\w*|^\s*(?:system|assistant)\s*:|"
    r"\b(?:respond|reply|answer|output|print)\b[^.]{0,30}\b(?:only|exactly|with)\b",
    re.IGNORECASE,
)
_PLACE = r"[A-Z][\w'’-]*(?:(?:,? )[A-Z][\w'’-]*){0,4}"
_LOCATION = re.compile(rf"\b(?:[Bb]ased in|[Ll]iv(?:e|es|ing) in|[Ll]ocated in|[Ll]ocation:|[Aa]ddress:)\s+({_PLACE})")
_CITY = re.compile(r"[A-Z][\w.'’ -]{1,40}, ?[A-Z][\w.'’ -]{1,40}")
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_BULLET = re.compile(r"^\s*(?:[-*•·▪◦‣–—]|\d{1,2}[.)])\s+")
_GITHUB = re.compile(
    r"(?<![\w.-])(?:https?://)?(?:www\.)?github\.com/(?P<handle>[A-Za-z0-9](?:-?[A-Za-z0-9]){0,38})(?![\w-])(?P<more>/[\w.-]+)?",
    re.IGNORECASE,
)
_LABELLED = re.compile(
    r"\bgithub\s*(?::|\(|@|handle:?)\s*@?(?P<handle>[A-Za-z0-9](?:-?[A-Za-z0-9]){0,38})(?![\w./-])", re.IGNORECASE
)


def usable(text: str) -> tuple[str, dict[str, int]]:
    """Cleaned text without what speaks to a machine, and what was left out: ``secret`` lines, ``instruction`` paragraphs."""
    cleaned, secrets = clean(text)
    lines: list[str] = []
    instructions = 0
    for line in cleaned.split("\n"):
        kept: list[str] = []
        for sentence in _SENTENCE.split(line):
            if _INSTRUCTION.search(sentence):
                instructions += 1
                break
            kept.append(sentence)
        lines.append(" ".join(kept))
    left = {"secret": secrets, "instruction": instructions}
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip(), {why: n for why, n in left.items() if n}


@dataclass(frozen=True, slots=True)
class Sheet:
    """Usable text with where it is from. Everything found in it is quoted from one of its lines."""

    source: EvidenceKind
    url: str
    text: str

    @property
    def lines(self) -> list[str]:
        return self.text.split("\n")

    def item(self, text: str, line: int, quote: str) -> Item:
        """``line`` counts from 0 here, from 1 in the evidence."""
        proof = Evidence(source=self.source, url=self.url, line=line + 1, quote=quote[:MAX_QUOTE])
        return Item(text=text, how="stated", evidence=(proof,))


@dataclass(frozen=True, slots=True)
class Listed:
    """An entry of a labelled list: the whole entry, and what it names."""

    kind: str
    text: str
    line: int
    quote: str


def label_of(line: str) -> tuple[str, str] | None:
    """The kind of section that a line opens, and what stands behind its label on the same line."""
    bare = _BULLET.sub("", line).strip("#*_ \t")
    name, colon, rest = bare.partition(":")
    kind = _LABEL.get(" ".join(name.replace("&", "and").casefold().split()))
    return (kind, rest.strip()) if kind and (colon or len(bare) <= 40) else None


def listed(sheet: Sheet) -> Iterator[Listed]:
    """Entries of the lists of skills, soft skills and languages. A section ends at the next label, or where prose begins; a label with
    its list on the same line (``Tools: a, b``) is a list of its own, up to a line that does not end with a comma.
    """
    section = inline = ""
    for number, line in enumerate(sheet.lines):
        label = label_of(line)
        kind, rest = inline or section, line
        if label and label[1]:
            kind, rest = label
        elif label:
            section = kind = label[0]
            rest = ""
        elif len(line) > 200 and line.count(",") < 4:
            section = kind = ""
        inline = kind if rest.rstrip().endswith(",") else ""
        if kind in ("skills", "soft", "languages"):
            yield from _entries(kind, rest, number)


def _entries(kind: str, line: str, number: int) -> Iterator[Listed]:
    bare = _BULLET.sub("", line)
    name, colon, rest = bare.partition(":")
    if colon and len(name) <= 40 and rest.strip():
        bare = rest
    for part in re.split(r"[,;|•·▪]|\s[–—]\s(?=[A-Z])", bare):
        quote = part.strip(" .\t")
        text = re.split(r"\s*[(\[]|\s+[-–—]\s+|:", quote)[0].strip()
        if (
            0 < len(text) <= MAX_ITEM
            and len(text.split()) <= 5
            and re.search(r"[^\W_]", text)
            and "[e-mail]" not in part
        ):
            yield Listed(kind, text, number, quote)


def skills_of(sheet: Sheet) -> tuple[tuple[Item, ...], tuple[Item, ...], tuple[LanguageItem, ...]]:
    """Skills, soft skills and languages that the sheet states: in labelled lists, and in sentences about oneself."""
    skills: list[Item] = []
    soft: list[Item] = []
    languages: list[LanguageItem] = []
    for entry in listed(sheet):
        item = sheet.item(entry.text, entry.line, entry.quote)
        word = entry.text.casefold()
        if word in SPOKEN:
            languages.append(language(item, spoken=True))
        elif entry.kind == "soft":
            soft.append(item)
        elif word in PROGRAMMING:
            languages.append(language(item))
            skills.append(item)
        elif entry.kind == "skills":
            skills.append(item)
    for number, line in enumerate(sheet.lines):
        for sentence in _SENTENCE.split(line):
            if not _SELF.search(sentence) or _LACK.search(sentence):
                continue
            for term in _TERM.findall(sentence):
                item = sheet.item(term, number, sentence)
                skills.append(item)
                if term.casefold() in PROGRAMMING:
                    languages.append(language(item))
    return merged(skills), merged(soft), merged(languages)


def language(item: Item, *, spoken: bool = False) -> LanguageItem:
    """The same statement as one of a language."""
    return LanguageItem(text=item.text, how=item.how, evidence=item.evidence, spoken=spoken)


def merged(items: Iterable[AnItem]) -> tuple[AnItem, ...]:
    """One item for each text (case does not count), with up to three pieces of evidence, in the order of first mention."""
    found: dict[str, AnItem] = {}
    for item in items:
        key = item.text.casefold()
        if key not in found:
            if len(found) >= MAX_ITEMS:
                continue
            found[key] = item
        else:
            proofs = tuple(dict.fromkeys((*found[key].evidence, *item.evidence)))[:3]
            found[key] = found[key].model_copy(update={"evidence": proofs})
    return tuple(found.values())


def location_of(sheet: Sheet, *, header: int = 0) -> Item | None:
    """Where the person says they are; in the first ``header`` lines a bare ``City, Country`` counts too."""
    for number, line in enumerate(sheet.lines):
        match = _LOCATION.search(line)
        if match:
            return sheet.item(match[1].rstrip(".,"), number, match[0])
        for part in re.split(r"\s*[|•·]\s*", line) if number < header else ():
            if _CITY.fullmatch(part.strip()) and not label_of(part):
                return sheet.item(part.strip(), number, part.strip())
    return None


def opening(text: str, most: int = MAX_DESCRIPTION) -> str:
    """The first whole sentences of a text, at most ``most`` characters."""
    taken = ""
    for sentence in _SENTENCE.split(text):
        if len(taken) + len(sentence) + 1 > most:
            break
        taken = f"{taken} {sentence}".strip()
    return taken or text[:most].rsplit(" ", 1)[0]


@dataclass(frozen=True, slots=True)
class Claim:
    """A GitHub account that is named; ``rank`` 0 is the strongest claim that it is the person's own."""

    rank: int
    handle: str
    evidence: Evidence


def handle_in(url: str) -> tuple[str, bool] | None:
    """The account of a GitHub address, and whether the address is the account's own page (not a repository's)."""
    match = _GITHUB.search(url)
    if not match or match["handle"].casefold() in _NOT_HANDLES:
        return None
    return match["handle"], not match["more"]


def handles_in(sheet: Sheet) -> Iterator[Claim]:
    """Accounts that the text itself names."""
    for number, line in enumerate(sheet.lines):
        for match in (*_GITHUB.finditer(line), *_LABELLED.finditer(line)):
            if match["handle"].casefold() not in _NOT_HANDLES:
                proof = sheet.item(match["handle"], number, match[0]).evidence[0]
                yield Claim(3 if match.groupdict().get("more") else 1, match["handle"], proof)


def ranked(claims: Iterable[Claim]) -> tuple[Item | None, tuple[Item, ...]]:
    """The account when the strongest claims name only one, and all accounts that are named, strongest first."""
    best: dict[str, int] = {}
    items: dict[str, Item] = {}
    for claim in sorted(claims, key=lambda one: one.rank):
        key = claim.handle.casefold()
        best.setdefault(key, claim.rank)
        item = Item(text=claim.handle, how="stated", evidence=(claim.evidence,))
        items[key] = merged((items[key], item))[0] if key in items else item
    top = [key for key, rank in best.items() if rank == min(best.values())]
    return (items[top[0]] if len(top) == 1 else None), tuple(items.values())[:20]
