"""General pairs that somebody else wrote: `alpaca-cleaned` from the hub, or a JSONL file of one's own.

Both are drawn with a seed, in an order that depends on content alone. What holds a secret, an e-mail address or more than fits is
passed over for the next. Texts are data: nothing of a data set is run.
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from clonedna.core.block import GivenFile
from clonedna.core.canonical import sha256
from clonedna.core.errors import BadConfig, InputError, Unavailable
from clonedna.core.model import Example, Message
from clonedna.mint.given import read_examples

BYTES_PER_TOKEN = 3
MOST_FILE_BYTES = 200_000_000
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]+")
logger = logging.getLogger(__name__)


def alpaca(
    dataset: str, wanted: int, seed: int, max_tokens: int, secret_in: Callable[[str], str | None]
) -> tuple[Example, ...]:
    """At most ``wanted`` pairs of a data set with the columns instruction, input and output (Taori et al. 2023).

    Raises ``BadConfig`` where the library is missing or the columns are others, ``Unavailable`` where the hub or the data set is not
    there. No token is sent.
    """
    try:
        import datasets  # pyright: ignore[reportMissingImports] # an extra, loaded only when it was chosen
    except ImportError:
        raise BadConfig(
            "the library `datasets` is not installed", "pip install 'clone-dna[general]', or choose --general rehearsal"
        ) from None
    datasets.disable_progress_bars()
    try:
        rows: Any = datasets.load_dataset(dataset, split="train", token=False)
    except Exception as error:  # the library lets through what any of its own libraries raises
        logger.info("cannot load the data set %s: %s", dataset, type(error).__name__)
        raise Unavailable(
            f"cannot load the data set {dataset!r} ({type(error).__name__})",
            "check the network, give a JSONL file (general_file), or choose --general rehearsal",
        ) from error
    if not {"instruction", "input", "output"} <= set(rows.column_names):
        raise BadConfig(f"{dataset!r} has other columns than instruction, input, output", "correct general_dataset")
    order = random.Random(f"{seed}:general").sample(range(len(rows)), len(rows))  # noqa: S311 - a seeded draw
    return _first((_from_row(rows[i]) for i in order), wanted, max_tokens, secret_in)


def _from_row(row: dict[str, Any]) -> Example:
    task = "\n\n".join(part for part in (str(row["instruction"]), str(row["input"] or "")) if part.strip())
    return Example(messages=(Message(role="user", content=task),), completion=str(row["output"]).strip())


def from_file(
    path: Path, wanted: int, seed: int, max_tokens: int, secret_in: Callable[[str], str | None]
) -> tuple[tuple[Example, ...], str]:
    """At most ``wanted`` pairs of a JSONL file of chat messages (docs/fine-tuning.md), and the file's SHA-256.

    Raises ``BadConfig`` where it cannot be read, ``InputError`` with the numbers of the lines that are not understood.
    """
    try:
        if path.stat().st_size > MOST_FILE_BYTES:
            raise InputError(f"{path.name} has more than {MOST_FILE_BYTES} bytes", "give a smaller file")
        data = path.read_bytes()
    except OSError as error:
        raise BadConfig(f"cannot read general_file: {error.strerror}", "give a JSONL file") from error
    named = sha256(data)
    given = GivenFile(sha256=named, name=path.name[-255:], bytes=len(data))
    examples, _ = read_examples(data, given, max_tokens=max_tokens, secret_in=secret_in)
    found = [Example(messages=e.messages, tools=e.tools, completion=e.completion) for e in examples]
    random.Random(f"{seed}:general").shuffle(found)  # noqa: S311 - a seeded draw, no secret
    return _first(found, wanted, max_tokens, secret_in), named


def _first(
    examples: Iterable[Example], wanted: int, max_tokens: int, secret_in: Callable[[str], str | None]
) -> tuple[Example, ...]:
    """The first ``wanted`` that fit, say something, and hold no address and no secret."""
    chosen: list[Example] = []
    for example in examples:
        if len(chosen) == wanted:
            break
        text = "\n".join([*(message.content for message in example.messages), example.completion])
        fits = len(text.encode("utf-8", "replace")) <= max_tokens * BYTES_PER_TOKEN
        if fits and example.completion.strip() and not _EMAIL.search(text) and not secret_in(text):
            chosen.append(example)
    return tuple(chosen)
