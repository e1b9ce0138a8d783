"""Arrow: in every module, each token goes through the few adapters that suit it there (Ostapenko et al. 2024).

An adapter's prototype in a module is the top right singular vector ``v_i`` of its ``dW_i = s_i B_i A_i`` there. For a token with module
input h, the ``top_k`` adapters with the largest ``|v_i . h|`` are chosen, and what is added is ``sum_i p_i w_i dW_i h`` over them, with p
the softmax of their ``|v_i . h|``. Only the chosen adapters are computed. Adapters that do not have a module are never chosen in it.

Each adapter of a mixture lies in a slot of one stack, of the rank class of the widest; one that also serves alone at that weight and
class shares its slot. Rows of decoding requests are products of one row each, as plain ones are; a piece of a prompt goes through each
chosen adapter with the rows that chose it. Both depend on the request alone, so its tokens are the same alone and in company.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clonedna.core.errors import InputError
from clonedna.core.model import Layer, Mixture
from clonedna.engine.adapters import Adapter
from clonedna.engine.shelf import Lease
from clonedna.engine.stacks import SMALLEST, Block, Key, Stacks

GATHERED = 16 << 20  # numbers of adapters' matrices that are laid side by side at once for decoding rows
KEPT = 256  # adapters whose prototypes are remembered

Prototypes = Mapping[str, Tensor]


def voices(layers: Sequence[Layer], mixture: Mixture | None) -> Sequence[Layer]:
    """The adapters that a request goes through. Raises ``InputError`` for one that names both layers and a mixture."""
    if mixture is None:
        return layers
    if layers:
        raise InputError(
            "a request goes through layers or through a mixture, not both", "name all adapters in the mixture"
        )
    return mixture.layers


def seed_of(key: Key, mixture: Mixture | None) -> str:
    """What keys and values depend on besides the tokens."""
    return repr(key if mixture is None else (mixture.kind, mixture.top_k, key))


def prototypes_of(adapter: Adapter) -> dict[str, Tensor]:
    """The top right singular vector ``[in]`` of each module's ``B A``, fp32 of length 1; zero where the product is.

    From the factors: ``A^T = Q_A R_A``, ``B = Q_B R_B``, and ``R_B R_A^T = U S V^T`` gives ``Q_A v_1``.
    """
    found: dict[str, Tensor] = {}
    for name, (a, b) in adapter.matrices.items():
        q_a, r_a = torch.linalg.qr(a.double().T)
        r_b = torch.linalg.qr(b.double(), mode="r").R
        _, s, vh = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
        found[name] = (q_a @ vh[0] if float(s[0]) > 0 else torch.zeros(a.shape[1])).float()
    return found


@dataclass(slots=True, eq=False)
class Mix:
    """A mixture laid ready. ``prototypes`` ``[K or more, in]`` by module; rows beyond K are zero, as ``stacks.SMALLEST`` asks.

    ``closed`` ``[K]``: -inf for adapters that do not have the module, else 0; ``open``: how many have it. ``uses``: requests that hold it.
    """

    key: tuple[Key, int]
    blocks: tuple[Block, ...]
    positions: Tensor
    prototypes: dict[str, Tensor]
    closed: dict[str, Tensor]
    open: dict[str, int]
    top_k: int
    uses: int = 0

    def _chosen(self, name: str, scores: Tensor) -> tuple[Tensor, Tensor]:
        """``(weights, which)``, both ``[n, k]``, of ``scores`` ``[n, K or more]``."""
        among = scores[:, : len(self.blocks)].abs() + self.closed[name]
        values, which = among.topk(min(self.top_k, self.open[name]), dim=-1)
        return values.softmax(-1), which

    def add_rows(self, name: str, x: Tensor, out: Tensor) -> None:
        """Add to ``out`` ``[n, out]``, in its own memory, what the rows ``x`` ``[n, in]`` of one sequence or step get in this module."""
        if not self.open.get(name):
            return
        x = x.float()
        weights, which = self._chosen(name, x @ self.prototypes[name].t())
        a, b = self.blocks[0].stack.pair(name)
        for number, block in enumerate(self.blocks):
            rows, places = (which == number).nonzero(as_tuple=True)
            if len(rows):
                low = (x[rows] @ a[block.position].t()).mul_(weights[rows, places][:, None])
                out[rows] += (low @ b[block.position]).to(out.dtype)

    def add_each(self, name: str, x: Tensor, out: Tensor) -> None:
        """The same for rows of requests that decode, one token each: no row's bits depend on another row."""
        if not self.open.get(name):
            return
        a, b = self.blocks[0].stack.pair(name)
        size = self.top_k * (a[0].numel() + b[0].numel())
        for start in range(0, len(x), max(1, GATHERED // size)):
            span = slice(start, start + max(1, GATHERED // size))
            rows = x[span].float().unsqueeze(1)
            routes = self.prototypes[name].t().expand(len(rows), -1, -1)
            weights, which = self._chosen(name, torch.bmm(rows, routes).squeeze(1))
            chosen = self.positions.index_select(0, which.flatten())
            each = rows.repeat_interleave(which.shape[1], 0)
            low = torch.bmm(each, a.index_select(0, chosen).transpose(1, 2)) * weights.reshape(-1, 1, 1)
            more = torch.bmm(low, b.index_select(0, chosen)).view(*which.shape, -1)
            for k in range(which.shape[1]):
                out[span] += more[:, k]


class Mixer:
    """Where requests get what they go through: a block, a mixture, or nothing. ``prepare`` from any thread, the rest on the owner's."""

    def __init__(self, stacks: Stacks, device: str) -> None:
        self._stacks, self._device = stacks, device
        self._mixes: dict[tuple[Key, int], Mix] = {}
        self._known: OrderedDict[str, Prototypes] = OrderedDict()
        self._lock = threading.Lock()

    def prepare(self, lease: Lease, mixture: Mixture | None) -> None:
        """Compute the prototypes that ``use`` will need, so that the owner does not wait for them."""
        for adapter, _ in lease.parts if mixture is not None else ():
            self._prototypes(adapter)

    def use(self, lease: Lease, mixture: Mixture | None) -> Block | Mix | None:
        """What the request goes through, laid into slots; it stays there until ``leave``. Raises as ``Stacks.use`` does."""
        if mixture is None:
            return self._stacks.use(lease.key, lease.parts) if lease.key else None
        key = (lease.key, mixture.top_k)
        mix = self._mixes.get(key)
        if mix is None:
            mix = self._mixes[key] = self._laid(key, lease)
        mix.uses += 1
        return mix

    def leave(self, voice: Block | Mix | None) -> None:
        if isinstance(voice, Block):
            self._stacks.leave(voice)
        elif voice is not None:
            voice.uses -= 1
            if not voice.uses:
                del self._mixes[voice.key]
                for block in voice.blocks:
                    self._stacks.leave(block)

    def _laid(self, key: tuple[Key, int], lease: Lease) -> Mix:
        rank = max(adapter.info.rank for adapter, _ in lease.parts)
        blocks: list[Block] = []
        try:
            for adapter, weight in lease.parts:
                blocks.append(self._stacks.use(((adapter.info.id, weight),), [(adapter, weight)], rank=rank))
        except BaseException:
            for block in blocks:
                self._stacks.leave(block)
            raise
        found = [self._prototypes(adapter) for adapter, _ in lease.parts]
        mix = Mix(
            key, tuple(blocks), torch.tensor([block.position for block in blocks], device=self._device), {}, {}, {}, key[1]
        )  # fmt: skip
        for name in dict.fromkeys(name for one in found for name in one):
            width = next(len(one[name]) for one in found if name in one)
            rows = torch.zeros(max(SMALLEST, len(found)), width)
            closed = torch.full((len(found),), float("-inf"))
            for number, one in enumerate(found):
                if name in one:
                    rows[number], closed[number] = one[name], 0.0
            mix.prototypes[name], mix.closed[name] = rows.to(self._device), closed.to(self._device)
            mix.open[name] = sum(name in one for one in found)
        return mix

    def _prototypes(self, adapter: Adapter) -> Prototypes:
        with self._lock:
            known = self._known.get(adapter.info.digest)
            if known is not None:
                self._known.move_to_end(adapter.info.digest)
                return known
        made = prototypes_of(adapter)
        with self._lock:
            self._known[adapter.info.digest] = made
            while len(self._known) > KEPT:
                self._known.popitem(last=False)
        return made
