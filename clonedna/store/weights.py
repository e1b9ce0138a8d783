"""A look at a safetensors header without reading a tensor: whatever parses the file next can rely on its shape.

Format (https://github.com/huggingface/safetensors, README): 8 bytes little-endian header length n, n bytes of JSON that begin with
``{`` and may end in spaces, then the tensors' bytes, end to end in the order of their offsets, without holes.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

from clonedna.core.canonical import strict_json
from clonedna.store.files import corrupt, open_regular

MAX_HEADER = 4 << 20
MAX_TENSORS = 100_000
ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


def check_weights(path: Path, limit: int) -> None:
    """Raises ``BlockCorrupt`` unless ``path`` is a well-formed safetensors file of floating-point tensors."""
    with open_regular(path, limit) as file:
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or not 2 <= length <= MAX_HEADER:
            raise corrupt(path.name, f"a header of {length} bytes is not possible")
        raw = file.read(length)
        body = path.stat().st_size - 8 - length
    if len(raw) < length or body < 0:
        raise corrupt(path.name, "ends within its header")
    try:
        header = strict_json(raw.decode()) if raw.startswith(b"{") else None
    except (ValueError, RecursionError) as error:
        raise corrupt(path.name, f"its header is not strict JSON: {error}") from error
    if not isinstance(header, dict):
        raise corrupt(path.name, "its header is not a JSON object")
    tensors = cast("dict[str, Any]", header)
    metadata = tensors.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(
        isinstance(text, str) for text in cast("dict[str, Any]", metadata).values()
    ):
        raise corrupt(path.name, "its metadata is not a map of texts")
    if not 0 < len(tensors) <= MAX_TENSORS:
        raise corrupt(path.name, f"{len(tensors)} tensors")
    end = 0
    for begin, stop in sorted(_extent(path.name, name, tensor) for name, tensor in tensors.items()):
        if begin != end:
            raise corrupt(path.name, f"a hole or an overlap at byte {end} of its tensors")
        end = stop
    if end != body:
        raise corrupt(path.name, f"its tensors take {end} bytes, but {body} are there")


def _extent(file: str, name: str, tensor: Any) -> tuple[int, int]:
    """``(begin, end)`` of one tensor, when dtype, shape and offsets agree."""
    match tensor:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [begin, end], **rest} if (
            dtype in ITEM_BYTES and not rest
        ):
            # `type(...) is int`: true and false are integers to Python, not to JSON.
            whole = len(shape) <= 8 and all(
                type(number) is int and 0 <= number < 2**40 for number in (*shape, begin, end)
            )
            if whole and end - begin == math.prod(shape) * ITEM_BYTES[dtype]:
                return begin, end
        case _:
            pass
    raise corrupt(file, f"tensor {ascii(name)[1:81]} has no possible type, shape and offsets")
