"""Stream chunks: channels, substitution, and chunks of our own."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.chat import ChatCompletionChunk

from gateway.evidence import Operation
from gateway.schema import chunks
from gateway.schema.answers import BackendError, MalformedAnswer
from gateway.schema.chunks import ChannelText, Chunk, blank, closing, parse_chunk, render, substitute, usage_chunk


def parse(delta: dict[str, Any] | None, operation: Operation = Operation.CHAT, **choice: Any) -> Chunk:
    body = {"index": 0, "finish_reason": None, **choice}
    if delta is not None:
        body["delta"] = delta
    head = {"id": "chatcmpl-1", "object": "x", "created": 5, "model": "gpt-x", "obfuscation": "hunter2", "service_tier": "hunter2"}
    return parse_chunk(operation, json.dumps({**head, "choices": [body]}).encode(), model="assistant")


def written(chunk: Chunk, **more: Any) -> dict[str, Any]:
    data = render(chunk, **more)
    ChatCompletionChunk.model_validate_json(data)  # what the SDK makes of it
    found: dict[str, Any] = json.loads(data)
    return found


def test_an_ordinary_chunk() -> None:
    assert written(parse({"content": " tok"}, logprobs={"content": []})) == {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 5,
        "model": "assistant",
        "choices": [{"index": 0, "delta": {"content": " tok"}, "finish_reason": None}],
    }


def test_channels() -> None:
    calls = [
        {"index": 1, "id": "c1", "type": "function", "function": {"name": "find", "arguments": ""}},
        {"index": 3, "function": {"arguments": '{"a'}},
    ]
    chunk = parse({"role": "assistant", "content": "a", "refusal": "b", "reasoning_content": "c", "tool_calls": calls})
    assert [(text.channel, text.text) for text in chunk.texts] == [
        ("content", "a"),
        ("refusal", "b"),
        ("reasoning", "c"),
        ("tool:1:name", "find"),
        ("tool:3:arguments", '{"a'),
    ]
    assert written(chunk)["choices"][0]["delta"]["tool_calls"][0]["id"] == "c1"


def test_the_opening_chunk_keeps_its_empty_content() -> None:
    chunk = parse({"role": "Ada", "content": ""})
    assert chunk.texts == []
    assert not chunk.is_idle
    assert written(chunk)["choices"][0]["delta"] == {"role": "assistant", "content": ""}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"[]",
        b'{"choices":[{"delta":{"content":5}}]}',
        b'{"choices":[{"delta":"x"}]}',
        b'{"choices":[{"index":-1}]}',
        b'{"choices":[{"index":128}]}',
        b'{"choices":[{"index":0},{"index":0}]}',
        b'{"choices":[{"delta":{"tool_calls":[{"index":128}]}}]}',
        b'{"choices":[{"delta":{"tool_calls":[{"index":0},{"index":0}]}}]}',
        b'{"choices":[{"delta":{"tool_calls":[{"function":{"name":"a b"}}]}}]}',
        b'{"choices":[{"delta":{"content":"\\ud83d"}}]}',
        b'{"choices":' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"x":"' + b"a" * chunks.MAX_CHUNK_BYTES + b'"}',
    ],
)
def test_malformed(data: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        parse_chunk(Operation.CHAT, data, model="m")


def test_an_error_event() -> None:
    with pytest.raises(BackendError):
        parse_chunk(Operation.CHAT, b'{"error":{"message":"hunter2"}}', model="m")


def test_azure_annotations_without_delta() -> None:
    first = b'{"id":"","object":"","created":0,"prompt_filter_results":[{"prompt_index":0,"content_filter_results":{}}],"choices":[]}'
    chunk = parse_chunk(Operation.CHAT, first, model="m")
    assert not chunk.is_idle
    assert written(chunk)["prompt_filter_results"] == [{"prompt_index": 0, "content_filter_results": {}}]
    offsets = {"check_offset": 44, "start_offset": 44, "end_offset": 198, "leak": "x"}
    late = parse(None, content_filter_results={"hate": {"filtered": False, "severity": "safe"}}, content_filter_offsets=offsets)
    assert not late.is_idle
    choice = json.loads(render(late))["choices"][0]
    assert "delta" not in choice
    assert choice["content_filter_offsets"] == {"check_offset": 44, "start_offset": 44, "end_offset": 198}


def test_usage_passes_only_to_who_asked() -> None:
    data = b'{"id":"c","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3,"leak":"hunter2"}}'
    chunk = parse_chunk(Operation.CHAT, data, model="m")
    assert chunk.usage == {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    assert not chunk.is_idle
    assert written(chunk, include_usage=True)["usage"] == chunk.usage
    assert "usage" not in json.loads(render(chunk))
    assert written(parse({"content": "x"}), include_usage=True)["usage"] is None


def test_substitution_leaves_nothing_of_the_original() -> None:
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "hunter2", "arguments": "hunter2"}}
    texts = {"content": "hunter2", "refusal": "hunter2", "reasoning_content": "hunter2"}
    for delta in ({"content": "hunter2"}, texts, {"tool_calls": [call]}, {**texts, "tool_calls": [call]}):
        chunk = parse(delta)
        substitute(chunk, [])
        assert b"hunter2" not in render(chunk)
    assert not chunk.is_idle, "the call's id must still leave"
    idle = parse({"content": "hunter2"})
    substitute(idle, [])
    assert idle.is_idle
    late = parse({"tool_calls": [{"index": 0, "function": {"arguments": "hunter2"}}]})
    substitute(late, [])
    assert late.is_idle


def test_a_chunk_may_carry_text_of_other_channels_and_choices() -> None:
    chunk = parse({"content": "a"})
    given = [
        ChannelText(0, "refusal", "b"),
        ChannelText(0, "tool:2:arguments", "{}"),
        ChannelText(1, "content", "c"),
        ChannelText(1, "reasoning", "d"),
    ]
    substitute(chunk, given)
    first, second = written(chunk)["choices"]
    assert first["delta"] == {"content": "", "refusal": "b", "tool_calls": [{"index": 2, "function": {"arguments": "{}"}}]}
    assert second == {"index": 1, "delta": {"content": "c", "reasoning_content": "d"}, "finish_reason": None}
    assert parse_chunk(Operation.CHAT, render(chunk), model="m").texts == [given[0], given[1], given[2], given[3]]
    with pytest.raises(ValueError, match="channel"):
        substitute(chunk, [ChannelText(0, "tool:x:name", "y")])


def test_the_common_substitution() -> None:
    chunk = parse({"content": "secret"})
    substitute(chunk, [ChannelText(0, "content", "<SECRET>")])
    assert written(chunk)["choices"][0]["delta"] == {"content": "<SECRET>"}
    assert chunk.texts == [ChannelText(0, "content", "<SECRET>")]


def test_completions_have_one_channel() -> None:
    data = b'{"id":"c","choices":[{"index":2,"text":"a","logprobs":{"tokens":["hunter2"]},"finish_reason":"length"}]}'
    chunk = parse_chunk(Operation.COMPLETIONS, data, model="m")
    assert chunk.texts == [ChannelText(2, "content", "a")]
    assert chunk.finish_reasons == {2: "length"}
    substitute(chunk, [ChannelText(2, "content", "b"), ChannelText(0, "content", "z")])
    body = json.loads(render(chunk))
    assert body["object"] == "text_completion"
    assert [(choice["index"], choice["text"]) for choice in body["choices"]] == [(2, "b"), (0, "z")]
    assert json.loads(render(closing(chunk, [2], "content_filter")))["choices"] == [
        {"index": 2, "text": "", "finish_reason": "content_filter"}
    ]


def test_text_of_the_other_operation_does_not_pass() -> None:
    both = b'{"choices":[{"index":0,"text":"hunter2","delta":{"content":"hunter2"}}]}'
    chat = parse_chunk(Operation.CHAT, both, model="m")
    legacy = parse_chunk(Operation.COMPLETIONS, both, model="m")
    for chunk in (chat, legacy):
        assert [text.channel for text in chunk.texts] == ["content"]
        substitute(chunk, [])
        assert b"hunter2" not in render(chunk)


def test_chunks_of_our_own() -> None:
    like = parse({"content": "hunter2"}, system_fingerprint="x")
    assert written(blank(like))["choices"] == []
    ending = written(closing(like, [0, 1], "content_filter"))
    assert [(choice["delta"], choice["finish_reason"]) for choice in ending["choices"]] == [({}, "content_filter")] * 2
    usage = written(usage_chunk(like, 3, 4), include_usage=True)
    assert usage["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    opened = chunks.opening(Operation.CHAT, "chatcmpl-2", 7, "assistant")
    assert written(closing(opened, [0], "content_filter"))["id"] == "chatcmpl-2"
