"""From which similarity on a layer is used, trained on, or forked: tunable by domain in the settings."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from clonedna.core.value import Value

Share = Annotated[float, Field(ge=0, le=1)]


class Thresholds(Value):
    """From which s* on a route is taken; ``use`` holds for the interval's lower end. Above ``warm`` a training from scratch begins with
    the best layer's weights."""

    use: Share = 0.90
    refine: Share = 0.75
    fork: Share = 0.60
    warm: Share = 0.25

    @model_validator(mode="after")
    def _in_order(self) -> Thresholds:
        if not self.warm <= self.fork <= self.refine <= self.use:
            raise ValueError("they must rise: warm, fork, refine, use")
        return self
