"""Is there any text, in either direction of any operation, that no inspector reads and no grant names?

The table is computed from the schemas and the answer shapes themselves, not kept beside them: a field added without a word on
its text shows up in `gaps`, and a house test fails. What the annotations promise is held to by a test that plants a text at every
place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from gateway.evidence import Direction, Operation
from gateway.schema import answers, chunks
from gateway.schema.operations.plain import MAX_RANK
from gateway.schema.operations.spec import Spec
from gateway.schema.validate import BUILT_IN, Specs

REQUEST, WHOLE, STREAM = "request", "whole", "stream"
_UNCLASSIFIED = "UNCLASSIFIED"


class Row(msgspec.Struct, frozen=True, order=True):
    """One place where a string may stand. `treatment`: inspected, granted, word, token, settled, dropped, numbers."""

    operation: str
    direction: str
    mode: str
    place: str
    treatment: str
    by: str  # role and use, channel, grant, or why it needs neither
    grant: str = ""


# Every string and every free-form field of the answer shapes. `gaps` compares it with the shapes, both ways.
_TOKEN = ("token", "an identifier, or replaced")
_WORD = ("word", "one of a closed set, or replaced")
_COUNTS = ("numbers", "counts under known names")
_FILTERS = ("word", "known categories: flags and severities")
_OURS = ("dropped", "ours is written instead")
_ERROR = ("dropped", "an error ends the answer; its words do not pass")
_GENERATED_FIELDS: Mapping[str, tuple[str, str]] = {
    "id": _TOKEN,
    "created": ("numbers", "a time"),
    "usage": _COUNTS,
    "system_fingerprint": _TOKEN,
    "prompt_filter_results": _FILTERS,
    "error": _ERROR,
    "choices[].finish_reason": _WORD,
    "choices[].content_filter_results": _FILTERS,
}
_CALL_FIELDS: Mapping[str, tuple[str, str]] = {
    "tool_calls[].id": _TOKEN,
    "tool_calls[].type": _WORD,
    "tool_calls[].function.name": ("inspected", "tool:{i}:name"),
    "tool_calls[].function.arguments": ("inspected", "tool:{i}:arguments"),
}
_TEXT_FIELDS: Mapping[str, tuple[str, str]] = {
    "role": _OURS,
    "content": ("inspected", chunks.CONTENT),
    "refusal": ("inspected", chunks.REFUSAL),
    "reasoning_content": ("inspected", chunks.REASONING),
    **_CALL_FIELDS,
}
_WHOLE_FIELDS: Mapping[str, tuple[str, str]] = {
    **_GENERATED_FIELDS,
    **{f"choices[].message.{name}": entry for name, entry in _TEXT_FIELDS.items()},
    "choices[].text": ("inspected", chunks.CONTENT),
    "choices[].logprobs": ("granted", "logprobs"),
}
_STREAM_FIELDS: Mapping[str, tuple[str, str]] = {
    **_GENERATED_FIELDS,
    **{f"choices[].delta.{name}": entry for name, entry in _TEXT_FIELDS.items()},
    "choices[].text": ("inspected", chunks.CONTENT),
    "choices[].content_filter_offsets": ("numbers", "offsets"),
    "object": _OURS,
    "model": _OURS,
}
_VECTOR_FIELDS: Mapping[str, tuple[str, str]] = {
    "data[].embedding": ("numbers", "floats, or base64 of floats of a vector's size"),
    "usage": _COUNTS,
    "error": _ERROR,
}
_INFER_FIELDS: Mapping[str, tuple[str, str]] = {
    "outputs[].name": ("inspected", "a label"),
    "outputs[].datatype": _WORD,
    "outputs[].data[]": ("inspected", f"strings of BYTES, nested up to {MAX_RANK}; other datatypes hold numbers"),
    "model_version": _TOKEN,
    "id": _TOKEN,
    "error": _ERROR,
}
SHAPES: Mapping[tuple[Operation, str], tuple[type, Mapping[str, tuple[str, str]]]] = {
    (Operation.CHAT, WHOLE): (answers.Generated, _WHOLE_FIELDS),
    (Operation.CHAT, STREAM): (chunks.Body, _STREAM_FIELDS),
    (Operation.COMPLETIONS, WHOLE): (answers.Generated, _WHOLE_FIELDS),
    (Operation.COMPLETIONS, STREAM): (chunks.Body, _STREAM_FIELDS),
    (Operation.EMBEDDINGS, WHOLE): (answers.Vectors, _VECTOR_FIELDS),
    (Operation.INFER, WHOLE): (answers.Inferred, _INFER_FIELDS),
}
# Operations whose answers the gateway composes itself, and the plain one whose answer has a schema of the route's, or no strings.
_OWN = (Operation.MODERATIONS, Operation.MODELS_LIST, Operation.MODELS_GET)


def rows(specs: Specs | None = None) -> tuple[Row, ...]:
    """Return the whole table: built-in operations, and the plain routes of `specs`."""
    table: list[Row] = []
    for operation in Operation:
        spec = BUILT_IN.get(operation)
        if spec is not None:
            table += _requests(operation.value, spec)
        elif operation is not Operation.SCORE:
            table.append(Row(operation.value, Direction.INBOUND, REQUEST, "$", _UNCLASSIFIED, "no schema"))
        table += _answers(operation)
    for route, spec in (specs.plain() if specs is not None else {}).items():
        name = f"{spec.operation.value} {route}"
        table += _requests(name, spec)
        if spec.answer is not None:
            table += [Row(name, Direction.OUTBOUND, WHOLE, *found) for found in strings(spec.answer.schema)]
    return tuple(table)


def gaps(specs: Specs | None = None) -> tuple[str, ...]:
    """Return every place with text that nothing covers; empty is the only acceptable answer."""
    table = rows(specs)
    found = [f"{row.operation} {row.mode} {row.place}: {row.by}" for row in table if row.treatment == _UNCLASSIFIED]
    covered = {(row.operation, row.direction) for row in table}
    found += [
        f"{operation.value} has no {direction.value} entry"
        for operation in Operation
        for direction in Direction
        if (operation.value, direction.value) not in covered and operation is not Operation.SCORE
    ]
    return tuple(found)


def _requests(name: str, spec: Spec) -> Iterator[Row]:
    empty = True
    for found in strings(spec.schema):
        empty = False
        yield Row(name, Direction.INBOUND, REQUEST, *found)
    if empty:
        yield Row(name, Direction.INBOUND, REQUEST, "$", "settled", "the body is empty")


def _answers(operation: Operation) -> Iterator[Row]:
    if operation in _OWN:
        yield Row(operation.value, Direction.OUTBOUND, WHOLE, "$", "settled", "the gateway writes this answer itself")
    elif operation is Operation.SCORE:
        yield Row(operation.value, Direction.OUTBOUND, WHOLE, "$", "numbers", "without an answer schema no string passes")
        yield Row(operation.value, Direction.OUTBOUND, WHOLE, "**.{key}", "inspected", "without an answer schema: labels")
    found_any = operation in _OWN or operation is Operation.SCORE
    for (served, mode), (shape, table) in SHAPES.items():
        if served is operation:
            found_any = True
            yield from (Row(operation.value, Direction.OUTBOUND, mode, *entry) for entry in shape_places(shape, table))
    if not found_any:
        yield Row(operation.value, Direction.OUTBOUND, WHOLE, "$", _UNCLASSIFIED, "no answer shape")


# --- requests: JSON Schema ------------------------------------------------------------------------------------------------

Found = tuple[str, str, str, str]  # place, treatment, by, grant


def strings(schema: Any, place: str = "", grant: str = "") -> Iterator[Found]:
    """Yield every place of `schema` where a string, or a key of the caller's, may stand."""
    at = place or "$"
    if not isinstance(schema, dict):
        yield at, _UNCLASSIFIED, "not a schema object", grant
        return
    grant = schema.get("x-grant", grant)
    if "x-settled" in schema:
        yield at, "settled", schema["x-settled"], grant
    elif "x-open" in schema:
        yield f"{at}.**", "inspected", f"{schema['x-open']['role']}: every key and string", grant
    elif "x-media" in schema:
        yield at, "granted", " + ".join(schema["x-media"]), grant
    elif "anyOf" in schema:
        for branch in schema["anyOf"]:
            yield from strings(branch, place, grant)
    elif "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        if any(isinstance(value, (str, list, dict)) for value in values):
            yield at, "word", "one of a closed set", grant
    else:
        yield from _by_type(schema, place, grant)


