"""No second parser reads an accepted body otherwise; what leaves says what was checked; nothing but refusals is raised."""

from __future__ import annotations

import json
from typing import Any

from asked_bodies import permit
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.evidence import Operation
from gateway.refusals import Refusal
from gateway.schema import strict_json
from gateway.schema.validate import BUILT_IN, Specs, replace_all, validate


class Pairs(list[tuple[str, Any]]):
    """An object as a list of pairs, so that keys may repeat."""


TEXT = st.text(max_size=12)
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | TEXT
KEYS = st.sampled_from(["model", "Model", "MODEL", "ｍodel", "messages", "max_tokens", "Max_Tokens", "stream", "ſtream", "\u0000"]) | TEXT
VALUES = st.recursive(
    SCALARS, lambda below: st.lists(below, max_size=4) | st.lists(st.tuples(KEYS, below), max_size=4).map(Pairs), max_leaves=12
)


def write(node: Any) -> str:
    if isinstance(node, Pairs):
        return "{" + ",".join(f"{json.dumps(key)}:{write(value)}" for key, value in node) + "}"
    if isinstance(node, list):
        return "[" + ",".join(map(write, node)) + "]"
    return json.dumps(node)


def first_wins_without_case(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Read as a careless parser does: names matched without regard to case, the first of a kind kept."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        found.setdefault(strict_json.fold(key), value)
    return found


def last_wins_without_case(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {strict_json.fold(key): value for key, value in pairs}


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(KEYS, VALUES), max_size=5).map(Pairs))
def test_every_parser_reads_an_accepted_body_alike(body: Pairs) -> None:
    data = write(body).encode("utf-8", "surrogatepass")
    try:
        read = strict_json.parse(data, 1_000_000)
    except Refusal:
        return
    assert json.loads(data) == read
    folded = json.loads(data, object_pairs_hook=first_wins_without_case)
    assert folded == json.loads(data, object_pairs_hook=last_wins_without_case)
    for field in ("model", "messages", "max_tokens", "stream"):
        if field in read:
            assert json.dumps(folded[field]) == json.dumps(json.loads(json.dumps(read[field]), object_pairs_hook=first_wins_without_case))
    assert strict_json.parse(strict_json.dump(read), 1_000_000) == read


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_refused_or_read(data: bytes) -> None:
    for body in (data, b'{"a":' + data + b"}"):
        try:
            assert isinstance(strict_json.parse(body, 1_000), dict)
        except Refusal as refusal:
            assert refusal.detail in {"syntax", "duplicate_key", "key", "number", "depth", "not_object"}


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT.filter(lambda text: text.isprintable()),
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "text", "content", "role", "name", "url"]), below, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_mutated_request_is_valid_or_refused_with_our_words(data: st.DataObject) -> None:
    operation = data.draw(st.sampled_from(sorted(BUILT_IN)))
    spec = BUILT_IN[operation]
    fields = sorted(spec.schema["properties"])
    body: dict[str, Any] = {}
    if operation is Operation.CHAT:
        body = {"messages": [{"role": "user", "content": "hello"}]}
    for field in data.draw(st.lists(st.sampled_from(fields), max_size=4)) if fields else ():
        body[field] = data.draw(PLAIN)
    try:
        request = validate(permit(body, operation, grants={"n", "logprobs"}), Specs())
    except Refusal as refusal:
        assert refusal.kind.status == 400
        assert refusal.param is not None
        assert set(refusal.param.replace("[", ".").replace("]", "").split(".")) <= spec.names | set("0123456789$") | {""}
        return
    assert strict_json.parse(strict_json.dump(request.body), 1_000_000) == request.body
    assert all(value is not None for value in request.body.values())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=5), st.data())
def test_texts_written_back_are_where_they_were_found(texts: list[str], data: st.DataObject) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": text}] if data.draw(st.booleans()) else text} for text in texts]
    request = validate(permit({"messages": messages}), Specs())
    changed = replace_all(request.body, [(segment.path, segment.text.upper() + "!") for segment in request.segments])
    again = validate(permit(changed), Specs())
    assert [segment.text for segment in again.segments] == [text.upper() + "!" for text in texts]
    assert [segment.text for segment in request.segments] == texts
