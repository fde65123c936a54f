"""Whatever else a backend writes beside its texts: none of it reaches a client, and no key or address hides in what may."""

from __future__ import annotations

import json
from typing import Any

import pytest
from play import chat, play
from poured_streams import DONE, ending, event, pour

from gateway.evidence import Operation, StreamMode
from gateway.ports import UpstreamError
from gateway.schema.answers import MalformedAnswer

SECRET = "AKIA" + "Q3EXAMPLE7XK2MPL"
MAIL = "jane.roe@example.com"
BOTH = f"{SECRET} {MAIL}"


def planted(texts: dict[str, Any]) -> dict[str, Any]:
    """A chat answer or chunk that says `BOTH` wherever it is not asked to say anything."""
    call = {"index": 0, "id": BOTH, "type": BOTH, "function": {"name": "look_up", "arguments": "{}", "note": BOTH}, "note": BOTH}
    said = {
        **texts, "role": BOTH, "name": BOTH, "annotations": [{"type": "url_citation", "url_citation": {"title": BOTH, "url": BOTH}}],
        "audio": {"transcript": BOTH}, "function_call": {"name": BOTH, "arguments": BOTH}, "context": {"citations": [BOTH]},
        "tool_calls": [call], "thinking": BOTH, "reasoning": BOTH,
    }  # fmt: skip
    filters = {"hate": {"filtered": False, "severity": BOTH}, BOTH: {"filtered": True}, "custom_blocklists": {"details": [{"id": BOTH}]}}
    choice = {
        "index": 0, "message": said, "delta": said, "finish_reason": None, "stop_reason": BOTH, "content_filter_results": filters,
        "content_filter_offsets": {"check_offset": 1, BOTH: 2}, "logprobs": {"content": [{"token": BOTH, "logprob": -1.0, "bytes": None}]},
    }  # fmt: skip
    return {
        "id": SECRET, "object": BOTH, "created": 1, "model": BOTH, "system_fingerprint": SECRET, "service_tier": BOTH, "note": BOTH,
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2, BOTH: 1, "completion_tokens_details": {BOTH: 3}},
        "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": filters, "note": BOTH}], "choices": [choice],
    }  # fmt: skip


def clean(raw: bytes) -> bool:
    return SECRET.encode() not in raw and b"jane" not in raw


@pytest.mark.parametrize("mode", list(StreamMode), ids=str)
async def test_a_stream_of_words_beside_the_text(mode: StreamMode) -> None:
    chunk = b"data: " + json.dumps(planted({"content": "All is well. "})).encode() + b"\n\n"
    poured = await pour([chunk, ending(), DONE], mode=mode)
    assert poured.fault is None and not poured.blocked and poured.text() == "All is well. "
    assert clean(poured.raw) and b"look_up" in poured.raw


async def test_a_whole_answer_with_words_beside_the_text() -> None:
    body = planted({"content": "All is well."})
    del body["choices"][0]["delta"]
    played = await play(chat("Please say hello."), [json.dumps(body).encode()])
    assert played.sink.status == 200 and played.json["choices"][0]["message"]["content"] == "All is well."
    assert clean(played.sink.data) and clean(json.dumps(played.sink.headers).encode())
    assert clean(b"".join(played.log.raw)), "nor the record"


async def test_lines_of_events_that_are_no_data() -> None:
    lines = f": {BOTH}\nevent: {BOTH}\nid: {BOTH}\nretry: 5\n{SECRET}: x\n".encode()
    poured = await pour([lines + event("content", "All is well."), f": {BOTH}\n\nevent: {BOTH}\n\n".encode(), ending(), DONE])
    assert poured.text() == "All is well." and clean(poured.raw)


@pytest.mark.parametrize("error", [{"message": BOTH, "type": BOTH, "code": SECRET}, BOTH, [BOTH]], ids=["object", "string", "list"])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_in_place_of_an_answer(error: Any, stream: bool) -> None:
    body = json.dumps({"error": error}).encode()
    answer: list[bytes | Exception] = [event("content", "All "), b"data: " + body + b"\n\n", DONE] if stream else [body]
    played = await play(chat("Please say hello.", stream=stream), answer)
    assert clean(played.sink.data) and clean(b"".join(played.log.raw))
    assert played.sink.status == (200 if stream else 502) and b"[DONE]" not in played.sink.data


async def test_values_where_only_words_or_numbers_stand() -> None:
    """A number is counted, and the words of a closed set are replaced: neither passes as it was written."""
    body = planted({"content": "Well. "})
    body["choices"][0]["finish_reason"] = BOTH
    body["created"] = 4111111111111111
    poured = await pour([b"data: " + json.dumps(body).encode() + b"\n\n", DONE])
    assert clean(poured.raw) and b"4111111111111111" not in poured.raw and poured.finishes == {0: "stop"}


async def test_what_stands_in_no_place_ends_the_stream() -> None:
    for wrong in (b"data: [1]\n\n", b'data: {"choices": 1}\n\n', f'data: "{BOTH}"\n\n'.encode(), b"data: {}{}\n\n"):
        poured = await pour([event("content", "All is "), wrong, event("content", f"well {BOTH} "), DONE])
        assert isinstance(poured.fault, (MalformedAnswer, UpstreamError)) and clean(poured.raw)


async def test_completions_with_words_beside_the_text() -> None:
    o = Operation.COMPLETIONS
    body = planted({})
    body["choices"][0]["text"] = "All is well. "
    poured = await pour([b"data: " + json.dumps(body).encode() + b"\n\n", ending(operation=o), DONE], operation=o)
    assert poured.text() == "All is well. " and clean(poured.raw) and b"look_up" not in poured.raw
