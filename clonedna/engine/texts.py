"""Between text and tokens: prompts, completions, the end of a turn, and text that grows token by token.

A prompt and its completion are tokenised apart and joined, so that the prompt's tokens are the same in training, measuring and
sampling. Nothing here knows the model.
"""

from __future__ import annotations

import codecs
import json
import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

from clonedna.core.errors import InputError
from clonedna.core.model import Example, Message, SampleRequest, ToolCall

_PROBE = "dna-probe"


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens of one example; those from ``start`` on are scored. ``bytes``: UTF-8 bytes of the completion's text that they stand for."""

    ids: tuple[int, ...]
    start: int
    bytes: int

    @property
    def scored(self) -> int:
        return len(self.ids) - self.start


class Texts:
    """One base's tokenizer, safe to use from several threads. ``stops`` are the token ids that end a completion."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, context: int, *, begin: int | None, stops: Sequence[int]
    ) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self.context = context
        end = tokenizer.eos_token_id
        self._begin = next((t for t in (tokenizer.bos_token_id, begin, end) if isinstance(t, int)), None)
        self._size = len(tokenizer)
        self._pieces = _byte_pieces(tokenizer)
        self.end_of_turn = self._end_of_turn()
        known = {
            *stops,
            *([end] if isinstance(end, int) else []),
            *([self.end_of_turn] if self.end_of_turn is not None else []),
        }
        self.stops = frozenset(known)

    def row(self, example: Example) -> Row:
        """An example's tokens, fitted to the context: a completion is cut at its end, then the prompt at its beginning.

        At least one token of the prompt stays, since the first scored token needs one before it.
        """
        if example.text is not None:
            prompt, ending = self._plain(example.text), []
        else:
            prompt, ending = self._rendered(example.messages, example.tools), [self._require_end()]
        completion = [*self._encode(example.completion), *ending]
        size = len(example.completion.encode())
        if len(completion) > self.context - 1:
            completion = completion[: self.context - 1]
            size = len(self.decode(completion).encode())
        prompt = prompt[-(self.context - len(completion)) :]
        return Row((*prompt, *completion), len(prompt), size)

    def rows(self, examples: Sequence[Example]) -> list[Row]:
        return [self.row(example) for example in examples]

    def prompt(self, request: SampleRequest) -> list[int]:
        """A request's prompt tokens: the first ``prompt_limit``, then as many of the last as leave room for the answer.

        The room is ``max_tokens``, at most half of the context. Raises ``InputError`` when there is neither text nor messages, or no
        room beside a whole prompt.
        """
        if isinstance(request.prompt, tuple):
            ids = self._given(request.prompt)
        elif request.prompt is not None:
            ids = self._plain(request.prompt)
        elif request.messages:
            ids = self._rendered(request.messages, request.tools if request.tool_choice != "none" else ())
        else:
            raise InputError("a sample needs messages or a prompt", "give one of the two")
        if request.prompt_limit is not None:
            ids = ids[: request.prompt_limit]
        if request.whole_prompt:
            if len(ids) >= self.context:
                raise InputError(
                    f"the prompt has {len(ids)} tokens; this base's context is {self.context}, the answer included",
                    "send a shorter prompt", param="messages" if request.messages else "prompt",
                )  # fmt: skip
            return ids
        return ids[-(self.context - min(request.max_tokens, self.context // 2)) :]

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for; where the tokenizer knows no bytes, those of its text by itself."""
        if self._pieces is not None and token < len(self._pieces):
            return self._pieces[token]
        return self.decode([token]).encode()

    @property
    def has_bytes(self) -> bool:
        """Whether ``piece`` of several tokens, joined, are the bytes of their text."""
        return self._pieces is not None

    def decode(self, ids: Sequence[int]) -> str:
        """Text of tokens as they are; special tokens stay visible."""
        with self._lock:
            return str(self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _encode(self, text: str, *, special: bool = False) -> list[int]:
        with self._lock:
            return list(self._tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])

    def _given(self, ids: tuple[int, ...]) -> list[int]:
        if not ids or min(ids) < 0 or max(ids) >= self._size:
            raise InputError(
                "a prompt of tokens needs at least one, each within the vocabulary", f"0 to {self._size - 1}"
            )
        return list(ids)

    def _plain(self, text: str) -> list[int]:
        ids = self._encode(text, special=True)
        if not ids and self._begin is None:
            raise InputError("an empty prompt needs a begin-of-text token, and this base has none", "give a prompt")
        return ids or [self._begin]  # type: ignore[list-item]

    def _rendered(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        if self._tokenizer.chat_template is None:
            raise InputError(
                "this base has no chat template, so it cannot take messages", "give plain text, or use an instruct base"
            )
        if not messages:
            raise InputError("an example needs messages or text", "give one of the two")
        try:
            with self._lock:
                text = self._tokenizer.apply_chat_template(
                    [_turn(message) for message in messages],
                    tools=list(tools) or None,
                    tokenize=False,
                    add_generation_prompt=True,
                )
        except TemplateError as error:
            raise InputError(
                f"the base's chat template refuses these messages: {error}", "check the roles and their order"
            ) from error
        return self._encode(str(text))

    def _require_end(self) -> int:
        if self.end_of_turn is None:
            raise InputError(
                "this base's chat template closes no turn with a token", "use plain text examples on this base"
            )
        return self.end_of_turn

    def _end_of_turn(self) -> int | None:
        """The token that the chat template puts right after an assistant's words."""
        if self._tokenizer.chat_template is None:
            return None
        turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": _PROBE}]
        try:
            text = str(self._tokenizer.apply_chat_template(turns, tokenize=False))
        except TemplateError:
            return None
        after = self._encode(text.rpartition(_PROBE)[2].lstrip())
        special = set(self._tokenizer.all_special_ids) | {
            i for i, t in self._tokenizer.added_tokens_decoder.items() if t.special
        }
        return after[0] if after and after[0] in special else None


def _turn(message: Message) -> dict[str, Any]:
    """A message as chat templates know it: a call's arguments are an object, what is not there is not named."""
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        turn["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": _arguments(call)}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    return turn


def _arguments(call: ToolCall) -> Any:
    try:
        return json.loads(call.arguments)
    except ValueError as error:
        raise InputError(
            f"the arguments of the call {call.id!r} are not JSON ({error})", "give a JSON object"
        ) from error


def _byte_pieces(tokenizer: PreTrainedTokenizerFast) -> list[bytes] | None:
    """Each token's bytes, for tokenizers whose alphabet stands for bytes (GPT-2's, Radford et al. 2019); ``None`` for others.

    Believed only after a trial: random tokens must decode to what their bytes say.
    """
    alphabet = {char: byte for byte, char in _byte_alphabet().items()}
    size = len(tokenizer)
    added = {index: token.content.encode() for index, token in tokenizer.added_tokens_decoder.items()}
    pieces: list[bytes] = []
    for index, token in enumerate(tokenizer.convert_ids_to_tokens(list(range(size)))):
        known = added.get(index)
        if known is None and any(char not in alphabet for char in token):
            return None
        pieces.append(known if known is not None else bytes(alphabet[char] for char in token))
    draw = random.Random(0)  # noqa: S311 - a trial, no secret
    for _ in range(64):
        ids = [index for index in draw.choices(range(size), k=12) if index not in added]
        said = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if said != b"".join(pieces[index] for index in ids).decode("utf-8", "replace"):
            return None
    return pieces


def _byte_alphabet() -> dict[int, str]:
    """GPT-2's characters for bytes: printable ones stand for themselves, the others for those from U+0100 on."""
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in kept]
    return {byte: chr(byte) for byte in kept} | {byte: chr(0x100 + n) for n, byte in enumerate(others)}


