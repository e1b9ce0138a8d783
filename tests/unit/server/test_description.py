"""The description is complete: each operation has its words, scope, security and examples, and the examples are what the schemas allow."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import jsonschema_rs
import pytest

from clonedna.app.service import Service
from clonedna.core.canonical import canonical, strict_json
from clonedna.server.access import OPEN
from clonedna.server.api import application
from clonedna.server.examples import example
from tests.serving import ServerParts

Operation = tuple[str, str, dict[str, Any]]


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return application(Service(ServerParts(tmp_path_factory.mktemp("home")), "fake")).openapi()


def operations(described: dict[str, Any]) -> Iterator[Operation]:
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def contents(operation: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        yield "body", kind, content
    for status, answer in operation["responses"].items():
        for kind, content in answer.get("content", {}).items():
            yield status, kind, content


def test_each_operation_says_what_it_is_and_what_it_needs(described: dict[str, Any]) -> None:
    bad: list[str] = []
    for path, method, operation in operations(described):
        open_ = operation["x-scope"] == "none"
        fine = (
            operation["summary"] and operation["description"] != operation["summary"] and operation["tags"]
            and (open_ or operation["x-scope"] in ("read", "chat", "mint", "admin"))
            and operation["security"] == ([] if open_ else [{"token": []}])
            and (path not in OPEN or open_)
        )  # fmt: skip
        bad += [] if fine else [f"{method} {path}"]
    assert not bad
    assert sum(1 for _ in operations(described)) > 20


def test_each_error_has_examples_with_codes_of_its_status(described: dict[str, Any]) -> None:
    for path, method, operation in operations(described):
        answers = {status: answer for status, answer in operation["responses"].items() if int(status) >= 400}
        if operation["x-scope"] != "none":
            assert {"400", "401", "403", "404", "429", "500", "503"} <= set(answers), (method, path)
        for status, answer in answers.items() if method != "head" else ():
            examples = answer["content"]["application/json"]["examples"]
            assert examples, (method, path, status)
            for code, one in examples.items():
                assert one["value"]["error"]["code"] == code
                assert ("type" in one["value"]["error"]) == path.startswith("/v1/")


def test_every_example_is_what_its_schema_allows(described: dict[str, Any]) -> None:
    bad: list[str] = []
    checked = 0

    @cache
    def validator_of(schema: bytes) -> jsonschema_rs.Validator:  # most errors have the same one
        shared = {"components": described["components"], "$schema": "https://json-schema.org/draft/2020-12/schema"}
        return jsonschema_rs.validator_for(shared | strict_json(schema))

    for path, method, operation in operations(described):
        for where, kind, content in contents(operation):
            if "json" not in kind or "schema" not in content:
                continue
            validator = validator_of(canonical(content["schema"]))
            given = (
                [content["example"]] if "example" in content else [one["value"] for one in content["examples"].values()]
            )
            assert given
            for value in given:
                checked += 1
                bad += [
                    f"{method} {path} {where}: {error.instance_path} {str(error)[:200]}"
                    for error in validator.iter_errors(value)
                ]
    assert not bad
    assert checked > 100


def test_every_answer_that_has_a_schema_has_an_example(described: dict[str, Any]) -> None:
    for path, method, operation in operations(described):
        for where, kind, content in contents(operation):
            assert {"example", "examples"} & set(content) or not content.get("schema"), (method, path, where, kind)


def test_the_schema_of_what_is_never_answered_is_not_there(described: dict[str, Any]) -> None:
    assert "HTTPValidationError" not in described["components"]["schemas"]


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "integer", "minimum": 5}, 5), ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, 1),
        ({"type": "string", "maxLength": 2}, "te"), ({"enum": ["a", "b"]}, "a"), ({"const": 3}, 3),
        ({"anyOf": [{"type": "null"}, {"type": "boolean"}]}, True),
        ({"type": "array", "items": {"type": "null"}, "minItems": 2}, [None] * 2),
    ],
)  # fmt: skip
def test_examples(schema: dict[str, Any], value: Any) -> None:
    assert example(schema, {}) == value
