"""From what a client asks to what an engine is asked: sampling requests, guides, messages, blends. Values in, values out.

Defaults are OpenAI's (temperature 1; 16 tokens for a completion). A chat without a bound gets a quarter of the base's context, at
most 2048 tokens. Without a seed one is drawn; choice ``k`` of several is sampled with seed + k.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from typing import Any, Literal

from clonedna.app.serving import Term
from clonedna.core.calls import CLOSE
from clonedna.core.errors import InputError
from clonedna.core.genome import Through
from clonedna.core.model import Guide, Message, SampleRequest, ToolCall
from clonedna.server.asks import ChatAsk, CompletionAsk, NamedTool, Sampled, Turn

COMPLETION_TOKENS = 16
CHAT_TOKENS = 2048


def chat_requests(ask: ChatAsk, through: Through, *, context: int, most: int) -> tuple[SampleRequest, ...]:
    """One request for each choice. Raises ``InputError`` with the field."""
    ask.check()
    guide, tools = guide_of(ask), _tools(ask)
    if guide is not None and tools.get("tools") and tools["tool_choice"] != "none":
        raise InputError(
            "an answer cannot both fit a format and call tools",
            "give one of the two, or tool_choice none",
            param="tools",
        )
    if ask.top_logprobs and not ask.logprobs:
        raise InputError("top_logprobs needs logprobs", "set logprobs to true", param="top_logprobs")
    shared = _shared(ask)
    if tools.get("tools") and ask.parallel_tool_calls is False:
        shared["stop"] = (*_stops(ask), CLOSE)  # the first call is the last
    bound = ask.max_completion_tokens or ask.max_tokens or min(CHAT_TOKENS, max(1, context // 4))
    request = SampleRequest(
        messages=tuple(message(turn, i) for i, turn in enumerate(ask.messages)), layers=through.layers, mixture=through.mixture,
        max_tokens=bound,
        logprobs=bool(ask.logprobs), top_logprobs=ask.top_logprobs or 0, guide=guide, **tools, **shared,
    )  # fmt: skip
    return _choices([request], ask, most)


def completion_requests(ask: CompletionAsk, through: Through, *, most: int) -> tuple[SampleRequest, ...]:
    """Requests for each prompt's choices, prompt by prompt. Raises ``InputError`` with the field."""
    ask.check()
    if ask.suffix:
        raise InputError("suffix is not supported: this base completes at the end", "leave it out", param="suffix")
    if (ask.best_of or 1) > (ask.n or 1):
        raise InputError("best_of beyond n is not supported", "leave it out, and choose among n", param="best_of")
    given = prompts(ask)
    if ask.echo and any(not isinstance(prompt, str) for prompt in given):
        raise InputError("echo needs prompts of text", "leave echo out", param="echo")
    if ask.echo and ask.logprobs is not None:
        raise InputError("a prompt's own logprobs are not supported", "leave echo or logprobs out", param="logprobs")
    requests = [
        SampleRequest(
            prompt=prompt, layers=through.layers, mixture=through.mixture,
            max_tokens=ask.max_tokens or COMPLETION_TOKENS, guide=guide_of(ask),
            logprobs=ask.logprobs is not None, top_logprobs=ask.logprobs or 0, **_shared(ask),
        )
        for prompt in given
    ]  # fmt: skip
    return _choices(requests, ask, most)


def said(ask: ChatAsk | CompletionAsk) -> tuple[str, ...]:
    """What the person said, oldest first: turns of a chat, or the one prompt of text."""
    if isinstance(ask, ChatAsk):
        return tuple(_text(turn, f"messages.{i}") for i, turn in enumerate(ask.messages) if turn.role == "user")
    given = prompts(ask)
    return tuple(prompt for prompt in given if isinstance(prompt, str)) if len(given) == 1 else ()


