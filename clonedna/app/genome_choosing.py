"""What tells by a request's words which of a genome's layers answer it: a gate of centroids, or the shares of a mixture.

Both are made of the members' own prompts, as far as those may be seen: to an encoder on another machine none of a local-only block is
sent, as for its centroids. Members come verified, and with a consent that covers serving (``genome_checks.member``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from clonedna.app.merge_papers import Parent
from clonedna.app.papers import pairs_of
from clonedna.app.parts import Parts
from clonedna.core.errors import Refused
from clonedna.core.genome import Gate, LogisticGate
from clonedna.evals.forgetting import general_prompts
from clonedna.genomes import assembly
from clonedna.genomes.gating import fit_gate

MOST_PROMPTS, MOST_HELD = 128, 16
LEAST_PROMPTS = 8
"""Different prompts of each member, below which no shares are fitted: fewer tell a member's words from nobody's."""


def gate_of(parts: Parts, members: Sequence[Parent]) -> Gate:
    """The gate of ``members``, in their order. Raises ``Refused`` for one without a prompt that may be seen, and as encoding does."""
    trained = [_rows(parts, _prompts(parts, one, "train", MOST_PROMPTS, least=1)) for one in members]
    held = [_rows(parts, _prompts(parts, one, "holdout", MOST_HELD)) for one in members]
    return assembly.gate_of(parts.encoder.name, trained, held, _rows(parts, general_prompts()))


def shares_of(parts: Parts, members: Sequence[Parent]) -> LogisticGate:
    """A mixture's shares, fitted on what tells ``members`` apart. Raises ``Refused`` for one with too few prompts, and as encoding does."""
    prompts = [_prompts(parts, one, "train", MOST_PROMPTS, least=LEAST_PROMPTS) for one in members]
    labels = [number for number, own in enumerate(prompts) for _ in own]
    return fit_gate(parts.encoder.encode([prompt for own in prompts for prompt in own]), labels, len(members))


def _prompts(parts: Parts, one: Parent, split: str, most: int, *, least: int = 0) -> list[str]:
    """Different prompts of a member, in the order of its pairs."""
    other = "compose them another way: --compose stack, arrow or merge"
    if getattr(parts.encoder, "elsewhere", False) and one.consent.mode == "local-only":
        raise Refused(
            f"{one.reference} is local-only, and the encoder {parts.encoder.name} is on another machine: its prompts stay here",
            f"set an encoder of this machine, or {other}",
        )
    found = list(dict.fromkeys(pair.instruction for pair in pairs_of(one.path) if pair.split == split))[:most]
    if len(found) < least:
        raise Refused(f"{one.reference} has {len(found)} prompts to tell its requests by; {least} are needed", other)
    return found


def _rows(parts: Parts, texts: Sequence[str]) -> NDArray[np.float32]:
    encoder = parts.encoder
    return encoder.encode(texts).rows if texts else np.zeros((0, encoder.dimension), np.float32)
