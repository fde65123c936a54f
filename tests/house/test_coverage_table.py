"""No text without an inspector or a named grant: the table is complete, and it tells the truth.

Complete: every string of every schema and answer shape has an entry. True: a text is planted at every place of every request
schema and every answer shape, and must turn up where the table says, and nowhere else.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest
from asked_bodies import permit

from gateway.evidence import Direction, Operation
from gateway.refusals import Refusal
from gateway.schema import coverage, strict_json
from gateway.schema.answers import MalformedAnswer, answer_segments, parse_answer
from gateway.schema.chunks import parse_chunk, render, substitute
from gateway.schema.operations import plain
from gateway.schema.operations.spec import closed, text
from gateway.schema.validate import BUILT_IN, Specs, validate

PLANT = "zebrafinch"
EVERY_GRANT = frozenset({"logit_bias", "logprobs", "n", "store", "web_search_options", "seed", "hosted_tools", "data_sources"})
INPUTS = [operation for operation in Operation if operation in BUILT_IN]


class NoTokens:
    name = "none"

    def count(self, text: str) -> int:
        return 0

    def decode(self, tokens: Sequence[int]) -> str | None:
        return PLANT


class Inner(msgspec.Struct):
    note: str | None


class Shape(msgspec.Struct):
    count: int
    rows: list[Inner]
    other: Any


# --- completeness ---------------------------------------------------------------------------------------------------------


def test_nothing_is_without_inspector_or_grant() -> None:
    assert coverage.gaps() == ()


def test_every_operation_and_direction_has_entries() -> None:
    table = coverage.rows()
    for operation in Operation:
        directions = {row.direction for row in table if row.operation == operation.value}
        expected = set(Direction) if operation is not Operation.SCORE else {Direction.OUTBOUND}
        assert directions == expected, operation
    for operation in (Operation.CHAT, Operation.COMPLETIONS):
        modes = {row.mode for row in table if row.operation == operation.value}
        assert modes == {coverage.REQUEST, coverage.WHOLE, coverage.STREAM}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string"},
        {},
        True,
        {"type": ["string", "null"]},
        {"type": "array"},
        {"type": "array", "items": {"type": "string"}},
        {"type": "object"},
        {"type": "object", "properties": {}, "additionalProperties": {"type": "number"}},
        {"anyOf": [{"type": "null"}, {"type": "string"}]},
        closed({"a": {"type": "string", "pattern": "^[a-z]+$"}}),
        {"type": "string", "x-token": "says so, without a pattern"},
    ],
)
def test_a_schema_with_unnamed_text_is_noticed(schema: Any) -> None:
    assert any(found[1] == "UNCLASSIFIED" for found in coverage.strings(schema))


def test_an_answer_field_without_entry_and_an_entry_without_field_are_noticed() -> None:
    found = {place: treatment for place, treatment, _, _ in coverage.shape_places(Shape, {"gone": ("word", "")})}
    assert found == {"rows[].note": "UNCLASSIFIED", "other": "UNCLASSIFIED", "gone": "UNCLASSIFIED"}


def test_the_table_is_printed() -> None:
    printed = coverage.render().splitlines()
    assert len(printed) == len(coverage.rows()) + 1
    assert any("tool:{i}:arguments" in line for line in printed)


def test_plain_routes_join_the_table() -> None:
    request = closed({"review": {**text(plain.Role.USER), "maxLength": 5}})
    spec = plain.load(Operation.SCORE, json.dumps(request).encode(), json.dumps(request).encode())
    rows = [row for row in coverage.rows(Specs({"stars": spec})) if row.operation == "score stars"]
    assert [(row.direction, row.place, row.treatment) for row in rows] == [
        (Direction.INBOUND, "review", "inspected"),
        (Direction.OUTBOUND, "review", "inspected"),
    ]


# --- truth: requests ------------------------------------------------------------------------------------------------------


def least(schema: Any) -> Any:
    """Return a small value that fits."""
    if "x-media" in schema:
        return "AAAA" if schema.get("type") == "string" else [1]
    if schema.get("x-inspect", {}).get("use") == "arguments":
        return "{}"
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return least(schema["anyOf"][0])
    kind = schema["type"] if isinstance(schema["type"], str) else schema["type"][0]
    match kind:
        case "object":
            return {name: least(schema["properties"][name]) for name in schema.get("required", ())}
        case "array":
            return [least(schema["items"])] * schema.get("minItems", 0)
        case "string":
            return "f"
        case "integer" | "number":
            return max(0, schema.get("minimum", 0))
        case "boolean":
            return False
    return None


def planted(schema: Any, place: str = "") -> Iterator[tuple[str, str, Any]]:
    """Yield (place, treatment, value that fits but for the plant) for every place where a string or a key may stand."""
    if "x-settled" in schema:
        yield place, "settled", PLANT
    elif "x-open" in schema:
        deep = {"properties": {"x": {"enum": [[PLANT]]}}}
        for document in ({PLANT: 1}, {"a": PLANT}, {"description": PLANT}, deep, {"title": {PLANT: 1}}):
            yield f"{place}.**", "inspected", document
    elif "x-media" in schema:
        yield place, "granted", PLANT
    elif "anyOf" in schema:
        for branch in schema["anyOf"]:
            yield from planted(branch, place)
    elif "const" in schema or "enum" in schema:
        yield place, "word", PLANT
    else:
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        if "string" in kinds:
            arguments = schema["x-inspect"]["use"] == "arguments"
            yield place, "inspected", json.dumps({"a": PLANT}) if arguments else PLANT
        if "array" in kinds and "items" in schema:
            for at, treatment, value in planted(schema["items"], f"{place}[]"):
                yield at, treatment, [value] * max(1, schema.get("minItems", 0))
        if "object" in kinds:
            base = least({**schema, "type": "object"}) if "properties" in schema else {}
            for name, below in schema.get("properties", {}).items():
                for at, treatment, value in planted(below, f"{place}.{name}".strip(".")):
                    yield at, treatment, {**base, name: value}
            rest = schema.get("additionalProperties", False)
            if rest is not False:
                treatment = "inspected" if "x-inspect-keys" in schema else "word"
                yield f"{place}.{{key}}", treatment, {PLANT: least(rest)}
                for at, treatment, value in planted(rest, f"{place}.*"):
                    yield at, treatment, {"1": value}


CASES = [
    pytest.param(operation, place, treatment, value, id=f"{operation.value}:{place}:{number}")
    for operation in INPUTS
    for number, (place, treatment, value) in enumerate(planted(BUILT_IN[operation].schema))
]


def completed(operation: Operation, value: dict[str, Any]) -> dict[str, Any]:
    """Make a body of it that nothing but the plant could make invalid."""
    body = copy.deepcopy(value)
    if operation is Operation.CHAT:
        for message in body["messages"]:
            if message.get("role") == "assistant" and message.get("content") is None:
                message.setdefault("refusal", "no")
    return body


def test_the_sampler_reaches_every_place_of_the_table() -> None:
    for operation in INPUTS:
        listed = {row.place for row in coverage.rows() if row.operation == operation.value and row.direction is Direction.INBOUND}
        assert {place for place, _, _ in planted(BUILT_IN[operation].schema)} | {"$"} == listed | {"$"}


@pytest.mark.parametrize(("operation", "place", "treatment", "value"), CASES)
def test_a_planted_text_is_where_the_table_says(operation: Operation, place: str, treatment: str, value: dict[str, Any]) -> None:
    body = completed(operation, value)
    if treatment == "granted":
        with pytest.raises(Refusal):
            validate(permit(body, operation, grants=EVERY_GRANT), Specs(), NoTokens())
        return
    try:
        request = validate(permit(body, operation, grants=EVERY_GRANT | {"uninspected"}), Specs(), NoTokens())
    except Refusal as refusal:
        assert treatment in {"word", "settled"}, (refusal.param, refusal.message)
        assert PLANT not in f"{refusal.param}{refusal.message}{refusal.detail}"
        return
    seen = any(PLANT in segment.text for segment in request.segments)
    leaves = PLANT.encode() in strict_json.dump(request.body)
    assert seen == (treatment == "inspected")
    assert leaves == (treatment == "inspected")


# --- truth: answers -------------------------------------------------------------------------------------------------------

WHOLE = {
    "id": "x",
    "created": 1,
    "model": "m",
    "object": "o",
    "system_fingerprint": "fp",
    "service_tier": "default",
    "usage": {"prompt_tokens": 1, "completion_tokens_details": {"reasoning_tokens": 1}},
    "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {"hate": {"filtered": False, "severity": "safe"}}}],
    "choices": [
        {
            "index": 0,
            "text": "t",
            "finish_reason": "stop",
            "logprobs": {"content": [{"token": "a", "logprob": -1, "bytes": None, "top_logprobs": []}], "tokens": ["a"]},
            "content_filter_results": {"protected_material_code": {"detected": True, "citation": {"URL": "u"}}},
            "content_filter_offsets": {"check_offset": 1},
            "message": {
                "role": "assistant",
                "content": "c",
                "refusal": "r",
                "reasoning_content": "w",
                "annotations": [{"url": "u"}],
                "audio": {"transcript": "t", "data": "AA"},
                "tool_calls": [{"index": 0, "id": "i", "type": "function", "function": {"name": "n", "arguments": "{}"}}],
            },
        }
    ],
}


def spots(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield a path to every value, and to a new key of every object."""
    if path:
        yield path
    if isinstance(node, dict):
        yield (*path, PLANT)
        for key, value in node.items():
            yield from spots(value, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from spots(value, (*path, index))


def put(body: Any, path: tuple[Any, ...], value: Any) -> Any:
    made = copy.deepcopy(body)
    node = made
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value
    return made


PLANTS = (PLANT, [PLANT], {PLANT: PLANT}, {"text": PLANT})


@pytest.mark.parametrize("operation", [Operation.CHAT, Operation.COMPLETIONS])
def test_whole_answers_carry_a_planted_text_only_as_a_segment(operation: Operation) -> None:
    carried = 0
    for path in spots(WHOLE):
        for plant in PLANTS:
            try:
                answer = parse_answer(operation, json.dumps(put(WHOLE, path, plant)).encode(), model="m")
            except MalformedAnswer as fault:
                assert PLANT not in str(fault)
                continue
            # A plant without blanks can pass as an identifier: those are tokens by form, and named so in the table.
            tokens = {answer["id"], answer.get("system_fingerprint")}
            tokens |= {call["id"] for choice in answer["choices"] for call in choice.get("message", {}).get("tool_calls", ())}
            seen = any(PLANT in segment.text for segment in answer_segments(operation, answer))
            assert (PLANT in json.dumps(answer)) == (seen or PLANT in tokens), path
            carried += seen
    assert carried == (5 if operation is Operation.CHAT else 2)  # `text` itself, and a whole choice put in its place


@pytest.mark.parametrize("operation", [Operation.CHAT, Operation.COMPLETIONS])
def test_chunks_carry_a_planted_text_only_in_channels(operation: Operation) -> None:
    whole = copy.deepcopy(WHOLE)
    whole["choices"][0]["delta"] = whole["choices"][0].pop("message")  # type: ignore[index]
    carried = 0
    for path in spots(whole):
        for plant in PLANTS:
            try:
                chunk = parse_chunk(operation, json.dumps(put(whole, path, plant)).encode(), model="m")
            except MalformedAnswer as fault:
                assert PLANT not in str(fault)
                continue
            seen = any(PLANT in text.text for text in chunk.texts)
            written = render(chunk, include_usage=True)
            substitute(chunk, [])
            bare = render(chunk, include_usage=True)
            body = json.loads(bare)
            calls = [call for choice in body["choices"] for call in choice.get("delta", {}).get("tool_calls", ())]
            tokens = {body["id"], body.get("system_fingerprint"), *(call.get("id") for call in calls)}
            assert (PLANT.encode() in written) == (seen or PLANT in tokens), path
            assert (PLANT.encode() in bare) == (PLANT in tokens), path
            carried += seen
    assert carried == (5 if operation is Operation.CHAT else 2)  # `text` itself, and a whole choice put in its place