def prompts(ask: CompletionAsk) -> list[str | tuple[int, ...]]:
    """The prompts, each a text or tokens."""
    if isinstance(ask.prompt, str):
        return [ask.prompt]
    if isinstance(ask.prompt[0], int):
        return [tuple(ask.prompt)]  # type: ignore[arg-type]
    return [prompt if isinstance(prompt, str) else tuple(prompt) for prompt in ask.prompt]  # type: ignore[arg-type]


def blend(ask: Sampled) -> tuple[Term, ...]:
    """The layers that the request itself names, in llama.cpp's form or LoRAX's. Raises ``InputError``."""
    if ask.lora and ask.merged_adapters:
        raise InputError("lora and merged_adapters are two forms of one thing", "give one of them", param="lora")
    if ask.lora:
        return tuple(Term(model=one.id, weight=one.scale) for one in ask.lora)
    merged = ask.merged_adapters
    if merged is None:
        return ()
    if merged.merge_strategy != "linear":
        raise InputError(
            f"merge_strategy {merged.merge_strategy[:40]!r} cannot be done for one request",
            "use linear (the exact weighted sum), or make a block with: dna merge", param="merged_adapters.merge_strategy",
        )  # fmt: skip
    if len(merged.ids) != len(merged.weights):
        raise InputError("as many weights as ids are needed", "give one for each", param="merged_adapters.weights")
    return tuple(Term(model=name, weight=weight) for name, weight in zip(merged.ids, merged.weights, strict=True))


def guide_of(ask: Sampled) -> Guide | None:
    """What the completion must be. Raises ``InputError`` when several forms are given at once."""
    found: list[Guide] = []
    if ask.response_format is not None and ask.response_format.type == "json_object":
        found.append(Guide(kind="json_object"))
    elif ask.response_format is not None and ask.response_format.type == "json_schema":
        schema = ask.response_format.json_schema
        if schema is None or schema.schema_ is None:
            raise InputError("json_schema has no schema", "give json_schema.schema", param="response_format")
        found.append(_schema(schema.schema_))
    vllm = ask.structured_outputs
    if vllm is not None and vllm.json_object:
        found.append(Guide(kind="json_object"))
    pairs = [(ask.guided_json, ask.guided_regex, ask.guided_choice, ask.guided_grammar)]
    pairs += [(vllm.json_, vllm.regex, vllm.choice, vllm.grammar)] if vllm is not None else []
    for schema, regex, choice, grammar in pairs:
        found += [_schema(schema)] if schema is not None else []
        found += [Guide(kind="regex", text=regex)] if regex is not None else []
        found += [_choice(choice)] if choice is not None else []
        found += [Guide(kind="lark", text=grammar)] if grammar is not None else []
    if len(found) > 1:
        raise InputError("the completion's form is given twice", "give one of them", param="response_format")
    return found[0] if found else None


def message(turn: Turn, position: int) -> Message:
    """A turn as the engine has it. Raises ``InputError`` for parts that are no text, and for what a role lacks."""
    where = f"messages.{position}"
    if turn.role == "function":
        raise InputError("role function is no longer supported", "use role tool", param=f"{where}.role")
    if turn.role == "tool" and not turn.tool_call_id:
        raise InputError("a tool's answer names its call", "give tool_call_id", param=f"{where}.tool_call_id")
    calls = tuple(
        ToolCall(id=call.id, name=call.function.name, arguments=call.function.arguments)
        for call in turn.tool_calls or ()
    )
    if calls and turn.role != "assistant":
        raise InputError("only an assistant calls tools", "leave tool_calls out", param=f"{where}.tool_calls")
    for call in calls:
        _arguments(call, where)
    if turn.content is None and not calls:
        raise InputError("a message without content", "give content", param=f"{where}.content")
    return Message(
        role="system" if turn.role == "developer" else turn.role, content=_text(turn, where), tool_calls=calls,
        tool_call_id=turn.tool_call_id if turn.role == "tool" else None,
    )  # fmt: skip


