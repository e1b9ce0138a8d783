"""The base with its slots: what the owner's thread computes with. Nothing here knows requests, threads or files.

``LoadedModel`` checks itself once: packed sequences, the head by itself and kept keys and values must give what the unwrapped model
gives, else the base is refused. An architecture that this engine would run wrongly never serves a token.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from clonedna.core.errors import UnknownBase
from clonedna.core.model import Score
from clonedna.engine import attention
from clonedna.engine.bases import Base
from clonedna.engine.loss import token_nll
from clonedna.engine.slots import Slots, shapes_of
from clonedna.engine.step import KeyValues, Part, forward
from clonedna.engine.texts import Row

STEP_TOKENS = 1024
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}
Path = tuple[tuple[int, float], ...]  # slots and weights that a row goes through


class LoadedModel:
    """One base, wrapped. ``shapes`` are ``(in, out)`` of each target linear."""

    def __init__(self, base: Base) -> None:
        self.base = base
        self.shapes = shapes_of(base.model)
        ids = [int(i) for i in torch.randint(0, self._vocabulary(), (12,), generator=torch.Generator().manual_seed(0))]
        with torch.inference_mode():
            expected = base.model(input_ids=torch.tensor([ids], device=base.device), use_cache=False).logits[0].float()
        self.slots = Slots(base.model)
        base.model.set_attn_implementation(attention.NAME)
        self.decoder = base.model.base_model
        self.head = cast(nn.Linear, base.model.get_output_embeddings())
        self.layers = int(base.model.config.get_text_config().num_hidden_layers)
        self._check(ids, expected)

    def _vocabulary(self) -> int:
        return int(self.base.model.config.get_text_config().vocab_size)

    def run(
        self, sequences: Sequence[Sequence[int]], parts: Sequence[Part], caches: Sequence[KeyValues | None] = ()
    ) -> Tensor:
        """Last hidden states ``[tokens, hidden]`` of packed sequences."""
        return forward(self.decoder, sequences, parts, caches)

    def logits(self, hidden: Tensor) -> Tensor:
        """``[n, hidden]`` -> ``[n, vocabulary]`` in fp32."""
        return self.head(hidden).float()

    def cache(self) -> KeyValues:
        return KeyValues(self.layers)

    @torch.inference_mode()
    def _check(self, ids: list[int], expected: Tensor) -> None:
        packed = self.logits(self.run([ids[:5], ids], [Part(len(ids) + 5)]))[5:]
        cache = self.cache()
        pieces = [self.run([ids[:8]], [Part(8)], [cache])]
        pieces += [self.run([ids[i : i + 1]], [Part(1)], [cache]) for i in range(8, len(ids))]
        kept = self.logits(torch.cat(pieces))
        limit = TOLERANCE[self.base.dtype] * max(1.0, float(expected.abs().max()))
        for got, how in ((packed, "packed sequences"), (kept, "kept keys and values")):
            difference = float((got - expected).abs().max())
            if not difference <= limit:
                raise UnknownBase(
                    f"base {self.base.id!r} ({self.base.model.config.model_type}) does not run right here: with {how} its logits "
                    f"differ by {difference:.2g} from those of its own forward pass",
                    "use a Llama, Mistral, Qwen2 or Qwen3 model",
                )


def steps_of(rows: Sequence[tuple[int, Row]], limit: int = STEP_TOKENS) -> Generator[list[tuple[int, Row]]]:
    """Cut rows (each with a number of its caller's) into runs of at most ``limit`` tokens, in their order; a longer row stands alone."""
    run: list[tuple[int, Row]] = []
    size = 0
    for number, row in rows:
        if run and size + len(row.ids) > limit:
            yield run
            run, size = [], 0
        run.append((number, row))
        size += len(row.ids)
    if run:
        yield run


def row_nlls(model: LoadedModel, rows: Sequence[Row], parts: Sequence[Part]) -> list[Tensor]:
    """Each row's nats for its scored tokens, from one packed pass; rows with nothing to score give an empty tensor.

    The last token of a row predicts nothing that is scored, so it is not put in: a row counts ``len(ids) - 1`` tokens in ``parts``.
    """
    hidden = model.run([row.ids[:-1] for row in rows], parts)
    positions: list[int] = []
    targets: list[int] = []
    offset = 0
    for row in rows:
        positions += range(offset + row.start - 1, offset + len(row.ids) - 1)
        targets += row.ids[row.start :]
        offset += len(row.ids) - 1
    chosen = hidden.index_select(0, torch.tensor(positions, device=hidden.device))
    nlls = token_nll(chosen, torch.tensor(targets, device=hidden.device), model.head)
    return list(nlls.split([row.scored for row in rows]))


def score_rows(model: LoadedModel, rows: Sequence[Row], path: Path) -> Generator[None, None, tuple[Score, ...]]:
    """Likelihoods of all rows through one path, a step at a time (yields between steps)."""
    scores = [Score(nll=0.0, tokens=0, bytes=row.bytes) for row in rows]
    for run in steps_of([(i, row) for i, row in enumerate(rows) if row.scored]):
        with torch.inference_mode():
            nlls = row_nlls(model, [row for _, row in run], [Part(sum(len(row.ids) - 1 for _, row in run), path)])
        for (i, row), nll in zip(run, nlls, strict=True):
            scores[i] = Score(nll=float(nll.double().sum()), tokens=row.scored, bytes=row.bytes)
        yield
    return tuple(scores)


def total_scored(rows: Iterable[Row]) -> int:
    return sum(row.scored for row in rows)
