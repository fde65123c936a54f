"""Answers in their closed shape: what passes, what is dropped, what breaks the exchange."""

from __future__ import annotations

import array
import base64
import json
from typing import Any

import pytest

from gateway.evidence import Operation, Use
from gateway.schema.answers import BackendError, MalformedAnswer, answer_segments, drop_logprobs, parse_answer, withhold
from gateway.schema.operations import plain

CHAT = Operation.CHAT


def parse(body: Any, operation: Operation = CHAT, **more: Any) -> dict[str, Any]:
    return parse_answer(operation, body if isinstance(body, bytes) else json.dumps(body).encode(), model="assistant", **more)


def answer(message: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": message or {"role": "assistant", "content": "hi"}, "finish_reason": "stop", **more.pop("choice", {})}
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 5, "model": "gpt-x", "choices": [choice], **more}


def test_the_closed_shape() -> None:
    got = parse(answer(usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "leak": "x"}, leak="x", service_tier="x"))
    assert got == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 5,
        "model": "assistant",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hi", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }


def test_ids_finish_reasons_and_times_are_replaced_when_they_are_text() -> None:
    got = parse(
        answer(choice={"finish_reason": "my name is Ada"}) | {"id": "my name is Ada", "created": "Ada", "system_fingerprint": "A b"}
    )
    assert (got["id"], got["created"], got["choices"][0]["finish_reason"]) == ("chatcmpl-0", 0, "stop")
    assert "system_fingerprint" not in got


def test_texts_of_a_message() -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"a":1}'}}, {"function": {"name": "go"}}]
    got = parse(answer({"content": "a", "refusal": "b", "reasoning_content": "c", "tool_calls": calls, "audio": {"transcript": "x"}}))
    assert [(s.text, s.use) for s in answer_segments(CHAT, got)] == [
        ("a", Use.CONTENT),
        ("b", Use.CONTENT),
        ("c", Use.CONTENT),
        ("find", Use.LABEL),
        ('{"a":1}', Use.ARGUMENTS),
        ("go", Use.LABEL),
    ]
    assert got["choices"][0]["message"]["tool_calls"][1]["id"] == "call_1"
    for segment in answer_segments(CHAT, got):
        node: Any = got
        for step in segment.path:
            node = node[step]
        assert node == segment.text


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"choices":[]}',
        b'{"choices":[{}]}',
        b'{"choices":[{"message":{"content":5}}]}',
        b'{"choices":[{"message":{"content":["a"]}}]}',
        b'{"choices":[{"message":{"tool_calls":[{}]}}]}',
        b'{"choices":[{"message":{"tool_calls":[{"function":{"name":"a b"}}]}}]}',
        b'{"choices":[{"message":{"tool_calls":[{"function":{"name":"a","arguments":{}}}]}}]}',
        b'{"choices":[{"index":-1,"message":{}}]}',
        b'{"choices":[{"index":0,"message":{}},{"index":0,"message":{}}]}',
        b'{"choices":[{"message":{"content":"\\ud800"}}]}',
        b'{"choices":[{"message":{"content":"\xff"}}]}',
        b'{"x":' + b"[" * 50_000 + b"]" * 50_000 + b',"choices":[{"message":{}}]}',  # beyond what any interpreter recurses
        b'{"choices":[{"message":{}}],"usage":NaN}',
    ],
)
def test_malformed(body: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        parse(body)


def test_an_error_body_is_told_apart_and_not_quoted() -> None:
    with pytest.raises(BackendError) as caught:
        parse(answer(error={"message": "hunter2 at 10.0.0.7"}))
    assert "hunter2" not in str(caught.value)


def test_faults_name_no_content() -> None:
    with pytest.raises(MalformedAnswer) as caught:
        parse(b'{"choices":[{"message":{"content":{"hunter2":1}}}]}')
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_filters_keep_flags_and_severities_only() -> None:
    filters = {
        "hate": {"filtered": False, "severity": "safe", "text": "x"},
        "violence": {"filtered": "yes", "severity": "hunter2"},
        "protected_material_code": {"filtered": False, "detected": True, "citation": {"URL": "http://x", "license": "x"}},
        "custom_blocklists": {"filtered": True, "details": [{"id": "hunter2"}]},
        "hunter2": {"filtered": True},
        "error": {"code": "x", "message": "hunter2"},
    }
    prompt = [{"prompt_index": 0, "content_filter_results": filters, "x": 1}, "x"]
    got = parse(answer(choice={"content_filter_results": filters}, prompt_filter_results=prompt))
    clean = got["choices"][0]["content_filter_results"]
    assert clean["hate"] == {"filtered": False, "severity": "safe"}
    assert clean["violence"] == {}
    assert clean["protected_material_code"] == {"filtered": False, "detected": True}
    assert clean["custom_blocklists"] == {"filtered": True}
    assert clean["error"]["code"] == "content_filter_error"
    assert "hunter2" not in json.dumps(got)
    assert [one["prompt_index"] for one in got["prompt_filter_results"]] == [0]


def test_logprobs_only_when_granted_and_in_shape() -> None:
    entry = {"token": "hi", "logprob": -0.5, "bytes": [104, 105], "top_logprobs": [{"token": "ho", "logprob": -2, "leak": 1}], "leak": "x"}
    body = answer(choice={"logprobs": {"content": [entry], "leak": "x"}})
    assert parse(body)["choices"][0]["logprobs"] is None
    kept = parse(body, logprobs=True)
    clean = {"token": "hi", "logprob": -0.5, "bytes": [104, 105], "top_logprobs": [{"token": "ho", "logprob": -2, "bytes": None}]}
    assert kept["choices"][0]["logprobs"] == {"content": [clean]}
    drop_logprobs(kept)
    assert kept["choices"][0]["logprobs"] is None


def test_withholding_leaves_no_text() -> None:
    got = parse(answer({"content": "hunter2", "tool_calls": [{"function": {"name": "f", "arguments": "hunter2"}}]}))
    withhold(got)
    assert "hunter2" not in json.dumps(got)
    assert got["choices"][0]["finish_reason"] == "content_filter"
    legacy = parse({"choices": [{"text": "hunter2"}]}, Operation.COMPLETIONS)
    assert [s.path for s in answer_segments(Operation.COMPLETIONS, legacy)] == [("choices", 0, "text")]
    withhold(legacy)
    assert legacy["choices"][0] == {"index": 0, "text": "", "logprobs": None, "finish_reason": "content_filter"}


def floats(*numbers: float) -> str:
    return base64.b64encode(array.array("f", numbers).tobytes()).decode()


@pytest.mark.parametrize("vector", [[0.5, -1, 0], floats(0.5, -1.0)])
def test_vectors_pass_as_they_came(vector: Any) -> None:
    got = parse(
        {"data": [{"embedding": vector, "index": 0, "leak": "x"}], "model": "x", "usage": {"prompt_tokens": 3}}, Operation.EMBEDDINGS
    )
    assert got == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": vector}],
        "model": "assistant",
        "usage": {"prompt_tokens": 3},
    }


