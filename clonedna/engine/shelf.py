"""Which adapters are loaded, under which id, in which slot, and how many requests use each. Only the owner's thread touches it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from clonedna.core.errors import InputError, NotFound
from clonedna.core.model import AdapterInfo, Layer
from clonedna.engine.adapters import Adapter
from clonedna.engine.model import LoadedModel, Path
from clonedna.engine.slots import Pair


@dataclass(slots=True, eq=False)
class _Place:
    info: AdapterInfo
    slot: int
    uses: int = 0
    removed: bool = False


class Shelf:
    """Adapters by id. One that is removed while requests use it is freed when the last of them ends."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._places: dict[str, _Place] = {}

    def put(self, adapter: Adapter) -> AdapterInfo:
        """Give an adapter a slot; the same files again change nothing."""
        known = self._places.get(adapter.info.id)
        if known is not None:
            return known.info
        device = self._model.base.device
        pairs = {name: Pair(a.to(device), b.to(device)) for name, (a, b) in adapter.matrices.items()}
        self._places[adapter.info.id] = _Place(adapter.info, self._model.slots.add(pairs, adapter.scale))
        return adapter.info

    def remove(self, adapter: str) -> None:
        place = self._places.pop(adapter, None)
        if place is not None:
            place.removed = True
            self._free(place)

    def lease(self, layers: Sequence[Layer]) -> tuple[Path, Callable[[], None]]:
        """Slots and weights of ``layers``, in the slots' order, and what must be called once they are no longer used.

        An adapter named twice counts with the sum of its weights. Raises ``NotFound`` for an id that is not loaded.
        """
        weights: dict[str, float] = {}
        for layer in layers:
            if layer.adapter not in self._places:
                raise NotFound(f"no adapter {layer.adapter!r} is loaded in this engine", "load its directory first")
            if not math.isfinite(layer.weight):
                raise InputError(f"layer {layer.adapter!r} has weight {layer.weight}", "give a finite weight")
            weights[layer.adapter] = weights.get(layer.adapter, 0.0) + layer.weight
        places = [self._places[adapter] for adapter in weights]
        for place in places:
            place.uses += 1

        def release() -> None:
            for place in places:
                place.uses -= 1
                self._free(place)

        path = sorted((place.slot, weight) for place, weight in zip(places, weights.values(), strict=True))
        return tuple(path), release

    def _free(self, place: _Place) -> None:
        if place.removed and place.uses == 0:
            self._model.slots.remove(place.slot)
