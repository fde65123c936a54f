"""Whatever a backend sends, an answer or chunk is in its closed shape or malformed, and substitution is exact."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.evidence import Operation
from gateway.schema.answers import MalformedAnswer, answer_segments, parse_answer
from gateway.schema.chunks import ChannelText, parse_chunk, render, substitute

NAMES = ["choices", "index", "delta", "message", "content", "text", "tool_calls", "function", "name", "arguments", "usage", "id", "error"]
NODES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from(NAMES), below, max_size=4),
    max_leaves=16,
)
OPERATIONS = st.sampled_from([Operation.CHAT, Operation.COMPLETIONS, Operation.EMBEDDINGS, Operation.INFER, Operation.SCORE])


@settings(max_examples=400, deadline=None)
@given(OPERATIONS, NODES.map(lambda node: json.dumps(node).encode()) | st.binary(max_size=80))
def test_an_answer_is_closed_or_malformed(operation: Operation, data: bytes) -> None:
    try:
        answer = parse_answer(operation, data, model="m", logprobs=True)
    except MalformedAnswer:
        return
    again = json.dumps(answer).encode()
    assert parse_answer(operation, again, model="m", logprobs=True) == answer
    for segment in answer_segments(operation, answer):
        node: Any = answer
        for step in segment.path:
            node = node[step]
        assert segment.text == (segment.path[-1] if operation is Operation.SCORE else node)  # of plain answers the names of values


@settings(max_examples=400, deadline=None)
@given(st.sampled_from([Operation.CHAT, Operation.COMPLETIONS]), NODES.map(lambda node: json.dumps(node).encode()) | st.binary(max_size=80))
def test_a_chunk_is_closed_or_malformed(operation: Operation, data: bytes) -> None:
    try:
        chunk = parse_chunk(operation, data, model="m")
    except MalformedAnswer:
        return
    texts = list(chunk.texts)
    again = parse_chunk(operation, render(chunk), model="m")
    assert again.texts == texts
    assert render(again) == render(chunk)
    substitute(chunk, texts)
    assert parse_chunk(operation, render(chunk), model="m").texts == texts


CHANNELS = ["content", "refusal", "reasoning", "tool:0:name", "tool:0:arguments", "tool:7:arguments"]
PIECES = st.lists(
    st.builds(ChannelText, st.integers(0, 2), st.sampled_from(CHANNELS), st.sampled_from(["a", "bc", "d.e"])),
    max_size=5,
    unique_by=lambda piece: (piece.choice, piece.channel),
)


@settings(max_examples=300, deadline=None)
@given(PIECES, PIECES)
def test_after_substitution_a_chunk_says_exactly_what_was_given(first: list[ChannelText], second: list[ChannelText]) -> None:
    chunk = parse_chunk(Operation.CHAT, b'{"id":"c","choices":[]}', model="m")
    key = lambda piece: (piece.choice, piece.channel, piece.text)  # noqa: E731
    for given_texts in (first, second, []):
        substitute(chunk, given_texts)
        assert sorted(parse_chunk(Operation.CHAT, render(chunk), model="m").texts, key=key) == sorted(given_texts, key=key)
    assert chunk.is_idle