@pytest.mark.parametrize(
    "vector",
    [
        [],
        "",
        "my name is Ada",
        base64.b64encode(b"my name is Ada!!").decode(),  # four floats, of a size no component has
        base64.b64encode(b"abcde").decode(),
        floats(float("nan"), 0.0),
        floats(0.0, float("nan")),
        floats(float("inf")),
        [1e300],
        ["a"],
        [[0.5]],
    ],
)
def test_what_is_no_vector(vector: Any) -> None:
    with pytest.raises(MalformedAnswer):
        parse({"data": [{"embedding": vector}]}, Operation.EMBEDDINGS)


def test_inferred_tensors() -> None:
    outputs = [
        {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["a", ["b"]], "parameters": {"x": "y"}},
        {"name": "p", "datatype": "FP32", "shape": [1], "data": [0.5]},
    ]
    got = parse({"model_name": "x", "model_version": "1", "id": "my name", "outputs": outputs}, Operation.INFER)
    assert got["model_name"] == "assistant"
    assert "id" not in got
    assert "parameters" not in got["outputs"][0]
    assert [s.text for s in answer_segments(Operation.INFER, got)] == ["label", "p", "a", "b"]
    for wrong in (
        {"name": "p", "datatype": "FP32", "shape": [1], "data": ["text"]},
        {"name": "my name", "datatype": "FP32", "shape": [1], "data": [1]},
        {"name": "p", "datatype": "TEXT", "shape": [1], "data": [1]},
        {"name": "p", "datatype": "BYTES", "shape": [1], "data": [{"a": "b"}]},
        {"name": "p", "datatype": "BYTES", "shape": [1], "data": [[[[["deep"]]]]]},
        {"name": "p", "datatype": "FP32", "shape": [-1], "data": [1]},
    ):
        with pytest.raises(MalformedAnswer):
            parse({"outputs": [wrong]}, Operation.INFER)


def test_scores_without_a_schema_are_numbers() -> None:
    body = {"score": 0.5, "label": "hunter2", "ok": True, "deep": [{"p": 1, "q": "hunter2"}, "hunter2", None], "my name is Ada": 1}
    assert parse(body, Operation.SCORE) == {"score": 0.5, "ok": True, "deep": [{"p": 1}, None]}
    for wrong in (b"[1]", b'{"a":1,"a":2}', b'{"a":1e999}'):
        with pytest.raises(MalformedAnswer):
            parse(wrong, Operation.SCORE)


def test_scores_by_the_routes_schema() -> None:
    text = {"type": "string", "maxLength": 10, "x-inspect": {"role": "assistant", "use": "content"}}
    request = {"type": "object", "additionalProperties": False, "properties": {}}
    reply = {"type": "object", "additionalProperties": False, "required": ["label"], "properties": {"label": text, "p": {"type": "number"}}}
    spec = plain.load(Operation.SCORE, json.dumps(request).encode(), json.dumps(reply).encode())
    got = parse({"label": "spam", "p": 0.5, "leak": "hunter2"}, Operation.SCORE, spec=spec)
    assert got == {"label": "spam", "p": 0.5}
    assert [(s.path, s.text) for s in answer_segments(Operation.SCORE, got, spec)] == [(("label",), "spam")]
    for wrong in ({"p": 1}, {"label": "x" * 11}, {"label": 5}):
        with pytest.raises(MalformedAnswer):
            parse(wrong, Operation.SCORE, spec=spec)


@pytest.mark.parametrize("operation", [Operation.MODERATIONS, Operation.MODELS_LIST, Operation.MODELS_GET])
def test_operations_no_backend_answers(operation: Operation) -> None:
    with pytest.raises(MalformedAnswer):
        parse({}, operation)
