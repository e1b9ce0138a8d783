"""What is said to and by an engine: bases, examples, layers, sampling, training. Nobody above the engine knows what a tensor is."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from clonedna.core.value import Value

TargetModule = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ALL_LINEAR: tuple[TargetModule, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class BaseInfo(Value):
    """The base model an engine holds. ``fingerprint`` = sha256 over canonical config, tokenizer, module names and shapes."""

    id: str
    fingerprint: str
    parameters: int
    context: int
    vocabulary: int
    dtype: str
    device: str
    threads: int


class Message(Value):
    role: Literal["system", "user", "assistant", "tool"]
    content: str


class Example(Value):
    """A prompt and its completion; the loss is on the completion's tokens (and the end-of-turn token) only.

    With ``messages`` the prompt is rendered by the base's chat template. With ``text`` the prompt is that text as it is, and
    the completion follows it directly with no end token: plain code, as the raw likelihood of a file needs.
    """

    messages: tuple[Message, ...] = ()
    text: str | None = None
    completion: str


class Score(Value):
    """Likelihood of one completion: summed negative log-likelihood in nats, over ``tokens`` tokens and ``bytes`` UTF-8 bytes."""

    nll: float
    tokens: int
    bytes: int


class Layer(Value):
    """A weighted adapter: the adapter's id in the engine, and the scale on its B·A."""

    adapter: str
    weight: float = 1.0


class AdapterInfo(Value):
    """A loaded adapter. ``id`` is what requests name; ``digest`` is sha256 over the files it came from."""

    id: str
    digest: str
    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    bytes: int


class SampleRequest(Value):
    """A completion to sample. No layers = the base. Greedy when ``temperature`` is 0; the same seed gives the same tokens.

    ``messages`` are rendered by the chat template; ``prompt`` is plain text. ``prompt_limit`` keeps only the prompt's first N tokens.
    """

    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    prompt_limit: int | None = Field(default=None, ge=1)
    layers: tuple[Layer, ...] = ()
    max_tokens: int = Field(default=256, ge=1, le=1_000_000)
    temperature: float = Field(default=0.0, ge=0.0, le=10.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    seed: int = 0
    stop: tuple[str, ...] = ()
    logprobs: bool = False
    tools: tuple[dict[str, Any], ...] = ()


class SampleChunk(Value):
    """A piece of a sampled completion. ``finish`` is set on the last one, with the usage."""

    text: str = ""
    token: int | None = None
    logprob: float | None = None
    finish: Literal["stop", "length", "cancelled"] | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class LoraSpec(Value):
    """Shape and optimiser of a trained adapter.

    ``clip`` bounds the norm of this adapter's gradient alone. Initialisation is seeded: A uniform, B zero, as PEFT does.
    """

    rank: Literal[1, 2, 4, 8, 16, 32, 64, 128] = 16
    alpha: float = 32.0
    rslora: bool = False
    target_modules: tuple[TargetModule, ...] = ALL_LINEAR
    seed: int = 0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float = 1.0


class StepLoss(Value):
    """Of one ``forward_backward``: summed loss in nats over ``tokens`` completion tokens; ``per_example`` in the order given."""

    loss_sum: float
    tokens: int
    per_example: tuple[Score, ...] = ()
