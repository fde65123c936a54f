"""What may a plain JSON inference request hold: the Open Inference Protocol, and routes that bring a schema of their own?

`INFER` is the protocol's v2 request. Strings (`BYTES`) are inspected; any other tensor is something no inspector can read.

A route's own schema (a file under `policies/schemas`) is JSON Schema within bounds that let its text be found without guessing:
no references, no unions, every object closed, every list and string bounded, and on every string that is not an enumeration
`"x-inspect": {"role": "user" | ..., "use": "content" | "label" | "arguments"}`. One that leaves any of it out does not load.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from gateway.evidence import Operation, Role, Segment, Use
from gateway.refusals import Refusal
from gateway.schema import strict_json
from gateway.schema.operations.spec import (
    Draft,
    Path,
    Schema,
    Spec,
    array,
    closed,
    const,
    declare,
    either,
    enum,
    integer,
    label,
    no_output,
    settled,
    text,
)

MAX_SCHEMA_BYTES = 262_144
MAX_TENSORS = 64
MAX_TEXTS = 4_096
MAX_NUMBERS = 1_000_000
MAX_RANK = 4

NUMERIC = ("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "BF16", "FP32", "FP64")

# --- Open Inference Protocol v2 -------------------------------------------------------------------------------------------


def _nested(leaf: Schema, most: int) -> Schema:
    shape = array(leaf, most=most)
    for _ in range(MAX_RANK - 1):
        shape = array(either(leaf, shape), most=most)
    return shape


def _tensor(datatype: Schema, data: Schema) -> Schema:
    properties = {"name": label(Role.USER), "shape": array(integer(0, 2**31), most=8), "datatype": datatype, "data": data}
    return closed(properties, "name", "shape", "datatype", "data")


def _infer_schema() -> Schema:
    texts = _tensor(const("BYTES"), _nested(text(Role.USER), MAX_TEXTS))
    numbers = {**_nested({"type": ["number", "boolean"]}, MAX_NUMBERS), "x-media": ["uninspected"]}
    wanted = closed({"name": label(Role.USER)}, "name")
    return closed(
        {
            "id": label(Role.USER),
            "parameters": settled("JSON is what the gateway reads; dropped", closed({"binary_data_output": {"const": False}})),
            "inputs": array(either(texts, _tensor(enum(*NUMERIC), numbers)), least=1, most=MAX_TENSORS),
            "outputs": array(wanted, most=MAX_TENSORS),
        },
        "inputs",
    )


def _name_infer(draft: Draft) -> None:
    body = draft.body
    body.pop("parameters", None)
    draft.text(("id",), body.get("id", ""), Role.USER, Use.LABEL)
    inputs = body["inputs"] = [{**tensor, "shape": [int(size) for size in tensor["shape"]]} for tensor in body["inputs"]]
    for index, tensor in enumerate(inputs):
        path = ("inputs", index)
        draft.text((*path, "name"), tensor["name"], Role.USER, Use.LABEL)
        if tensor["datatype"] == "BYTES":
            for at, value in texts_of(tensor["data"], (*path, "data")):
                draft.text(at, value, Role.USER, Use.CONTENT)
        else:
            draft.release_uninspected((*path, "data"))
            draft.extra_tokens += len(tensor["data"])
    for index, wanted in enumerate(body.get("outputs", ())):
        draft.text(("outputs", index, "name"), wanted["name"], Role.USER, Use.LABEL)


def texts_of(data: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """Yield the strings of nested lists, in order, with their paths."""
    for index, value in enumerate(data):
        if isinstance(value, str):
            yield (*path, index), value
        elif isinstance(value, list):
            yield from texts_of(value, (*path, index))


INFER = declare(Operation.INFER, _infer_schema(), name_texts=_name_infer, limit=no_output)

# --- routes with a schema of their own ------------------------------------------------------------------------------------


class SchemaFaults(ValueError):
    """A route's schema cannot be used. `faults` holds every reason, each beginning with the place in the schema."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = tuple(faults)


class AnswerSchema(msgspec.Struct, frozen=True):
    """The answer's side of a plain route."""

    schema: Schema
    validator: Any


_DESCRIPTIVE = frozenset({"$schema", "$id", "$comment", "title", "description", "examples"})
_KEYWORDS: dict[str, frozenset[str]] = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"items", "minItems", "maxItems"}),
    "string": frozenset({"minLength", "maxLength", "pattern", "enum", "const", "x-inspect"}),
    "number": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "enum", "const"}),
    "integer": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "enum", "const"}),
    "boolean": frozenset({"const", "enum"}),
    "null": frozenset(),
}


