"""What does the data plane look like to a client's tools? An OpenAPI 3.1 description of the routes as configured.

Request schemas are the very ones that are enforced, annotations included; answers are described as far as clients build on
them. Nothing of policy is in it: that a path stands here does not say that a caller may use it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from gateway.evidence import Operation
from gateway.schema.operations.spec import Schema
from gateway.schema.validate import Specs

_PREFIXES = ("/v1", "/openai/v1", "/openai")
_DEPLOYMENT = "/openai/deployments/{deployment}"
_PATHS: Mapping[Operation, str] = {
    Operation.CHAT: "/chat/completions",
    Operation.COMPLETIONS: "/completions",
    Operation.EMBEDDINGS: "/embeddings",
    Operation.MODERATIONS: "/moderations",
}
_STREAMED = frozenset({Operation.CHAT, Operation.COMPLETIONS})
_REFUSALS = {
    "400": "the body is not strict JSON, does not fit its schema, or its content was blocked",
    "401": "no valid credential, or more than one",
    "403": "policy does not permit it, or the quota is spent",
    "404": "no such path, model or deployment",
    "413": "the body is too large",
    "415": "not application/json, or with a content-encoding",
    "429": "the rate limit is exceeded",
    "502": "no backend could answer",
    "503": "overloaded, or an inspector or the audit log is not available",
    "504": "the backend did not answer in time",
}


class DescribedRoute(Protocol):
    """A route as settings hold it."""

    @property
    def model(self) -> str: ...
    @property
    def operations(self) -> Sequence[str]: ...


def build(routes: Iterable[DescribedRoute], specs: Specs | None = None, *, version: str = "0", moderations: bool = True) -> dict[str, Any]:
    """Return the description as a JSON object."""
    specs = specs or Specs()
    models: dict[Operation, list[str]] = {}
    for route in routes:
        for operation in Operation:
            if operation.value in route.operations:
                models.setdefault(operation, []).append(route.model)
    if moderations:
        models.setdefault(Operation.MODERATIONS, [])
    paths: dict[str, Any] = {}
    for operation, path in _PATHS.items():
        if operation in models:
            schema = _with_models(specs.find(operation, "").schema, models[operation])
            paths |= {prefix + path: {"post": _post(operation, schema)} for prefix in _PREFIXES}
            named = _parameter("deployment", models[operation])
            paths[_DEPLOYMENT + path] = {"parameters": [named], "post": _post(operation, schema)}
    for prefix in (*_PREFIXES, _DEPLOYMENT):
        named_too = [_parameter("deployment", [])] if prefix == _DEPLOYMENT else []
        listed = {"get": _get("list the models the caller may use", "ModelList")}
        paths[f"{prefix}/models"] = {"parameters": named_too, **listed} if named_too else listed
        both = [*named_too, _parameter("model", [])]
        paths[f"{prefix}/models/{{model}}"] = {"parameters": both, "get": _get("describe a model", "Model")}
    paths |= _plain_paths(models, specs)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Secure inference gateway", "version": version},
        "paths": paths,
        "components": {"schemas": dict(_COMPONENTS), "securitySchemes": _SECURITY},
        "security": [{"bearer": []}, {"apiKey": []}],
    }


def _plain_paths(models: Mapping[Operation, Sequence[str]], specs: Specs) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for operation, pattern in ((Operation.INFER, "/v2/models/{}/infer"), (Operation.SCORE, "/models/{}/score")):
        for model in models.get(operation, ()):
            if operation is Operation.SCORE and model not in specs.plain():
                continue  # it answers 404 until it has a schema
            spec = specs.find(operation, model)
            answer = spec.answer.schema if spec.answer is not None else {"type": "object"}
            paths[pattern.format(model)] = {"post": _post(operation, spec.schema, answer)}
    return paths


def _with_models(schema: Schema, models: Sequence[str]) -> Schema:
    properties = dict(schema["properties"])
    if models:
        properties["model"] = {**properties["model"], "enum": sorted(models)}
    return {**schema, "properties": properties}


def _parameter(name: str, values: Sequence[str]) -> dict[str, Any]:
    schema: Schema = {"type": "string"}
    if values:
        schema["enum"] = sorted(values)
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _answers(schema: Schema, *, stream: bool = False) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    if stream:
        content["text/event-stream"] = {"schema": {"type": "string", "description": "`data:` events, the last one `[DONE]`"}}
    refused = {"application/json": {"schema": _reference("Error")}}
    return {"200": {"description": "the answer", "content": content}} | {
        status: {"description": text, "content": refused} for status, text in _REFUSALS.items()
    }


def _post(operation: Operation, schema: Schema, answer: Schema | None = None) -> dict[str, Any]:
    return {
        "summary": operation.value,
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": _answers(answer or _reference(_NAMES[operation]), stream=operation in _STREAMED),
    }


def _get(summary: str, name: str) -> dict[str, Any]:
    return {"summary": summary, "responses": _answers(_reference(name))}


_NAMES = {
    Operation.CHAT: "ChatCompletion",
    Operation.COMPLETIONS: "Completion",
    Operation.EMBEDDINGS: "EmbeddingList",
    Operation.MODERATIONS: "Moderation",
}
_SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "api-key"},
}


def _object(properties: Mapping[str, Schema], *required: str) -> Schema:
    return {"type": "object", "properties": dict(properties), "required": list(required)}


_STRING: Schema = {"type": "string"}
_INTEGER: Schema = {"type": "integer"}
_MAYBE: Schema = {"type": ["string", "null"]}
_USAGE = _object({"prompt_tokens": _INTEGER, "completion_tokens": _INTEGER, "total_tokens": _INTEGER})
_CALL = _object({"id": _STRING, "type": {"const": "function"}, "function": _object({"name": _STRING, "arguments": _STRING})})
_MESSAGE = _object(
    {
        "role": {"const": "assistant"},
        "content": _MAYBE,
        "refusal": _MAYBE,
        "reasoning_content": _STRING,
        "tool_calls": {"type": "array", "items": _CALL},
    },
    "role",
    "content",
)
_FINISH: Schema = {"enum": ["stop", "length", "tool_calls", "content_filter"]}
_HEAD = {"id": _STRING, "object": _STRING, "created": _INTEGER, "model": _STRING, "usage": _USAGE}


def _generated(text: Mapping[str, Schema]) -> Schema:
    choice = _object({"index": _INTEGER, "finish_reason": _FINISH, **text}, "index", "finish_reason", *text)
    return _object({**_HEAD, "choices": {"type": "array", "items": choice}}, "id", "object", "created", "model", "choices")


_VECTOR = {"anyOf": [{"type": "array", "items": {"type": "number"}}, {"type": "string", "contentEncoding": "base64"}]}
_ROW = _object({"object": _STRING, "index": _INTEGER, "embedding": _VECTOR}, "index", "embedding")
_MODEL = _object({"id": _STRING, "object": {"const": "model"}, "created": _INTEGER, "owned_by": _STRING}, "id", "object")
_RESULT = _object(
    {
        "flagged": {"type": "boolean"},
        "categories": {"type": "object", "additionalProperties": {"type": "boolean"}},
        "category_scores": {"type": "object", "additionalProperties": {"type": "number", "minimum": 0, "maximum": 1}},
    },
    "flagged",
    "categories",
)
_COMPONENTS: Mapping[str, Schema] = {
    "Error": _object(
        {
            "error": _object(
                {"message": _STRING, "type": _MAYBE, "param": _MAYBE, "code": _STRING, "innererror": {"type": "object"}},
                "message",
                "type",
                "param",
                "code",
            )
        },
        "error",
    ),
    "ChatCompletion": _generated({"message": _MESSAGE}),
    "Completion": _generated({"text": _STRING}),
    "EmbeddingList": _object(
        {"object": {"const": "list"}, "data": {"type": "array", "items": _ROW}, "model": _STRING, "usage": _USAGE}, "object", "data"
    ),
    "Moderation": _object({"id": _STRING, "model": _STRING, "results": {"type": "array", "items": _RESULT}}, "id", "model", "results"),
    "Model": _MODEL,
    "ModelList": _object({"object": {"const": "list"}, "data": {"type": "array", "items": _MODEL}}, "object", "data"),
}