class Detokenizer:
    """Text that grows with each token, never cut inside a character; the pieces joined are the text of all tokens.

    Where tokens stand for bytes, these are decoded as they come. Elsewhere the tokens since the last whole character are decoded
    again, after a few that give them their context.
    """

    def __init__(self, texts: Texts) -> None:
        self._texts = texts
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace") if texts.has_bytes else None
        self._ids: list[int] = []
        self._context = 0
        self._read = 0

    def add(self, token: int) -> str:
        """The text that became certain with this token; it may be empty."""
        if self._bytes is not None:
            return self._bytes.decode(self._texts.piece(token))
        self._ids.append(token)
        new = self._new()
        if new.endswith("\ufffd"):  # perhaps the first bytes of a character
            return ""
        self._context, self._read = self._read, len(self._ids)
        return new

    def rest(self) -> str:
        """What is left at the end, incomplete characters as U+FFFD."""
        if self._bytes is not None:
            return self._bytes.decode(b"", True)
        new = self._new()
        self._context = self._read = len(self._ids)
        return new

    def _new(self) -> str:
        before = self._texts.decode(self._ids[self._context : self._read])
        return self._texts.decode(self._ids[self._context :])[len(before) :]


class StopStrings:
    """Passes text on until one of ``stops`` appears; what might be the beginning of one is held back."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""

    def add(self, text: str) -> tuple[str, bool]:
        """``(text to pass on, found)``. The stop string and what follows it are never passed on."""
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            out, self._held = self._held[: min(found)], ""
            return out, True
        keep = max((n for stop in self._stops for n in range(1, len(stop)) if self._held.endswith(stop[:n])), default=0)
        cut = len(self._held) - keep
        out, self._held = self._held[:cut], self._held[cut:]
        return out, False

    def rest(self) -> str:
        out, self._held = self._held, ""
        return out
