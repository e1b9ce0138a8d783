"""What clients may send to ``/v1``: OpenAI's fields, and those of vLLM, llama.cpp and LoRAX that this server honours.

Fields that are not here are ignored, as OpenAI's servers do, unless honouring them would change the answer: those in ``REFUSED`` are an
error, except with a value that asks for what happens anyway. ``null`` always means not given.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from clonedna.core.errors import InputError

Text = Annotated[str, Field(max_length=4_000_000)]
Token = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
Stop = Annotated[str, Field(min_length=1, max_length=1024)]
Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]

_NEVER: tuple[Any, ...] = (False, [], {}, "")
# Field -> values that change nothing. Everything else of these would give another answer than this server makes.
REFUSED: dict[str, tuple[Any, ...]] = {
    "audio": _NEVER, "modalities": (["text"], []), "functions": _NEVER, "function_call": ("none",), "web_search_options": (),
    "reasoning_effort": ("none",), "verbosity": ("medium",), "documents": _NEVER, "chat_template": _NEVER,
    "continue_final_message": (False,), "add_generation_prompt": (True,), "use_beam_search": (False,), "length_penalty": (1,),
    "min_tokens": (0,), "stop_token_ids": _NEVER, "bad_words": _NEVER, "allowed_token_ids": (), "prompt_logprobs": (),
    "truncate_prompt_tokens": (), "include_stop_str_in_output": (False,), "guided_whitespace_pattern": (), "mm_processor_kwargs": _NEVER,
    "prompt_embeds": (), "logits_processors": _NEVER, "adapter_id": (), "typical_p": (1,), "mirostat": (0,),
}  # fmt: skip


class Ask(BaseModel):
    """Frozen; unknown fields are kept aside."""

    model_config = ConfigDict(frozen=True, extra="allow")


class StreamOptions(Ask):
    include_usage: bool = False


class Lora(Ask):
    """llama.cpp's form of a layer: a model's name, or its ``index`` in ``/v1/models``, and its scale."""

    id: Annotated[str, Field(min_length=1, max_length=200)] | Annotated[int, Field(ge=0)]
    scale: float = Field(default=1.0, ge=-100, le=100, allow_inf_nan=False)


class MergedAdapters(Ask):
    """LoRAX's form of a blend. ``linear`` here is the exact weighted sum of B·A."""

    ids: list[Annotated[str, Field(min_length=1, max_length=200)]] = Field(min_length=1, max_length=16)
    weights: list[Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]] = Field(min_length=1, max_length=16)
    merge_strategy: str = "linear"


class StructuredOutputs(Ask):
    """vLLM's form of what a completion must be: exactly one of these. ``grammar`` is Lark's syntax."""

    json_: str | dict[str, Any] | None = Field(default=None, alias="json")
    json_object: bool | None = None
    regex: Text | None = None
    choice: list[str] | None = None
    grammar: Text | None = None


class JsonSchema(Ask):
    name: str = "schema"
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")


class ResponseFormat(Ask):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Sampled(Ask):
    """What both routes share."""

    model: str = Field(min_length=1, max_length=1000)
    n: int | None = Field(default=None, ge=1, le=1024)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    temperature: float | None = Field(default=None, ge=0, le=10)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, le=1_000_000)
    min_p: float | None = Field(default=None, ge=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: float | None = Field(default=None, gt=0, le=10)
    logit_bias: dict[str, Bias] | None = Field(default=None, max_length=1024)
    ignore_eos: bool | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: str | dict[str, Any] | None = None
    guided_regex: Text | None = None
    guided_choice: list[str] | None = None
    guided_grammar: Text | None = None
    lora: list[Lora] | None = Field(default=None, max_length=16)
    merged_adapters: MergedAdapters | None = None

    def check(self) -> None:
        """Raises ``InputError`` for a field that would have to change the answer and is not honoured."""
        for name, value in (self.model_extra or {}).items():
            if name in REFUSED and value is not None and value not in REFUSED[name]:
                raise InputError(f"{name} is not supported by this server", "leave it out", param=name)


class ContentPart(Ask):
    type: str = Field(max_length=64)
    text: Text | None = None


class FunctionCall(Ask):
    name: str = Field(min_length=1, max_length=128)
    arguments: Text = "{}"


class CallMade(Ask):
    id: str = Field(max_length=128)
    type: Literal["function"] = "function"
    function: FunctionCall


class Turn(Ask):
    """One message. ``developer`` is another word for ``system``; only parts of type ``text`` can be read."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | list[ContentPart] | None = None
    tool_calls: list[CallMade] | None = Field(default=None, max_length=128)
    tool_call_id: str | None = Field(default=None, max_length=128)


class Function(Ask):
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Ask):
    type: Literal["function"]
    function: Function


class NamedFunction(Ask):
    name: str = Field(min_length=1, max_length=64)


class NamedTool(Ask):
    type: Literal["function"]
    function: NamedFunction


class ChatAsk(Sampled):
    """``POST /v1/chat/completions``."""

    messages: list[Turn] = Field(min_length=1, max_length=4096)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    tools: list[Tool] | None = Field(default=None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None


class CompletionAsk(Sampled):
    """``POST /v1/completions``."""

    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=1024)]
        | Annotated[list[Token], Field(min_length=1)]
        | Annotated[list[Annotated[list[Token], Field(min_length=1)]], Field(min_length=1, max_length=1024)]
    )
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = Field(default=None, ge=1)
    logprobs: int | None = Field(default=None, ge=0, le=20)


class LoadAdapter(Ask):
    """``POST /v1/load_lora_adapter``: as in vLLM; the path is a block, or a block's folder in the store."""

    lora_name: str = Field(min_length=1, max_length=64)
    lora_path: str = Field(min_length=1, max_length=4096)
    load_inplace: bool = False

    @model_validator(mode="after")
    def _no_null(self) -> LoadAdapter:
        if "\0" in self.lora_path:
            raise ValueError("a path has no null character")
        return self


class UnloadAdapter(Ask):
    lora_name: str = Field(min_length=1, max_length=200)
