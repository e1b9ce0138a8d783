"""What is done for one skill: the route that follows from similarity, and why.

| route | when |
|---|---|
| base-suffices | on the exemplars nothing is left to want of the base |
| use-as-is | measured, and the lower end of its 90 % interval is at least ``use`` |
| refine | s* at least ``refine``: train the layer on |
| fork | s* at least ``fork``: train a new layer from its weights |
| scratch | less, or nothing known: train a new layer, from the best one's weights where s* is above ``warm`` |
| abstain | a training would be needed and there is nothing to train from, or what is known is not enough to act on |

Similarity of texts never stops a training: what was only predicted is at most refined where there is something to train from, and where
there is not, a layer whose predicted s* reaches ``use`` is used as a trial, unverified. Never falls when s* or its lower end rises.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clonedna.core.genome import Route, Similarity
from clonedna.core.thresholds import Thresholds

ORDER: tuple[Route, ...] = ("scratch", "fork", "refine", "use-as-is")
"""Trainings from the most that there is to learn to none."""


@dataclass(frozen=True, slots=True)
class Routed:
    """``start``: a new layer begins with the best one's weights. ``verified``: it follows from a measurement."""

    route: Route
    reason: str
    verified: bool
    start: bool = False


def thresholds_for(node: str, tuned: Mapping[str, Thresholds]) -> Thresholds:
    """Those of the node, else of the longest beginning of its id that is named (``lang`` of ``lang/python``), else of ``*``, else the
    usual."""
    name = node
    while name:
        if name in tuned:
            return tuned[name]
        name = name.rpartition("/")[0]
    return tuned.get("*", Thresholds())


def figures(similarity: Similarity) -> str:
    """A known s* in words: value, interval, status."""
    low, high = similarity.low or 0.0, 1.0 if similarity.high is None else similarity.high
    return f"s* {similarity.value or 0.0:.2f}, 90 % from {low:.2f} to {high:.2f}, {similarity.status}"


def route_of(
    similarity: Similarity | None, thresholds: Thresholds, *, base_passes: bool | None, trainable: bool
) -> Routed:
    """The route for the best layer's ``similarity`` (``None``: no layer). ``trainable``: there are pairs enough to train from."""
    if base_passes:
        return Routed("base-suffices", "the base passes on the exemplars without any layer", verified=True)
    value = similarity.value if similarity is not None else None
    if similarity is None or value is None:
        what = (
            "no layer is near" if similarity is None else f"the best layer's similarity is not known ({similarity.how})"
        )
        if trainable:
            return Routed("scratch", f"{what}: a new layer is trained", verified=base_passes is not None)
        return Routed(
            "abstain", f"{what}, and there is nothing to train from; give exemplars or a repository", verified=False
        )
    measured = similarity.status == "measured"
    low = similarity.low if similarity.low is not None else 0.0
    told = figures(similarity)
    if measured and low >= thresholds.use:
        return Routed(
            "use-as-is", f"{told}: it surely brings at least {thresholds.use:.0%} of what is wanted", verified=True
        )
    if not trainable:
        return _untrained(told, value, thresholds, measured=measured)
    if value >= thresholds.refine:
        why = "but not surely enough to be used as it is" if value >= thresholds.use else "so it is trained on"
        return Routed("refine", f"{told}, {why}", verified=measured)
    if value >= thresholds.fork:
        return Routed("fork", f"{told}: a new layer is trained from its weights", verified=measured)
    start = value > thresholds.warm
    why = "a new layer is trained, which begins with its weights" if start else "a new layer is trained"
    return Routed("scratch", f"{told}: {why}", verified=measured, start=start)


def _untrained(told: str, value: float, thresholds: Thresholds, *, measured: bool) -> Routed:
    if not measured and value >= thresholds.use:
        return Routed("use-as-is", f"{told}: unverified, a trial; give exemplars to verify it", verified=False)
    return Routed("abstain", f"{told}: a training is needed, and there is nothing to train from", verified=measured)
