"""The next token from logits: penalties, then the greatest or a draw, and what is told of probabilities.

The order is that of OpenAI-compatible servers: bias, repetition, frequency and presence penalties, what a grammar allows, temperature,
top-k, min-p, top-p. All in fp64 where it is drawn, so that the same seed gives the same tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from clonedna.core.model import SampleRequest, TokenLogprob
from clonedna.engine.texts import Texts


def is_plain(request: SampleRequest) -> bool:
    """Whether the greatest logit is the token, unless it is one that is forbidden."""
    return request.temperature == 0 and not _is_penalised(request)


def _is_penalised(request: SampleRequest) -> bool:
    return bool(
        request.logit_bias or request.presence_penalty or request.frequency_penalty or request.repetition_penalty != 1
    )


def changed(
    logits: Tensor, request: SampleRequest, prompt: Sequence[int], made: Counter[int], forbidden: Sequence[int]
) -> Tensor:
    """``logits`` ``[vocabulary]`` after bias and penalties; ``forbidden`` tokens are out. A new tensor where anything changes.

    Repetition: positive logits of tokens seen in prompt or completion are divided by it, negative ones multiplied (Keskar et al.
    2019). Frequency and presence count the completion's tokens only: ``logit - count * frequency - (count > 0) * presence``.
    """
    if not (_is_penalised(request) or request.ignore_eos):
        return logits
    logits = logits.clone()
    for token, bias in request.logit_bias:
        if 0 <= token < len(logits):
            logits[token] += bias
    if request.repetition_penalty != 1:
        seen = torch.tensor(sorted({*prompt, *made}), device=logits.device)
        own = logits[seen]
        logits[seen] = torch.where(own > 0, own / request.repetition_penalty, own * request.repetition_penalty)
    if made and (request.frequency_penalty or request.presence_penalty):
        seen = torch.tensor(list(made), device=logits.device)
        counts = torch.tensor(list(made.values()), dtype=logits.dtype, device=logits.device)
        logits[seen] -= counts * request.frequency_penalty + request.presence_penalty
    if request.ignore_eos:
        logits[torch.tensor(list(forbidden), device=logits.device)] = float("-inf")
    return logits


def choose(logits: Tensor, request: SampleRequest, generator: torch.Generator) -> int:
    """A token id from fp32 ``logits`` ``[vocabulary]``: the greatest at temperature 0, else drawn from the nucleus.

    Top-k keeps the k most probable; min-p those with at least that share of the greatest probability (Nguyen et al. 2024); the nucleus
    the most probable until their sum reaches ``top_p`` (Holtzman et al. 2020). One uniform number per token, inverted on the
    cumulative sum.
    """
    if request.temperature == 0:
        return int(logits.argmax())
    probabilities, order = torch.softmax(logits.double().cpu() / request.temperature, 0).sort(
        descending=True, stable=True
    )
    if request.top_k:
        probabilities[request.top_k :] = 0.0
    if request.min_p:
        probabilities[probabilities < request.min_p * probabilities[0]] = 0.0
    cumulative = probabilities.cumsum(0)
    total = cumulative[-1]
    kept = int(((cumulative - probabilities < request.top_p * total) & (probabilities > 0)).sum())
    point = torch.rand((), dtype=torch.float64, generator=generator) * cumulative[kept - 1]
    return int(order[min(int(torch.searchsorted(cumulative, point, right=True)), kept - 1)])


def logprob_of(logits: Tensor, token: int, top: int, texts: Texts) -> TokenLogprob:
    """``log softmax(logits)`` of the chosen token and of the ``top`` likeliest, from the model's own logits."""
    logs = torch.log_softmax(logits.float(), 0)
    values, tokens = logs.topk(top) if top else (logs[:0], logs[:0].long())
    likeliest = tuple(_told(int(t), float(v), texts) for t, v in zip(tokens, values, strict=True))
    return _told(token, float(logs[token]), texts).model_copy(update={"top": likeliest})


def _told(token: int, logprob: float, texts: Texts) -> TokenLogprob:
    piece = texts.piece(token)
    return TokenLogprob(token=token, text=piece.decode("utf-8", "replace"), bytes=tuple(piece), logprob=logprob)
