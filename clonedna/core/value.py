"""The one base class of everything that crosses a room, a file or a wire."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Value(BaseModel):
    """Frozen, closed value: unknown fields are refused, and equality is by content."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")
