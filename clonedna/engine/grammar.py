"""Structured output: a request's grammar decides which tokens may come next, so that what comes out parses.

By llguidance (an Earley parser over derivatives of regular expressions, run against a trie of the tokenizer's vocabulary). A completion
that ends with ``stop`` fits its guide from the first character to the last; one that ends with ``length`` was cut. No ``$ref`` is ever
fetched. Keywords of JSON Schema that the library cannot keep, and formats that it does not know, are refused by name; annotations
(``title``, ``description``, ``default``, ``examples``, ``$comment``, ``readOnly``, ``writeOnly``, ``contentEncoding``,
``contentMediaType``, and words that are none of JSON Schema's) bind nothing, as the standard has it.

Hostile grammars are bounded: in size, by a trial in another process (``grammar_trial``), and in the time that a step may take.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from clonedna.core.errors import InputError, Internal, Overloaded
from clonedna.core.model import SampleRequest
from clonedna.engine.grammar_texts import CLOSE, HEAD, HINT, OPEN, Plan, plan
from clonedna.engine.grammar_trial import Trials, limits

KEPT = 64
CHEAP = 0.05
STEP_SECONDS = 2.0
BURST, PER_TOKEN = 0.5, 0.01
RUNAWAYS = 2
T = TypeVar("T")


class Grammars:
    """One base's tokenizer, prepared for grammars. ``stops`` end a completion; ``vocabulary`` is the width of the logits. Thread-safe."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, stops: Collection[int], vocabulary: int) -> None:
        if not stops:
            raise InputError(
                "this base has no token that ends an answer, so none can be guided to its end", "use another base"
            )
        size = max(vocabulary, len(tokenizer))
        self.vocabulary = vocabulary
        self.ends, self.stops = frozenset(stops), np.array(sorted(stops), dtype=np.int64)
        self._special = {
            index: token.content
            for index, token in tokenizer.added_tokens_decoder.items()
            if token.special or (token.content.startswith("<") and token.content.endswith(">"))  # as the library has it
        }
        try:
            self.tokenizer = LLTokenizer(_renamed(tokenizer, self._special), n_vocab=size, eos_token=sorted(stops))
        except ValueError as error:
            raise InputError(
                f"this base's tokenizer cannot be guided ({error})", "use a base with bytes in its vocabulary"
            ) from error
        tokens = {text: index for index, text in self._special.items()}
        self._opening, self._closing = tokens.get(OPEN), tokens.get(CLOSE)
        self._trials = Trials({index: _name(index) for index in self._special}, size, min(stops))
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, LLMatcher] = OrderedDict()
        self._runaways: list[threading.Thread] = []
        self._barred: tuple[NDArray[np.bool_] | None, ...] | None = None

    def compile(self, request: SampleRequest) -> Guidance | None:
        """What guides this request; ``None`` when nothing does. Takes milliseconds, at most a few seconds, in the caller's thread.

        Raises ``InputError`` with what is wrong in schema, regex, choices, grammar or tools, and for what would take too much time or
        memory; ``TooLarge``; ``Overloaded`` and ``Unavailable`` when it cannot be tried now.
        """
        wanted = plan(request, self._opening, self._closing)
        if wanted is None:
            return None
        matcher = self._matcher(wanted)
        if wanted.lazy:
            return CallGuidance(self, matcher, wanted.regexes)
        return Guidance(self, matcher, wanted.regexes)

    def _matcher(self, wanted: Plan) -> LLMatcher:
        key = hashlib.sha256(wanted.text.encode()).hexdigest()
        with self._lock:
            if (kept := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                return kept.deep_copy()
        seconds = self._trials.run(wanted.text)
        matcher = LLMatcher(self.tokenizer, wanted.text, log_level=0, limits=limits())
        if matcher.is_error():
            raise InputError(f"this cannot guide an answer: {reason(matcher)}", HINT)
        first = Guidance(self, matcher, wanted.regexes)
        first.mask()  # whether there is any beginning at all; later copies have it at hand
        if seconds < CHEAP:  # what was costly to make is large to keep
            with self._lock:
                self._kept[key] = matcher.deep_copy()
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
        return matcher

    def bounded(self, work: Callable[[], T]) -> T:
        """``work`` in a thread of its own, left alone after ``STEP_SECONDS``: one step of a regex may take minutes in native code.

        Raises ``InputError`` then, and ``Overloaded`` while ``RUNAWAYS`` such threads are still at it.
        """
        with self._lock:
            self._runaways = [thread for thread in self._runaways if thread.is_alive()]
            if len(self._runaways) >= RUNAWAYS:
                raise Overloaded("earlier grammars are still being worked on", "ask again later", retry_after=30)
        done: list[T] = []
        thread = threading.Thread(target=lambda: done.append(work()), daemon=True)
        thread.start()
        thread.join(STEP_SECONDS)
        if thread.is_alive():
            with self._lock:
                self._runaways.append(thread)
            raise InputError(f"a step of this grammar takes more than {STEP_SECONDS:g} s", HINT)
        if not done:
            raise Internal("a step of this grammar failed in its thread", HINT)
        return done[0]

    def piece(self, token: int) -> bytes:
        """What a token says, special ones their text."""
        text = self._special.get(token)
        return self.tokenizer.decode_bytes([token]) if text is None else text.encode()

    def barred(self, overlap: int) -> NDArray[np.bool_] | None:
        """Tokens that may not follow the first ``overlap`` characters of ``<tool_call>`` in free words; ``None``: all may.

        A token may end ``<tool_call>`` and say more; then what it says more must be how every call begins.
        """
        if self._barred is None:
            self._barred = self._bars()
        return self._barred[overlap]

    def _bars(self) -> tuple[NDArray[np.bool_] | None, ...]:
        opening, head = OPEN.encode(), HEAD.encode()
        found: list[set[int]] = [set() for _ in opening]
        for token in range(self.vocabulary):
            piece = self.piece(token)
            if b">" in piece:
                for overlap, tokens in enumerate(found):
                    _, whole, more = (opening[:overlap] + piece).partition(opening)
                    if whole and not head.startswith(more):
                        tokens.add(token)
        masks: list[NDArray[np.bool_] | None] = []
        for tokens in found:
            mask = np.ones(self.vocabulary, dtype=np.bool_)
            mask[sorted(tokens)] = False
            masks.append(mask if tokens else None)
        return tuple(masks)


class Guidance:
    """The state of one request, from its first token to its last. Used by one thread at a time."""

    def __init__(self, grammars: Grammars, matcher: LLMatcher, regexes: bool) -> None:
        self._grammars, self._matcher, self._regexes = grammars, matcher, regexes
        self._allowed: NDArray[np.bool_] | None = None
        self._spent, self._tokens = 0.0, 0
        self._incomplete = 0

    def mask(self) -> Tensor | None:
        """Bool ``[vocabulary]``, true where a token may come next, to be read only; ``None``: any.

        The same state gives the same tensor. Raises ``InputError`` when nothing may come, or when the grammar asks too much.
        """
        return torch.from_numpy(self._bits())

    def accept(self, token: int) -> None:
        """Go on with the token that was chosen. Raises ``Internal`` for one that was not allowed."""
        self._check(token, self._bits())
        if not self._matcher.consume_token(token):  # quick: the mask has been everywhere that a token leads to
            raise InputError(f"this grammar asks too much: {reason(self._matcher)}", HINT)
        self._allowed = None
        self._tokens += 1
        if token not in self._grammars.ends:
            self._incomplete = incomplete(self._incomplete, self._grammars.piece(token))

    @property
    def finished(self) -> bool:
        """Whether nothing but the end may follow."""
        if self._matcher.is_stopped():
            return True
        if not self._matcher.is_accepting():
            return False
        more = self._bits().copy()
        more[self._grammars.stops] = False
        return not more.any()

    def _bits(self) -> NDArray[np.bool_]:
        if self._allowed is None:
            packed = self._packed()
            if self._matcher.is_error():
                raise InputError(f"this grammar leads nowhere, or asks too much: {reason(self._matcher)}", HINT)
            bits = np.frombuffer(packed, dtype=np.uint8)
            allowed = np.unpackbits(bits, count=self._grammars.vocabulary, bitorder="little").view(np.bool_)
            if self._incomplete:  # a grammar of Lark's may end inside a character
                allowed[self._grammars.stops] = False
            if not allowed.any():
                raise InputError("nothing can follow that fits this schema, regex or grammar", HINT)
            self._allowed = allowed
        return self._allowed

    @staticmethod
    def _check(token: int, allowed: NDArray[np.bool_] | None) -> None:
        if allowed is not None and not (0 <= token < len(allowed) and allowed[token]):
            raise Internal(f"token {token} was chosen, and is not allowed here")

    def _packed(self) -> bytes:
        """One bit a token, in bounded time: on average ``PER_TOKEN`` seconds of CPU for a token, and ``BURST`` to begin with."""
        matcher = self._matcher

        def measured() -> tuple[bytes, float]:
            begun = time.thread_time()
            return matcher.compute_bitmask(), time.thread_time() - begun

        packed, seconds = self._grammars.bounded(measured) if self._regexes else measured()
        self._spent += seconds
        if self._spent > BURST + PER_TOKEN * self._tokens:
            raise InputError(f"this grammar took {self._spent:.1f} s for {self._tokens} tokens", HINT)
        return packed


class CallGuidance(Guidance):
    """Free words until ``<tool_call>`` is said, by its own token or letter by letter; then a call to its end; then words again.

    Words cost a search in a dozen bytes for each token, and nothing is masked, but for tokens that would begin a call wrongly.
    """

    def __init__(self, grammars: Grammars, matcher: LLMatcher, regexes: bool) -> None:
        super().__init__(grammars, matcher, regexes)
        self._call = matcher
        self._inside = False
        self._tail = b""
        self._bars = grammars.barred(0)

    def mask(self) -> Tensor | None:
        if self._inside:
            return super().mask()
        return torch.from_numpy(self._bars) if self._bars is not None else None

    def accept(self, token: int) -> None:
        if self._inside:
            super().accept(token)
            if self._matcher.is_stopped():
                self._inside, self._tail = False, b""
                self._bars = self._grammars.barred(0)
            return
        self._check(token, self._bars)
        before, begun, more = (self._tail + self._grammars.piece(token)).partition(OPEN.encode())
        if begun:
            self._begin(more)
        else:
            self._tail = before[1 - len(OPEN) :]
            self._bars = self._grammars.barred(overlap(self._tail))

    @property
    def finished(self) -> bool:
        return False

    def _begin(self, more: bytes) -> None:
        self._inside, self._allowed = True, None
        self._matcher = self._call.deep_copy()
        if more and not self._matcher.consume_tokens(self._grammars.tokenizer.tokenize_bytes(more)):
            raise Internal(f"{more!r} does not begin a call: {reason(self._matcher)}")


def _name(index: int) -> str:
    return f"<\ue000{index}>"


def _renamed(tokenizer: PreTrainedTokenizerFast, special: Mapping[int, str]) -> str:
    """The tokenizer as JSON, its special tokens under names that nobody says.

    Under their own a text that has to be written (``"const": "<tool_call>"``) would be tokenised into them, and text is no control.
    """
    described: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    described["truncation"] = described["padding"] = None
    for token in described["added_tokens"]:
        if token["id"] in special:
            token["content"] = _name(token["id"])
    pieces: Any = described["model"].get("vocab")
    if isinstance(pieces, dict):
        described["model"]["vocab"] = {
            _name(index) if index in special else text: index for text, index in pieces.items()
        }
    elif isinstance(pieces, list):
        for index in special:
            if index < len(pieces):
                pieces[index][0] = _name(index)
    return json.dumps(described)


def overlap(text: bytes) -> int:
    """How many bytes at the end of ``text`` are the beginning of ``<tool_call>``."""
    opening = OPEN.encode()
    return next((n for n in range(len(opening) - 1, 0, -1) if text.endswith(opening[:n])), 0)


def incomplete(missing: int, piece: bytes) -> int:
    """How many bytes of a character of UTF-8 (RFC 3629) are still to come after ``piece``, when ``missing`` were before it."""
    for byte in piece:
        if missing and byte & 0xC0 == 0x80:
            missing -= 1
        else:
            missing = 3 if byte >= 0xF0 else 2 if byte >= 0xE0 else 1 if byte >= 0xC0 else 0
    return missing


def reason(matcher: LLMatcher) -> str:
    """What the library says is wrong, without its state and traces."""
    said: list[Any] = matcher.get_error().partition("\n<")[0].split()
    return " ".join(said)[:400] or "no reason given"
