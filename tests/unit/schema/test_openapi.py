"""The description of the data plane says what is configured, and is a description."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import jsonschema_rs
import pytest

from gateway.evidence import Operation
from gateway.schema import openapi
from gateway.schema.operations import plain
from gateway.schema.validate import Specs


class Route(NamedTuple):
    model: str
    operations: tuple[str, ...]


ROUTES = (
    Route("assistant", ("chat.completions", "responses")),
    Route("embed", ("embeddings",)),
    Route("stars", ("score",)),
    Route("tensor", ("infer",)),
)
SCORE = {"type": "object", "additionalProperties": False, "properties": {"p": {"type": "number"}}}


def build() -> dict[str, Any]:
    spec = plain.load(Operation.SCORE, json.dumps(SCORE).encode(), json.dumps(SCORE).encode())
    return openapi.build(ROUTES, Specs({"stars": spec}), version="1.2")


def test_paths_follow_the_routes() -> None:
    paths = build()["paths"]
    assert {"/v1/chat/completions", "/openai/v1/chat/completions", "/openai/deployments/{deployment}/chat/completions"} <= paths.keys()
    assert {
        "/v1/embeddings",
        "/v1/moderations",
        "/v1/models",
        "/v1/models/{model}",
        "/models/stars/score",
        "/v2/models/tensor/infer",
    } <= paths.keys()
    assert "/v1/completions" not in paths
    assert "/models/stars/score" not in openapi.build(ROUTES)["paths"], "a route without schema answers 404"
    chat = paths["/v1/chat/completions"]["post"]
    schema = chat["requestBody"]["content"]["application/json"]["schema"]
    assert schema["properties"]["model"]["enum"] == ["assistant"]
    assert "text/event-stream" in chat["responses"]["200"]["content"]
    assert "text/event-stream" not in paths["/v1/embeddings"]["post"]["responses"]["200"]["content"]


def walk(node: Any) -> Any:
    yield node
    for below in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from walk(below)


def test_it_is_json_and_every_reference_and_schema_holds() -> None:
    description = json.loads(json.dumps(build()))
    components = description["components"]["schemas"]
    for node in walk(description):
        if isinstance(node, dict) and "$ref" in node:
            assert node["$ref"].removeprefix("#/components/schemas/") in components
        if isinstance(node, dict) and "schema" in node:
            jsonschema_rs.meta.validate(node["schema"])
    for schema in components.values():
        jsonschema_rs.meta.validate(schema)
    assert description["openapi"] == "3.1.0"


@pytest.mark.parametrize("status", ["400", "401", "403", "404", "413", "415", "429", "502", "503", "504"])
def test_every_refusal_is_described(status: str) -> None:
    assert status in build()["paths"]["/v1/chat/completions"]["post"]["responses"]
