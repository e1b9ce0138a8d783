"""The split stage: what is held out, decided before anything is generated.

Whole repositories are held out where there are three or more, else whole files. Where one file holds most of a person's code, whole
top-level definitions are. The result says which.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence

from clonedna.core.block import Recipe
from clonedna.core.errors import TooFewSpans
from clonedna.core.work import Span
from clonedna.mint.sift import refuse, without_contained, without_near_duplicates
from clonedna.mint.values import Divided, Sifted

LEAK_SIMILAR = 0.7
MOST_HELD_OUT = 0.4
VALIDATION_FROM = 60
REPOSITORIES = 3
VALIDATION_SHARE = 0.1


def divide(sifted: Sifted, recipe: Recipe, *, held: Sequence[Span] = (), latest: bool = False) -> Divided:
    """Hold out ``holdout_share`` of the spans (at least ``min_holdout``) whole; from 60 spans on also a validation part, by whole files.

    Training spans that are like held-out ones, or hold them, or stand in them, are dropped; so are such validation spans. ``held`` is
    held out already, elsewhere. ``latest``: what is held out are the files, else the definitions, that were written last, where all
    ages are known. Raises ``TooFewSpans`` when less than ``min_spans`` are there.
    """
    spans = sifted.spans
    if len(spans) < recipe.min_spans:
        raise _too_few(len(spans), recipe.min_spans)
    want = max(recipe.min_holdout, round(recipe.holdout_share * len(spans)))
    by, out = _first_part(spans, want, f"{recipe.seed}:holdout", latest)
    if out is None:
        raise _too_few(len(spans), recipe.min_spans)
    holdout = [span for span in spans if id(span) in out]
    rest = [span for span in spans if id(span) not in out]
    validation: list[Span] = []
    if len(rest) >= VALIDATION_FROM:
        part = _hold_out(rest, _file, round(VALIDATION_SHARE * len(rest)), f"{recipe.seed}:validation")
        validation = [span for span in rest if part and id(span) in part]
    own = {id(span) for span in validation}
    validation, seen = _without_leaks(validation, [*holdout, *held])
    train, leaks = _without_leaks([span for span in rest if id(span) not in own], [*holdout, *held, *validation])
    if len(train) < recipe.min_spans - recipe.min_holdout:
        raise _too_few(len(train) + len(holdout), recipe.min_spans)
    return Divided(
        by=by,
        train=tuple(_draw(train, recipe.max_train_pairs, f"{recipe.seed}:draw:train")),
        validation=tuple(_draw(validation, recipe.max_holdout_pairs, f"{recipe.seed}:draw:validation")),
        holdout=tuple(_draw(holdout, recipe.max_holdout_pairs, f"{recipe.seed}:draw:holdout")),
        refusals=tuple(
            refuse(span, "held_out_duplicate", f"like {other.path}:{other.start}") for span, other in [*seen, *leaks]
        ),
    )


def _first_part(spans: Sequence[Span], want: int, seed: str, latest: bool) -> tuple[str, set[int] | None]:
    """What is held out whole, and the identities of its spans (``None``: the groups are too large)."""
    if latest and all(span.age is not None for span in spans) and len({span.url for span in spans}) == 1:
        for by, key in (("file", _file), ("definition", _definition)):
            if (held := _hold_out(spans, key, want)) is not None:
                return f"{by} (the latest in time)", held
    if len({span.url for span in spans}) >= REPOSITORIES:
        held = _hold_out(spans, lambda s: s.url, want, seed)
        if held is not None:
            return "repository", held
    held = _hold_out(spans, _file, want, seed)
    if held is not None:
        return "file", held
    return "definition", _hold_out(spans, _definition, want, seed)


def _without_leaks(spans: Sequence[Span], held: Sequence[Span]) -> tuple[list[Span], list[tuple[Span, Span]]]:
    """``spans`` without what gives ``held`` away, and each that was dropped with the one that it is like."""
    apart, like = without_near_duplicates(spans, against=held, similar=LEAK_SIMILAR)
    kept, inside = without_contained(apart, held)
    return kept, [*like, *inside]


def _too_few(found: int, needed: int) -> TooFewSpans:
    return TooFewSpans(
        f"{found} usable spans by this author after filtering; {needed} are needed",
        "mint from a larger repository, add the author's other identities with --author, or allow more licences with --allow-licence",
        found=found, needed=needed,
    )  # fmt: skip


def _file(span: Span) -> str:
    return f"{span.url}:{span.path}"


def _definition(span: Span) -> str:
    return f"{_file(span)}:{span.name.split('.')[0]}"


def _hold_out(spans: Sequence[Span], key: Callable[[Span], str], want: int, seed: str | None = None) -> set[int] | None:
    """Identities of spans in whole groups that add up to ``want``, never more than 40 % of all; ``None`` when groups are too large.

    Groups are drawn with ``seed``; without one those that were written last come first.
    """
    groups: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        groups[key(span)].append(span)
    names = sorted(groups)
    if seed is None:
        names.sort(key=lambda name: min(span.age or 0 for span in groups[name]))
    else:
        random.Random(seed).shuffle(names)  # noqa: S311 - a seeded draw, no secret
    most = max(want, int(MOST_HELD_OUT * len(spans)))
    held: list[Span] = []
    for name in names:
        if len(held) >= want:
            break
        if len(held) + len(groups[name]) <= most:
            held.extend(groups[name])
    return {id(span) for span in held} if len(held) >= want else None


def _draw(spans: Sequence[Span], most: int, seed: str) -> list[Span]:
    """At most ``most`` of them, in their order. Each part has a draw of its own: how much is trained on changes no hold-out."""
    if len(spans) <= most:
        return list(spans)
    chosen = set(random.Random(seed).sample(range(len(spans)), most))  # noqa: S311 - a seeded draw, no secret
    return [span for i, span in enumerate(spans) if i in chosen]
