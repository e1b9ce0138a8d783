"""The base, wrapped: what the owner's thread computes with. Nothing here knows requests, threads or files.

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
from clonedna.engine.batch import BatchStep, Piece, Token
from clonedna.engine.exact import verify
from clonedna.engine.lanes import Lanes, Shape
from clonedna.engine.loss import token_nll
from clonedna.engine.mixing import Mix
from clonedna.engine.packed import Part, run_packed
from clonedna.engine.slots import Term, shapes_of, wrap
from clonedna.engine.texts import Row

STEP_TOKENS = 1024
TOLERANCE = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 5e-2}


class LoadedModel:
    """One base, wrapped. ``shapes`` are ``(in, out)`` of each target linear; ``lengths`` what attention may run over."""

    def __init__(self, base: Base) -> None:
        self.base = base
        self.shapes = shapes_of(base.model)
        config = base.model.config.get_text_config()
        self.vocabulary = int(config.vocab_size)
        ids = [int(i) for i in torch.randint(0, self.vocabulary, (12,), generator=torch.Generator().manual_seed(0))]
        with torch.inference_mode():
            expected = base.model(input_ids=torch.tensor([ids], device=base.device), use_cache=False).logits[0].float()
        self.linears = wrap(base.model)
        base.model.set_attn_implementation(attention.NAME)
        self.decoder = base.model.base_model
        self.head = cast(nn.Linear, base.model.get_output_embeddings())
        heads = int(config.num_attention_heads)
        kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
        width = int(getattr(config, "head_dim", None) or int(config.hidden_size) // heads)
        kind = next(base.model.parameters()).dtype
        self.kept = Shape(int(config.num_hidden_layers), kv_heads, width, kind, base.device)
        distinct = {shape: self.linears[name].base for name, shape in self.shapes.items()}
        self.lengths = verify([*distinct.values()], self.head, kv_heads, heads // kv_heads, width, base.context, kind)
        self._check(ids, expected)

    @property
    def layers(self) -> int:
        return self.kept.layers

    def run(self, sequences: Sequence[Sequence[int]], parts: Sequence[Part]) -> Tensor:
        """Last hidden states ``[tokens, hidden]`` of whole sequences, packed."""
        return run_packed(self.decoder, sequences, parts)

    def logits(self, hidden: Tensor) -> Tensor:
        """``[n, hidden]`` -> ``[n, vocabulary]`` in fp32."""
        return self.head(hidden).float()

    @torch.inference_mode()
    def _check(self, ids: list[int], expected: Tensor) -> None:
        packed = self.logits(self.run([ids[:5], ids], [Part(len(ids) + 5)]))[5:]
        lane = Lanes(self.kept, self.lengths, 1).take(len(ids))
        pieces: list[Tensor] = []
        for piece in (ids[:5], ids[5:8]):
            pieces.append(self._step([Piece(piece, lane, None)], [])[: len(piece)])
        pieces += [self._step([], [Token(token, lane, None)])[:1] for token in ids[8:]]
        kept = self.logits(torch.cat(pieces))
        limit = TOLERANCE.get(self.base.dtype, 5e-2) * max(1.0, float(expected.abs().max()))
        for got, how in ((packed, "packed sequences"), (kept, "kept keys and values")):
            difference = float((got - expected).abs().max())
            if not difference <= limit:
                raise UnknownBase(
                    f"base {self.base.id!r} ({self.base.model.config.model_type}) does not run right here: with {how} its logits "
                    f"differ by {difference:.2g} from those of its own forward pass",
                    "use a Llama, Mistral, Qwen2 or Qwen3 model",
                )

    def _step(self, pieces: Sequence[Piece], tokens: Sequence[Token]) -> Tensor:
        return BatchStep(pieces, tokens, self.lengths, self.base.device).run(self.decoder)


def steps_of(rows: Sequence[tuple[int, Row]], limit: int) -> Generator[list[tuple[int, Row]]]:
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


def score_rows(
    model: LoadedModel, rows: Sequence[Row], term: Term | Mix | None, limit: int = STEP_TOKENS
) -> Generator[None, None, tuple[Score, ...]]:
    """Likelihoods of all rows through one adapter, blend or mixture, a step at a time (yields between steps)."""
    scores = [Score(nll=0.0, tokens=0, bytes=row.bytes) for row in rows]
    for run in steps_of([(i, row) for i, row in enumerate(rows) if row.scored], limit):
        with torch.inference_mode():
            nlls = row_nlls(model, [row for _, row in run], [Part(sum(len(row.ids) - 1 for _, row in run), term)])
        for (i, row), nll in zip(run, nlls, strict=True):
            scores[i] = Score(nll=float(nll.double().sum()), tokens=row.scored, bytes=row.bytes)
        yield
    return tuple(scores)


def total_scored(rows: Iterable[Row]) -> int:
    return sum(row.scored for row in rows)
