"""What ``/v1`` answers, as OpenAI has it. ``served_by`` (in the reply, or in a stream's first chunk) says what made it.

Only fields that were set are written, so that ``null`` stands where OpenAI has ``null``.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from clonedna.app.blocks import Served

Finish = Literal["stop", "length", "tool_calls"]


class PromptDetails(BaseModel):
    cached_tokens: int


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprobs(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    content: list[TokenLogprobs]
    refusal: None = None


class CalledFunction(BaseModel):
    name: str
    arguments: str


class Called(BaseModel):
    id: str
    type: Literal["function"]
    function: CalledFunction


class Reply(BaseModel):
    role: Literal["assistant"]
    content: str | None
    refusal: None = None
    tool_calls: list[Called] = []


class ChatChoice(BaseModel):
    index: int
    message: Reply
    logprobs: ChatLogprobs | None
    finish_reason: Finish


class Envelope(BaseModel):
    """What every reply and chunk begins with."""

    id: str
    created: int
    model: str
    system_fingerprint: str


class ChatCompletion(Envelope):
    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage
    served_by: Served


class FunctionDelta(BaseModel):
    name: str | None = None
    arguments: str | None = None


class CallDelta(BaseModel):
    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta


class Delta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[CallDelta] | None = None


class ChatChunkChoice(BaseModel):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: Finish | None


class ChatChunk(Envelope):
    """One event of a streamed chat."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
    served_by: Served | None = None


class TextLogprobs(BaseModel):
    """The older shape; ``text_offset`` counts characters from the beginning of the choice's text."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class TextChoice(BaseModel):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Finish | None


class Completion(Envelope):
    """A completion, or one event of a streamed one."""

    object: Literal["text_completion"]
    choices: list[TextChoice]
    usage: Usage | None = None
    served_by: Served | None = None


class ModelCard(BaseModel):
    """A model. ``root``: the base's id, or the block's; ``parent``: a block's base; ``block``, ``genome``: its name and version."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "clone-dna"
    root: str
    parent: str | None
    max_model_len: int
    permission: list[dict[str, Any]] = []
    block: str | None = None
    index: int | None = None
    genome: str | None = None


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class Done(BaseModel):
    """What was done about an adapter; the words are vLLM's."""

    message: str