def load(operation: Operation, request: bytes, answer: bytes | None) -> Spec:
    """Compile a plain route from its schema files. Raises `SchemaFaults` with every fault found, in both."""
    faults: list[str] = []
    asked = _read(request, "request", faults)
    answered = _read(answer, "answer", faults) if answer is not None else None
    if faults or asked is None:
        raise SchemaFaults(faults)
    try:
        answer_spec = None
        if answered is not None:
            compiled = declare(operation, answered, name_texts=_nothing, limit=no_output)
            answer_spec = AnswerSchema(answered, compiled.validator)

        def name_texts(draft: Draft) -> None:
            for path, value, role, use in texts_by_schema(asked, draft.body, ()):
                draft.text(path, value, role, use)

        return declare(operation, asked, name_texts=name_texts, limit=no_output, answer=answer_spec)
    except ValueError as error:
        raise SchemaFaults([f"not a JSON Schema: {error}"]) from error


def _nothing(draft: Draft) -> None:
    del draft


def _read(data: bytes, which: str, faults: list[str]) -> Schema | None:
    try:
        schema = strict_json.parse(data, MAX_SCHEMA_BYTES)
    except Refusal as error:
        faults.append(f"{which}: not strict JSON ({error.detail})")
        return None
    if schema.get("type") != "object":
        faults.append(f"{which}: the top level must have type `object`")
    _check(schema, which, faults)
    return schema


def _kind(schema: Schema) -> str:
    """Return the one type beside null, or "" if there is not just one."""
    kind = schema.get("type")
    kinds = [one for one in kind if one != "null"] if isinstance(kind, list) else [kind]
    return kinds[0] if len(kinds) == 1 and isinstance(kinds[0], str) and kinds[0] in _KEYWORDS else ""


def _check(schema: Any, at: str, faults: list[str]) -> None:
    """Note every way in which a schema leaves a text unfound or a size unbounded."""
    if not isinstance(schema, dict):
        faults.append(f"{at}: must be a schema")
        return
    kind = _kind(schema)
    if not kind:
        faults.append(f"{at}: `type` must name one of {', '.join(_KEYWORDS)}, or a list of one of them and null")
        return
    faults.extend(f"{at}: `{word}` is not supported here" for word in sorted(schema.keys() - _KEYWORDS[kind] - _DESCRIPTIVE - {"type"}))
    if kind == "object":
        _check_object(schema, at, faults)
    elif kind == "array":
        if not isinstance(schema.get("maxItems"), int):
            faults.append(f"{at}: a list needs `maxItems`")
        _check(schema.get("items"), f"{at}/items", faults)
    elif kind == "string" and "enum" not in schema and "const" not in schema:
        _check_string(schema, at, faults)


def _check_object(schema: Schema, at: str, faults: list[str]) -> None:
    if schema.get("additionalProperties") is not False:
        faults.append(f"{at}: an object needs `additionalProperties: false`")
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        faults.append(f"{at}: an object needs `properties`")
        return
    for name, below in properties.items():
        _check(below, f"{at}/properties/{name}", faults)


def _check_string(schema: Schema, at: str, faults: list[str]) -> None:
    if not isinstance(schema.get("maxLength"), int):
        faults.append(f"{at}: a string needs `maxLength`")
    inspect = schema.get("x-inspect")
    try:
        if not isinstance(inspect, dict) or inspect.keys() != {"role", "use"}:
            raise ValueError
        Role(inspect["role"])
        Use(inspect["use"])
    except ValueError:
        roles, uses = ", ".join(Role), ", ".join(Use)
        faults.append(f"{at}: a string needs `x-inspect` with a role ({roles}) and a use ({uses})")


def texts_by_schema(schema: Schema, value: Any, path: Path) -> Iterator[tuple[Path, str, Role, Use]]:
    """Yield every string of `value` that `schema` says is text. `value` fits `schema`, and `schema` passed the checks above."""
    if isinstance(value, str):
        inspect = schema.get("x-inspect")
        if inspect is not None:
            yield path, value, Role(inspect["role"]), Use(inspect["use"])
    elif isinstance(value, dict):
        for name, below in schema["properties"].items():
            if name in value:
                yield from texts_by_schema(below, value[name], (*path, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from texts_by_schema(schema["items"], item, (*path, index))


def prune(schema: Schema, value: Any) -> Any:
    """Return `value` without the fields that `schema` does not declare; what has the wrong type is left for the validator."""
    if isinstance(value, dict) and "properties" in schema:
        return {name: prune(below, value[name]) for name, below in schema["properties"].items() if name in value}
    if isinstance(value, list) and "items" in schema:
        return [prune(schema["items"], item) for item in value]
    return value


def segments_by_schema(schema: Schema, value: Any) -> tuple[Segment, ...]:
    return tuple(Segment(path, one, role, use) for path, one, role, use in texts_by_schema(schema, value, ()) if one)
