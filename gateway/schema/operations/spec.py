"""What does an operation's declaration consist of, and with which words is its schema written?

A schema here is closed JSON Schema 2020-12 with a few annotations of ours; `coverage` reads them and a house test fails when a
string in any schema has none. An annotation promises what the operation's `name_texts` does; a test holds it to that, with a
planted text at every place.

- `x-inspect: {role, use}`  this string becomes a segment; on an object with free keys, `x-inspect-keys` says so for the keys;
- `x-open: {role}`          any JSON may stand here, and every key and string in it becomes part of a segment;
- `x-media: grants`         no inspector can read this: refused unless every grant named is held, and recorded when released;
- `x-token: why`            the pattern is so narrow that no text fits;
- `x-settled: why`          never leaves as the client wrote it: dropped, or only one value of ours is accepted;
- `x-grant: name`           refused unless policy grants it by name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jsonschema_rs
import msgspec

from gateway.evidence import Obligations, Operation, Role, Segment, Use
from gateway.refusals import INVALID_REQUEST, Refusal
from gateway.schema.tokens import Tokenizer

Schema = dict[str, Any]
Path = tuple[str | int, ...]

MAX_TEXT = 2_000_000  # code points; the body limit usually ends it sooner
MAX_TOKENS = 2**31 - 1
UNINSPECTED = "uninspected"


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to one top-level field before texts are named. `grant` is asked for unless the value is `neutral`."""

    grant: str = ""
    neutral: tuple[Any, ...] = ()  # values that ask for nothing; they are left out of what is sent
    drop: bool = False
    integer: bool = False


class Draft:
    """A body on its way to being valid: our own copy of its top level, and what was found in it so far."""

    __slots__ = ("body", "extra_tokens", "grants", "names", "nodes", "segments", "tokenizer", "uninspected")

    def __init__(self, body: dict[str, Any], grants: frozenset[str], names: frozenset[str], tokenizer: Tokenizer | None) -> None:
        self.body = body
        self.grants = grants
        self.names = names
        self.tokenizer = tokenizer
        self.segments: list[Segment] = []
        self.uninspected: list[str] = []
        self.nodes = 0  # values of free-form documents walked so far
        self.extra_tokens = 0  # what the model reads beyond the segments: images, the punctuation of schemas

    def text(self, path: Path, text: str, role: Role, use: Use) -> None:
        if text:
            self.segments.append(Segment(path, text, role, use))

    def need(self, grant: str, path: Path, message: str) -> None:
        """Refuse unless policy granted `grant`."""
        if grant not in self.grants:
            raise refuse(path, self.names, message)

    def release_uninspected(self, path: Path) -> None:
        """Take note that the part at `path` leaves unread; refused without the grant."""
        self.need(UNINSPECTED, path, NOT_INSPECTED)
        self.uninspected.append(json_path(path, self.names))


NOT_INSPECTED = "no inspector can read this part, and policy does not let it pass unread"
NOT_GRANTED = "policy does not grant this field"

NameTexts = Callable[[Draft], None]
Limit = Callable[[Draft, Obligations], int]


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """One operation's request side. `limit` sets the output ceiling in the draft and returns it, over all choices."""

    operation: Operation
    schema: Schema
    validator: Any  # jsonschema_rs.Draft202012Validator, compiled once
    names: frozenset[str]  # every property name our schema knows: the only keys an error may show
    rules: Mapping[str, Rule]
    name_texts: NameTexts
    limit: Limit
    answer: Any = None  # plain operations: the answer's schema, see `plain`


def declare(
    operation: Operation,
    schema: Schema,
    *,
    name_texts: NameTexts,
    limit: Limit,
    rules: Mapping[str, Rule] | None = None,
    answer: Any = None,
) -> Spec:
    """Compile an operation's declaration. Raises `ValueError` if the schema is not one."""
    jsonschema_rs.meta.validate(schema)
    # A mask keeps the caller's values out of the library's messages, should one ever be shown.
    validator = jsonschema_rs.Draft202012Validator(schema, mask="`...`")
    names = frozenset(property_names(schema))
    return Spec(
        operation=operation,
        schema=schema,
        validator=validator,
        names=names,
        rules=rules or {},
        name_texts=name_texts,
        limit=limit,
        answer=answer,
    )


def no_output(draft: Draft, obligations: Obligations) -> int:
    """Return 0: the answer of this operation is not generated text."""
    del draft, obligations
    return 0


def refuse(path: Path, names: Collection[str], message: str) -> Refusal:
    return Refusal(INVALID_REQUEST, message=message, param=json_path(path, names))


def json_path(path: Path, names: Collection[str]) -> str:
    """Return `messages[0].content` style; it ends before the first key that is not ours, since that one is the caller's text."""
    out = ""
    for step in path:
        if isinstance(step, int):
            out += f"[{step}]"
        elif step in names:
            out += f".{step}" if out else step
        else:
            break
    return out or "$"


def property_names(schema: Any) -> set[str]:
    """Return every property name that `schema` or a part of it declares."""
    found: set[str] = set()
    stack = [schema]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            properties = node.get("properties")
            if isinstance(properties, dict):
                found.update(properties)
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)
    return found


# --- the words schemas are written with -----------------------------------------------------------------------------------


def closed(properties: Mapping[str, Schema], *required: str) -> Schema:
    return {"type": "object", "properties": dict(properties), "required": list(required), "additionalProperties": False}


def text(role: Role, use: Use = Use.CONTENT, *, longest: int = MAX_TEXT, **extra: Any) -> Schema:
    return {"type": "string", "maxLength": longest, "x-inspect": {"role": role.value, "use": use.value}, **extra}


def label(role: Role, *, longest: int = 128, pattern: str | None = None) -> Schema:
    """A name or id: inspected, never rewritten."""
    extra = {"pattern": pattern} if pattern else {}
    return text(role, Use.LABEL, longest=longest, **extra)


def enum(*values: str) -> Schema:
    return {"enum": list(values)}


def const(value: str | bool) -> Schema:
    return {"const": value}


def integer(least: int, most: int) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most}


def number(least: float, most: float) -> Schema:
    return {"type": "number", "minimum": least, "maximum": most}


def array(items: Schema, *, least: int = 0, most: int) -> Schema:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def either(*schemas: Schema) -> Schema:
    return {"anyOf": list(schemas)}


def nullable(schema: Schema) -> Schema:
    """Return `schema` or null, which the convention lets stand for an absent field."""
    if "enum" in schema:
        return {**schema, "enum": [*schema["enum"], None]}
    if isinstance(schema.get("type"), str):
        return {**schema, "type": [schema["type"], "null"]}
    return either({"type": "null"}, schema)


def granted(name: str, schema: Schema) -> Schema:
    return {**schema, "x-grant": name}


def settled(why: str, schema: Schema) -> Schema:
    return {**schema, "x-settled": why}


BOOLEAN: Schema = {"type": "boolean"}
MODEL: Schema = settled("must name the route that was decided on", {"type": "string", "maxLength": 256})
USER: Schema = settled("dropped", {"type": "string", "maxLength": 512})
TOKEN_ARRAY: Schema = array(integer(0, 2**24), least=1, most=131_072)