def _text(turn: Turn, where: str) -> str:
    if turn.content is None or isinstance(turn.content, str):
        return turn.content or ""
    for i, part in enumerate(turn.content):
        if part.type != "text" or part.text is None:
            raise InputError(
                f"a content part of type {part.type!r} cannot be read: text only", "send parts of type text, with text",
                param=f"{where}.content.{i}",
            )  # fmt: skip
    return "\n".join(part.text or "" for part in turn.content)


def _arguments(call: ToolCall, where: str) -> None:
    try:
        good = isinstance(json.loads(call.arguments), dict)
    except (ValueError, RecursionError):
        good = False
    if not good:
        raise InputError(
            f"the arguments of {call.name!r} are no JSON object",
            "send them as they were called",
            param=f"{where}.tool_calls",
        )


def _tools(ask: ChatAsk) -> dict[str, Any]:
    """``tools``, ``tool_choice`` and ``tool`` of a request; nothing when there are none."""
    choice = ask.tool_choice or "auto"
    if not ask.tools:
        if choice not in ("none", "auto"):
            raise InputError("tool_choice without tools", "give tools", param="tool_choice")
        return {}
    names = [tool.function.name for tool in ask.tools]
    if len(set(names)) < len(names):
        raise InputError("two tools have the same name", "give each its own", param="tools")
    named = choice.function.name if isinstance(choice, NamedTool) else None
    if named is not None and named not in names:
        raise InputError(f"no tool is called {named!r}", "name one of tools", param="tool_choice")
    kind: Literal["none", "auto", "required"] = "required" if isinstance(choice, NamedTool) else choice
    tools = tuple(tool.model_dump(mode="json", exclude_none=True) for tool in ask.tools)
    return {"tools": tools, "tool_choice": kind, "tool": named}


def _shared(ask: Sampled) -> dict[str, Any]:
    top_k = ask.top_k or 0
    return {
        "temperature": 1.0 if ask.temperature is None else ask.temperature,
        "top_p": 1.0 if ask.top_p is None else ask.top_p, "top_k": max(top_k, 0), "min_p": ask.min_p or 0.0,
        "presence_penalty": ask.presence_penalty or 0.0, "frequency_penalty": ask.frequency_penalty or 0.0,
        "repetition_penalty": ask.repetition_penalty or 1.0, "logit_bias": _bias(ask), "stop": _stops(ask),
        "ignore_eos": bool(ask.ignore_eos), "whole_prompt": True, "seed": secrets.randbits(53) if ask.seed is None else ask.seed,
    }  # fmt: skip


def _bias(ask: Sampled) -> tuple[tuple[int, float], ...]:
    found: list[tuple[int, float]] = []
    for token, bias in (ask.logit_bias or {}).items():
        if not (token.isascii() and token.isdigit() and len(token) < 10):
            raise InputError("logit_bias names tokens by number", "give token ids as keys", param="logit_bias")
        found.append((int(token), bias))
    return tuple(found)


def _stops(ask: Sampled) -> tuple[str, ...]:
    return (ask.stop,) if isinstance(ask.stop, str) else tuple(ask.stop or ())


def _schema(schema: str | dict[str, Any]) -> Guide:
    try:
        parsed: object = json.loads(schema) if isinstance(schema, str) else schema
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise InputError("the schema is no JSON object", "give a JSON schema", param="response_format")
    return Guide(kind="json_schema", text=json.dumps(parsed, ensure_ascii=False))


def _choice(choice: list[str]) -> Guide:
    if not choice or not all(choice):
        raise InputError("a choice needs texts to choose from", "give at least one", param="guided_choice")
    return Guide(kind="choice", text=json.dumps(choice, ensure_ascii=False))


def _choices(requests: Sequence[SampleRequest], ask: Sampled, most: int) -> tuple[SampleRequest, ...]:
    n = ask.n or 1
    if len(requests) * n > most:
        raise InputError(
            f"{len(requests) * n} choices in one request", f"ask for at most {most} (prompts x n)", param="n"
        )
    return tuple(request.model_copy(update={"seed": request.seed + k}) for request in requests for k in range(n))
