"""Completions, embeddings, moderations, models and the plain operations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from asked_bodies import permit

from gateway.evidence import Operation, ValidRequest
from gateway.refusals import DEPLOYMENT_NOT_FOUND, Refusal
from gateway.schema.operations import plain
from gateway.schema.validate import Specs, validate


class Letters:
    """A tokenizer whose ids are letters of the alphabet."""

    name = "letters"

    def count(self, text: str) -> int:
        return len(text)

    def decode(self, tokens: Sequence[int]) -> str | None:
        return "".join(chr(97 + token) for token in tokens) if all(0 <= token < 26 for token in tokens) else None


def valid(operation: Operation, body: dict[str, Any], *, specs: Specs | None = None, letters: bool = True, **more: Any) -> ValidRequest:
    return validate(permit(body, operation, **more), specs or Specs(), Letters() if letters else None)


def refused(operation: Operation, body: dict[str, Any], **more: Any) -> str | None:
    with pytest.raises(Refusal) as caught:
        valid(operation, body, **more)
    assert caught.value.kind.status == 400
    return caught.value.param


def texts(request: ValidRequest) -> list[str]:
    return [segment.text for segment in request.segments]


# --- completions and embeddings ---


@pytest.mark.parametrize(("operation", "field"), [(Operation.COMPLETIONS, "prompt"), (Operation.EMBEDDINGS, "input")])
def test_text_and_token_arrays_are_inspected_and_sent_as_text(operation: Operation, field: str) -> None:
    for given, sent in (
        ("abc", "abc"),
        (["abc", "d"], ["abc", "d"]),
        ([0, 1, 2.0], "abc"),
        ([[0, 1, 2], [3]], ["abc", "d"]),
    ):
        request = valid(operation, {field: given})
        assert request.body[field] == sent
        assert texts(request) == ([sent] if isinstance(sent, str) else sent)


@pytest.mark.parametrize(("operation", "field"), [(Operation.COMPLETIONS, "prompt"), (Operation.EMBEDDINGS, "input")])
def test_token_arrays_that_are_no_text_are_refused(operation: Operation, field: str) -> None:
    assert refused(operation, {field: [0, 99]}) == field
    assert refused(operation, {field: [[0], [99]]}) == f"{field}[1]"
    assert refused(operation, {field: [0, 1]}, letters=False) == field
    for mixed in ([0, "a"], [[0], "a"], [], [[]], [True], [-1], [1.5], 5, {"a": 1}, [[[0]]]):
        param = refused(operation, {field: mixed})
        assert param is not None
        assert param.split("[")[0] == field


def test_completion_options() -> None:
    body = {"prompt": ["a", "b"], "suffix": "s", "stop": "t", "n": 2, "best_of": 3, "max_tokens": 10, "user": "bob"}
    request = valid(Operation.COMPLETIONS, body, grants={"n"})
    assert texts(request) == ["a", "b", "s", "t"]
    assert request.output_tokens == 10 * 3 * 2
    assert "user" not in request.body
    assert valid(Operation.COMPLETIONS, {"prompt": "a"}).body["max_tokens"] == 256
    assert refused(Operation.COMPLETIONS, {"prompt": "a", "max_tokens": 2000}) == "max_tokens"
    for field, value, grant in (("best_of", 2, "n"), ("echo", True, "logprobs"), ("logprobs", 0, "logprobs")):
        assert refused(Operation.COMPLETIONS, {"prompt": "a", field: value}) == field
        assert valid(Operation.COMPLETIONS, {"prompt": "a", field: value}, grants={grant}).body[field] == value
    assert refused(Operation.COMPLETIONS, {"prompt": "a", "best_of": 2, "stream": True}, grants={"n"}) == "best_of"


def test_embedding_options() -> None:
    request = valid(Operation.EMBEDDINGS, {"input": "a", "dimensions": 256.0, "encoding_format": "base64", "user": "bob"})
    assert request.body == {"input": "a", "dimensions": 256, "encoding_format": "base64", "model": "assistant"}
    assert request.output_tokens == 0
    assert refused(Operation.EMBEDDINGS, {"input": ""}) == "input"
    assert refused(Operation.EMBEDDINGS, {"input": "a", "stream": True}) == "$"


# --- moderations, models ---


def test_moderation_inputs_pair_up_with_segments() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    for given, expected in (("a", ["a"]), (["a", "b"], ["a", "b"]), (parts, ["a", "b"])):
        assert texts(valid(Operation.MODERATIONS, {"input": given})) == expected
    assert refused(Operation.MODERATIONS, {"input": ["a", ""]}) is not None
    assert refused(Operation.MODERATIONS, {"input": [{"type": "image_url", "image_url": {"url": "x"}}]}) is not None


@pytest.mark.parametrize(("given", "role"), [(None, "user"), ("user", "user"), ("assistant", "assistant"), ("document", "document")])
def test_moderation_roles(given: str | None, role: str) -> None:
    body = {"input": "a"} if given is None else {"input": "a", "role": given}
    assert valid(Operation.MODERATIONS, body).segments[0].role.value == role
    assert refused(Operation.MODERATIONS, {"input": "a", "role": "system"}) == "role"


def test_listing_models_takes_no_body() -> None:
    assert valid(Operation.MODELS_LIST, {}).segments == ()
    assert refused(Operation.MODELS_GET, {"x": 1}) == "$"


# --- Open Inference Protocol ---


def tensor(datatype: str, data: list[Any], **more: Any) -> dict[str, Any]:
    return {"name": "x", "shape": [len(data)], "datatype": datatype, "data": data, **more}


def test_bytes_tensors_are_read_and_numbers_need_the_grant() -> None:
    body = {"id": "r1", "inputs": [tensor("BYTES", ["a", ["b", ["c"]]], shape=[3.0])], "outputs": [{"name": "y"}]}
    request = valid(Operation.INFER, body | {"parameters": {"binary_data_output": False}})
    assert texts(request) == ["r1", "x", "a", "b", "c", "y"]
    assert request.body["inputs"][0]["shape"] == [3]
    assert type(request.body["inputs"][0]["shape"][0]) is int
    assert "parameters" not in request.body
    numbers = {"inputs": [tensor("FP32", [1.5, [2]])]}
    assert refused(Operation.INFER, numbers) == "inputs[0].data"
    assert valid(Operation.INFER, numbers, grants={"uninspected"}).uninspected == ("inputs[0].data",)


@pytest.mark.parametrize(
    "wrong",
    [
        tensor("BYTES", [1]),
        tensor("FP32", ["text"]),
        tensor("FP32", [[["text"]]]),
        tensor("TEXT", ["a"]),
        tensor("BYTES", [[[[["too deep"]]]]]),
        tensor("BYTES", ["a"], parameters={}),
        tensor("BYTES", [{"a": "b"}]),
    ],
)
def test_other_tensors_do_not_fit(wrong: dict[str, Any]) -> None:
    param = refused(Operation.INFER, {"inputs": [wrong]}, grants={"uninspected"})
    assert param is not None
    assert param.startswith("inputs[0]")


# --- routes with a schema ---

REVIEW = {"type": "string", "maxLength": 100, "x-inspect": {"role": "user", "use": "content"}}
REQUEST = {
    "type": "object",
    "required": ["rows"],
    "additionalProperties": False,
    "properties": {
        "rows": {
            "type": "array",
            "maxItems": 3,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "properties": {"review": REVIEW, "stars": {"type": ["integer", "null"]}, "lang": {"type": "string", "enum": ["en", "de"]}},
            },
        }
    },
}


def load(request: Any, answer: Any = None) -> Any:
    return plain.load(Operation.SCORE, json.dumps(request).encode(), json.dumps(answer).encode() if answer is not None else None)


def test_a_route_names_its_texts_by_its_schema() -> None:
    specs = Specs({"stars": load(REQUEST)})
    body = {"rows": [{"review": "good", "stars": 5}, {"review": "bad", "lang": "en", "stars": None}]}
    request = valid(Operation.SCORE, body, specs=specs, model="stars")
    assert [(s.path, s.text) for s in request.segments] == [(("rows", 0, "review"), "good"), (("rows", 1, "review"), "bad")]
    for wrong in ({"rows": [{"note": "x"}]}, {"rows": [{}] * 4}, {"rows": [{"review": "x" * 101}]}, {}, {"rows": [{"lang": "hunter2"}]}):
        param = refused(Operation.SCORE, wrong, specs=specs, model="stars")
        assert param is not None
        assert param.startswith(("rows", "$"))


def test_a_route_without_schema_is_not_there() -> None:
    with pytest.raises(Refusal) as caught:
        valid(Operation.SCORE, {})
    assert caught.value.kind is DEPLOYMENT_NOT_FOUND
    with pytest.raises(Refusal):
        valid(Operation.SCORE, {}, specs=Specs({"other": load(REQUEST)}))


def obj(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": properties}


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "array", "items": REVIEW, "maxItems": 1}, "top level"),
        ({"type": "object", "properties": {}}, "additionalProperties"),
        ({"type": "object", "additionalProperties": False}, "properties"),
        (obj(a={"type": "string", "maxLength": 5}), "x-inspect"),
        (obj(a={"type": "string", "maxLength": 5, "x-inspect": {"role": "user"}}), "x-inspect"),
        (obj(a={"type": "string", "maxLength": 5, "x-inspect": {"role": "boss", "use": "content"}}), "x-inspect"),
        (obj(a={"type": "string", "maxLength": 5, "x-inspect": {"role": [], "use": "content"}}), "x-inspect"),
        (obj(a={"type": "string", "x-inspect": REVIEW["x-inspect"]}), "maxLength"),
        (obj(a={"type": "array", "items": REVIEW}), "maxItems"),
        (obj(a={"type": "array", "maxItems": 1}), "must be a schema"),
        (obj(a={}), "type"),
        (obj(a={"type": ["string", "number"]}), "type"),
        (obj(a={"type": "text"}), "type"),
        (obj(a={"$ref": "#/x"}), "type"),
        (obj(a={"type": "number", "anyOf": []}), "anyOf"),
        (obj(a={"type": "object", "properties": {}, "additionalProperties": False, "patternProperties": {".*": {}}}), "patternProperties"),
        (obj(a={"type": "string", "maxLength": 5, "x-inspect": REVIEW["x-inspect"], "pattern": "("}), "not a JSON Schema"),
        (obj(a=True), "must be a schema"),
        ([], "not_object"),
    ],
)
def test_schemas_that_hide_text_do_not_load(schema: Any, says: str) -> None:
    with pytest.raises(plain.SchemaFaults, match=says):
        load(schema)


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(plain.SchemaFaults) as caught:
        load(obj(a={"type": "string"}, b={"type": "array"}), obj(c={}))
    assert len(caught.value.faults) == 5
    with pytest.raises(plain.SchemaFaults, match="duplicate_key"):
        plain.load(Operation.SCORE, b'{"type":"object","type":"object"}', None)
