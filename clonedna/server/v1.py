"""The OpenAI-compatible routes: models, chat, completions, and vLLM's two for adapters. Thin over ``app.serving``."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from clonedna.app.serving import Model, Serving
from clonedna.app.settings import Settings
from clonedna.core.genome import Through
from clonedna.server.access import ADMIN, CHAT, READ
from clonedna.server.answer import Answer
from clonedna.server.asks import ChatAsk, CompletionAsk, LoadAdapter, UnloadAdapter
from clonedna.server.errors import V1
from clonedna.server.metrics import Metrics
from clonedna.server.reading import Routes
from clonedna.server.rendering import ChatRendering, Shape, TextRendering
from clonedna.server.replies import ChatChunk, ChatCompletion, Completion, Done, ModelCard, ModelList
from clonedna.server.translate import blend, chat_requests, completion_requests, prompts, said


def router(serving: Serving, settings: Settings, metrics: Metrics) -> APIRouter:
    """Routes under ``/v1``."""
    made = Routes(prefix="/v1", responses=V1)
    _add_models(made, serving)
    _add_sampling(made, serving, settings, metrics)
    _add_adapters(made, serving)
    return made


def _add_models(made: APIRouter, serving: Serving) -> None:
    def card(model: Model) -> ModelCard:
        return ModelCard(
            id=model.id, created=model.created, root=model.root, parent=model.parent, block=model.block, index=model.index,
            genome=model.genome, max_model_len=serving.engine.base.context,
        )  # fmt: skip

    @made.get("/models", dependencies=[READ])
    async def list_models() -> ModelList:
        """The base, every accepted block of it under each of its names, and every genome that can be asked."""
        return ModelList(data=[card(model) for model in await serving.models()])

    @made.get("/models/{model:path}", dependencies=[READ])
    async def retrieve_model(model: str) -> ModelCard:
        """One model by any of its names."""
        return card(await serving.model(model))


def _add_sampling(made: APIRouter, serving: Serving, settings: Settings, metrics: Metrics) -> None:
    @made.post("/chat/completions", dependencies=[CHAT], responses=_streamed(ChatCompletion, ChatChunk))
    async def chat(ask: ChatAsk) -> Response:
        """An answer to a conversation, whole or as server-sent events; may call tools, or fit a schema."""
        base = serving.engine.base
        chat_requests(
            ask, Through(), context=base.context, most=settings.max_choices
        )  # before anything is loaded for it
        found = await serving.prepare(ask.model, blend(ask), said=said(ask))
        requests = chat_requests(ask, found.through, context=base.context, most=settings.max_choices)
        shape = Shape(
            model=ask.model, served=found.served, choices=len(requests), n=len(requests), usage=_wants_usage(ask),
            tools=bool(requests[0].tools) and requests[0].tool_choice != "none",
        )  # fmt: skip
        return Answer(
            serving.engine, requests, ChatRendering(shape), served=found.served, stream=bool(ask.stream),
            timeout=settings.request_timeout, watch=metrics.watch(found.label),
        )  # fmt: skip

    @made.post("/completions", dependencies=[CHAT], responses=_streamed(Completion, Completion))
    async def complete(ask: CompletionAsk) -> Response:
        """What follows a text, or each of several texts."""
        completion_requests(ask, Through(), most=settings.max_choices)
        found = await serving.prepare(ask.model, blend(ask), said=said(ask))
        requests = completion_requests(ask, found.through, most=settings.max_choices)
        echo = tuple(str(prompt) for prompt in prompts(ask)) if ask.echo else ()
        shape = Shape(
            model=ask.model,
            served=found.served,
            choices=len(requests),
            n=ask.n or 1,
            usage=_wants_usage(ask),
            echo=echo,
        )
        return Answer(
            serving.engine, requests, TextRendering(shape), served=found.served, stream=bool(ask.stream),
            timeout=settings.request_timeout, watch=metrics.watch(found.label),
        )  # fmt: skip


def _add_adapters(made: APIRouter, serving: Serving) -> None:
    privileged = [ADMIN]

    @made.post("/load_lora_adapter", dependencies=privileged)
    async def load_lora_adapter(ask: LoadAdapter) -> Done:
        """Serve a block of the store under a further name. Needs the admin key, where one is set."""
        await serving.add(ask.lora_name, ask.lora_path, replace=ask.load_inplace)
        return Done(message=f"Success: LoRA adapter '{ask.lora_name}' added successfully.")

    @made.post("/unload_lora_adapter", dependencies=privileged)
    async def unload_lora_adapter(ask: UnloadAdapter) -> Done:
        """Take back such a name; of a registered block, only free its memory. Needs the admin key, where one is set."""
        await serving.remove(ask.lora_name)
        return Done(message=f"Success: LoRA adapter '{ask.lora_name}' removed successfully.")


def _wants_usage(ask: ChatAsk | CompletionAsk) -> bool:
    return bool(ask.stream and ask.stream_options is not None and ask.stream_options.include_usage)


# One server-sent event, as readers of the description see it: what is described is each event, not the text of all.
EVENT = {
    "type": "object",
    "required": ["data"],
    "properties": {"data": {"type": "string", "contentMediaType": "application/json"}},
}


def _streamed(whole: type[Any], event: type[Any]) -> dict[int | str, dict[str, Any]]:
    """The 200 of a route that answers with JSON, or with events of which each holds ``event``."""
    about = f"With `stream`, server-sent events: each holds a `{event.__name__}` as JSON, the last one `[DONE]`."
    return {
        200: {
            "model": whole, "description": f"The answer. {about}",
            "content": {"text/event-stream": {"schema": EVENT}},
        }
    }  # fmt: skip
