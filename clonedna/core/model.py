"""What is said to and by an engine: bases, examples, layers, sampling, training. Nobody above the engine knows what a tensor is."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from clonedna.core.value import Value

TargetModule = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ALL_LINEAR: tuple[TargetModule, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class BaseInfo(Value):
    """The base model an engine holds. ``fingerprint`` = sha256 over canonical config, tokenizer, module names and shapes.

    ``weights_digest`` is over the stored weights (``None``: the engine cannot see them). ``dtype``: what they are held in, ``nf4`` when
    quantised; ``dtype_how``: how that was chosen.
    """

    id: str
    fingerprint: str
    parameters: int
    context: int
    vocabulary: int
    dtype: str
    device: str
    threads: int
    dtype_how: str = ""
    weights_digest: str | None = None


class ToolCall(Value):
    """A call that an assistant made: ``arguments`` is a JSON object as text."""

    id: str
    name: str
    arguments: str


class Message(Value):
    """One turn. ``tool_calls`` belong to an assistant's turn, ``tool_call_id`` to a tool's answer."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


class Example(Value):
    """A prompt and its completion; the loss is on the completion's tokens (and the end-of-turn token) only.

    With ``messages`` the prompt is rendered by the base's chat template, which also tells of ``tools`` that may be called. With
    ``text`` the prompt is that text as it is, and the completion follows it directly with no end token: plain code, as the raw
    likelihood of a file needs.
    """

    messages: tuple[Message, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
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


class Mixture(Value):
    """Several adapters of which each token goes through a few, chosen in every module while the request runs.

    ``arrow`` (Ostapenko et al. 2024): the ``top_k`` adapters (or all, where there are fewer) whose largest direction of input the token's
    has most of, in shares that sum to 1; a layer's weight multiplies what its adapter adds.
    """

    kind: Literal["arrow"] = "arrow"
    layers: tuple[Layer, ...] = Field(min_length=1, max_length=32)
    top_k: int = Field(default=2, ge=1, le=32)


class AdapterInfo(Value):
    """A loaded adapter. ``id`` is what requests name; ``digest`` is sha256 over the files it came from."""

    id: str
    digest: str
    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    bytes: int


class Guide(Value):
    """What a completion must be, from its first token to its last: kept by a grammar while sampling, not asked for in words.

    ``json_object``: any JSON object (``text`` is empty); ``json_schema``: JSON that fits the schema in ``text``; ``regex``;
    ``choice``: one of a JSON list of strings; ``lark``: a context-free grammar in Lark's syntax.
    """

    kind: Literal["json_object", "json_schema", "regex", "choice", "lark"]
    text: str = ""


class SampleRequest(Value):
    """A completion to sample. No layers and no ``mixture`` = the base; both together are refused.

    Greedy when ``temperature`` is 0; the same seed gives the same tokens.

    ``messages`` are rendered by the chat template; ``prompt`` is plain text, or tokens. ``prompt_limit`` keeps only the prompt's
    first N tokens; of a prompt that leaves no room for ``max_tokens`` the beginning is cut off, unless it is wanted as a
    ``whole_prompt``: then one that leaves no room at all is refused. With ``tools``, a call is always well-formed: ``auto`` leaves
    the choice between words and calls to the model, ``required`` makes it call, ``none`` does not tell it of them, and ``tool``
    names the one that it must call. ``top_logprobs`` counts the likeliest other tokens. Penalties as in OpenAI's API (presence,
    frequency) and Keskar et al. 2019 (repetition, 1 = none); ``min_p``: Nguyen et al. 2024.
    """

    messages: tuple[Message, ...] = ()
    prompt: str | tuple[int, ...] | None = None
    prompt_limit: int | None = Field(default=None, ge=1)
    whole_prompt: bool = False
    layers: tuple[Layer, ...] = ()
    mixture: Mixture | None = None
    max_tokens: int = Field(default=256, ge=1, le=1_000_000)
    temperature: float = Field(default=0.0, ge=0.0, le=10.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: int = Field(default=0, ge=0)
    min_p: float = Field(default=0.0, ge=0.0, le=1.0)
    presence_penalty: float = Field(default=0.0, ge=-2.0, le=2.0)
    frequency_penalty: float = Field(default=0.0, ge=-2.0, le=2.0)
    repetition_penalty: float = Field(default=1.0, gt=0.0, le=10.0)
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int = 0
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=20)
    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: Literal["none", "auto", "required"] = "auto"
    tool: str | None = None
    guide: Guide | None = None


class TokenLogprob(Value):
    """A token, its text and bytes, and the natural logarithm of its probability before temperature and truncation."""

    token: int
    text: str
    bytes: tuple[int, ...]
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


class SampleChunk(Value):
    """A piece of a sampled completion. ``finish`` is set on the last one, with the usage.

    ``cached_tokens``: prompt tokens whose keys and values were kept from an earlier request and not computed again.
    """

    text: str = ""
    token: int | None = None
    logprob: TokenLogprob | None = None
    finish: Literal["stop", "length", "cancelled"] | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None


class Residency(Value):
    """Where a known adapter is (``disk``: only its files; ``memory``; ``slot``: ready for the next step) and how it was used.

    ``uses``: requests that hold it now; ``hits``: requests that found it in memory; ``loads``, ``evictions``: counts so far;
    ``idle``: seconds since it was last asked for.
    """

    id: str
    digest: str
    state: Literal["disk", "memory", "slot"]
    rank: int
    bytes: int
    owner: str
    priority: float
    pinned: bool
    uses: int
    hits: int
    loads: int
    evictions: int
    idle: float


class Spread(Value):
    """Of recent measurements: how many, their median and 95th percentile (``None``: none yet)."""

    n: int
    p50: float | None = None
    p95: float | None = None


class EngineStatus(Value):
    """An engine at one moment. Counts are since it was opened; times in milliseconds; ``*_bytes`` of ``*_budget`` are in use.

    ``gap``: time between two tokens of a stream; ``gap_training``: the same while an adapter trains. ``running``, ``waiting``:
    requests; ``training``: trainers that are open. ``exact``: whether it was seen at loading that a request's tokens do not depend on
    its company to the last bit (``None``: not looked at).
    """

    base: BaseInfo
    exact: bool | None = None
    adapters: tuple[Residency, ...] = ()
    adapter_bytes: int = 0
    adapter_budget: int = 0
    slots: int = 0
    slots_used: int = 0
    hits: int = 0
    loads: int = 0
    evictions: int = 0
    thrashing: bool = False
    swap: Spread = Spread(n=0)
    running: int = 0
    waiting: int = 0
    training: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prefix_hits: int = 0
    prefix_queries: int = 0
    cache_bytes: int = 0
    cache_budget: int = 0
    gap: Spread = Spread(n=0)
    gap_training: Spread = Spread(n=0)
    first_token: Spread = Spread(n=0)


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


class Guarded(Value):
    """Examples on which a new layer shall change nothing, and the layers that stand beside it there (none = the base alone)."""

    examples: tuple[Example, ...] = Field(min_length=1, max_length=4096)
    layers: tuple[Layer, ...] = ()


class Beside(Value):
    """How an adapter is trained so that it leaves others be: terms of the loss besides its own examples', each with its weight (0 = none).

    ``guard_weight``: mean KL(without || with the new one) a token, over ``guard_examples`` of ``guard`` at each step, in turn.
    ``energy_weight``: mean square of what it adds on what modules read, by that of the module's own output, over the folders of
    ``covariances`` (of layers that may show no more). ``orthogonal_weight``: mean of ``|A_i A^T|^2`` over modules and layers.
    """

    guard: tuple[Guarded, ...] = Field(default=(), max_length=64)
    guard_weight: float = Field(default=1.0, ge=0, le=1000, allow_inf_nan=False)
    guard_examples: int = Field(default=4, ge=1, le=64)
    covariances: tuple[Path, ...] = Field(default=(), max_length=8)
    energy_weight: float = Field(default=0.0, ge=0, le=1e6, allow_inf_nan=False)
    orthogonal: tuple[Layer, ...] = Field(default=(), max_length=32)
    orthogonal_weight: float = Field(default=0.0, ge=0, le=1e6, allow_inf_nan=False)


class MemoryNeed(Value):
    """Estimated bytes: of the base's weights, of training one adapter on it (its state and the activations of a step), and what is kept
    free besides; ``available``: measured at that moment on ``device``. ``dtype``: what the weights would be held in.
    """

    base: int
    training: int
    reserve: int
    available: int
    dtype: str
    device: str

    @property
    def fits(self) -> bool:
        return self.base + self.training + self.reserve <= self.available


class StepLoss(Value):
    """Of one ``forward_backward``: summed loss in nats over ``tokens`` completion tokens; ``per_example`` in the order given."""

    loss_sum: float
    tokens: int
    per_example: tuple[Score, ...] = ()
