"""What makes reads cheap: routers that are looked through only for their own paths, queries read in one go, answers written once.

FastAPI compares each path with each route before its own, takes a value of query parameters field by field, and hands what a route gives
back to a second thread to be checked. A read of the registry takes less time than any of these. Routes stay FastAPI's: declared with its
decorators, described by it; what a route answers is what its ``response_model`` says (a test compares).
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Generic, TypeVar, get_origin

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.routing import Match
from starlette.types import Scope

V = TypeVar("V", bound=BaseModel)


class Routes(APIRouter):
    """A router whose routes all begin with its prefix; it is included under no other."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As it was, but at once for other paths."""
        if not scope["path"].removeprefix(scope.get("root_path", "")).startswith(self.prefix):
            return Match.NONE, {}
        return super().matches(scope)


class Asked(Generic[V]):
    """A dependency: the query's parameters as a value, checked and refused as FastAPI does for ``Annotated[Model, Query()]``.

    ``described`` is what FastAPI says of that, for the route's ``openapi_extra``.
    """

    def __init__(self, model: type[V]) -> None:
        self._model, fields = model, model.model_fields
        assert not any(field.alias or field.validation_alias for field in fields.values()), "read by their names"
        self._many = frozenset(name for name, field in fields.items() if get_origin(field.annotation) is tuple)
        self.described: dict[str, Any] = {"parameters": _parameters(model)}

    async def __call__(self, request: Request) -> V:
        given = request.query_params
        fields = {name: given.getlist(name) if name in self._many else given[name] for name in given}
        try:
            return self._model.model_validate(fields)
        except ValidationError as error:
            found = error.errors(include_url=False)
            raise RequestValidationError([one | {"loc": ("query", *one["loc"])} for one in found]) from None


def told(value: BaseModel) -> Response:
    """An answer whose body is this value, as FastAPI writes it."""
    return Response(_adapter(type(value)).dump_json(value, by_alias=True), media_type="application/json")


@cache
def _adapter(kind: type[BaseModel]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _parameters(model: type[BaseModel]) -> list[dict[str, Any]]:
    """FastAPI's description of a model of query parameters."""

    def ask(query: BaseModel) -> None: ...

    ask.__annotations__["query"] = Annotated[model, Query()]
    app = FastAPI()
    app.get("/")(ask)
    return app.openapi()["paths"]["/"]["get"]["parameters"]