def _by_type(schema: dict[str, Any], place: str, grant: str) -> Iterator[Found]:
    kind = schema.get("type")
    kinds = set(kind) if isinstance(kind, list) else {kind}
    at = place or "$"
    unknown = kinds - {"object", "array", "string", "number", "integer", "boolean", "null"}
    if unknown:
        yield at, _UNCLASSIFIED, "the schema takes any type", grant
    if "string" in kinds:
        inspect = schema.get("x-inspect")
        if inspect is not None:
            yield at, "inspected", f"{inspect['role']} {inspect['use']}", grant
        elif "x-token" in schema and "pattern" in schema:
            yield at, "token", schema["x-token"], grant
        else:
            yield at, _UNCLASSIFIED, "a string without annotation", grant
    if "array" in kinds:
        if "items" in schema:
            yield from strings(schema["items"], f"{place}[]", grant)
        elif schema.get("maxItems") != 0:
            yield at, _UNCLASSIFIED, "a list of anything", grant
    if "object" in kinds:
        yield from _object(schema, place, grant)


def _object(schema: dict[str, Any], place: str, grant: str) -> Iterator[Found]:
    prefix = f"{place}." if place else ""
    for name, below in schema.get("properties", {}).items():
        yield from strings(below, prefix + name, grant)
    rest = schema.get("additionalProperties", True)
    if rest is False:
        return
    keys = schema.get("x-inspect-keys")
    key_place = f"{prefix}{{key}}"
    if keys is not None:
        yield key_place, "inspected", f"{keys['role']} {keys['use']}", grant
    elif "x-token" in schema and "pattern" in schema.get("propertyNames", {}):
        yield key_place, "token", schema["x-token"], grant
    else:
        yield key_place, _UNCLASSIFIED, "keys of the caller's without annotation", grant
    yield from strings(rest, f"{prefix}*", grant)


