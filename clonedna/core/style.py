"""How code is written, as values: features of a body of code, and how far a block went from its base towards a person.

Counts and shares only: nothing here is a judgement of a person. What each feature counts: ``clonedna/evals/style_table.py``.
"""

from __future__ import annotations

from clonedna.core.value import Value
from clonedna.core.work import Language


class StyleFeature(Value):
    """One feature: its ``value`` in the unit of the table, over ``n`` things counted. ``None``: too few of them to say."""

    name: str
    value: float | None
    n: int


class StyleProfile(Value):
    """All features of some texts in one language, in the order of the table.

    ``broken``: share of the bytes that no parser could make sense of; features come from the rest.
    """

    language: Language
    texts: int
    bytes: int
    broken: float
    features: tuple[StyleFeature, ...]

    def value(self, name: str) -> float | None:
        """A feature's value; ``None`` when it is not there or counts too little."""
        return next((one.value for one in self.features if one.name == name), None)


class StyleMove(Value):
    """A feature on which block and base surely differ in how near they are to the person: the three values and their n.

    ``move``: how much nearer the block is than the base, in spreads between people; below zero it went away from the person. ``ci95``: its
    95 % bootstrap interval, which does not hold 0. ``words``: the same for a reader.
    """

    feature: str
    unit: str
    person: float
    base: float
    block: float
    n: tuple[int, int, int]
    move: float
    ci95: tuple[float, float]
    words: str


class StyleReport(Value):
    """Person, base and block on the same hold-out prompts, in the language of most of them.

    ``base_distance``, ``block_distance``: from the person, in spreads between people (``None``: too few features in common), over the
    features ``compared``. ``scale``: where these spreads come from. ``moves``: strongest first. ``cut``: answers of base and block that
    ended at the bound on their length.
    """

    language: Language
    prompts: int
    cut: tuple[int, int]
    person: StyleProfile
    base: StyleProfile
    block: StyleProfile
    base_distance: float | None
    block_distance: float | None
    compared: tuple[str, ...]
    scale: str
    moves: tuple[StyleMove, ...]