# --- answers: the shapes --------------------------------------------------------------------------------------------------


def shape_places(shape: type, table: Mapping[str, tuple[str, str]]) -> Iterator[Found]:
    """Yield the places of an answer shape, those without an entry and those entries without a place as unclassified."""
    places = list(_fields(msgspec.inspect.type_info(shape), ""))
    for place in places:
        treatment, by = table.get(place, (_UNCLASSIFIED, "a field without entry"))
        yield place, treatment, by, ""
    for place in table.keys() - set(places):
        yield place, _UNCLASSIFIED, "an entry without field", ""


def _fields(info: msgspec.inspect.Type, place: str) -> Iterator[str]:
    """Yield where `info` may hold a string: `str` itself, and fields of any type, which a cleaner narrows."""
    match info:
        case msgspec.inspect.StructType(fields=fields):
            for field in fields:
                yield from _fields(field.type, f"{place}.{field.encode_name}" if place else field.encode_name)
        case msgspec.inspect.UnionType(types=types):
            # One row a place, however many branches.
            yield from dict.fromkeys(found for one in types for found in _fields(one, place))
        case msgspec.inspect.ListType(item_type=item):
            yield from _fields(item, f"{place}[]")
        case msgspec.inspect.IntType() | msgspec.inspect.FloatType() | msgspec.inspect.BoolType() | msgspec.inspect.NoneType():
            return
        case _:
            if getattr(info, "cls", None) is not msgspec.UnsetType:
                yield place


# --- for people -----------------------------------------------------------------------------------------------------------


def render(table: Iterable[Row] | None = None) -> str:
    """Return the table as text, one place a line."""
    lines = [("operation", "direction", "mode", "place", "treatment", "by", "grant")]
    lines += [
        (row.operation, row.direction, row.mode, row.place, row.treatment, row.by, row.grant or "-")
        for row in (rows() if table is None else table)
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(7)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines) + "\n"
