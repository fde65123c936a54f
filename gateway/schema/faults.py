"""How is a body that does not fit its schema refused? With the place, in our schema's words, and never with the caller's.

The validator says only that a body does not fit. Its own explanations are not asked for: they quote values and unknown keys, and for
a union they gather every fault of every branch, which for a long list takes seconds (measured: 21 s for 300,000 numbers and a
string). Here the schema is walked beside the body to the first fault. Of a union the branch that was meant is taken, by type
and by discriminator (`role`, `type`, `datatype`). This decides nothing: a fault it does not find is refused all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import jsonschema_rs

from gateway.refusals import INVALID_REQUEST, Refusal
from gateway.schema.operations.spec import Path, Schema, Spec, json_path

MAX_FOREIGN = 8  # names of one body that are told apart in the record
_DISCRIMINATORS = ("role", "type", "datatype")
_MESSAGES: Mapping[str, str] = {
    "additionalProperties": "the object holds a field that this operation does not take",
    "required": "a required field is missing",
    "type": "the value has the wrong type",
    "enum": "the value is not one of those permitted",
    "const": "the value is not the one permitted",
    "minimum": "the number is too small",
    "maximum": "the number is too large",
    "minItems": "the list is too short",
    "maxItems": "the list is too long",
    "minLength": "the text is too short",
    "maxLength": "the text is too long",
    "pattern": "the text does not have the form required",
    "propertyNames": "a key does not have the form required",
    "maxProperties": "the object holds too many fields",
    "anyOf": "the value has none of the shapes permitted",
    "withheld": "the gateway does not take this field",
}
_OTHERWISE = "the request does not fit its schema"

# Fields that exist elsewhere and are refused here whatever policy grants: naming them back tells a caller nothing of its own.
REFUSED_FIELDS = frozenset(
    {
        "api_base",
        "audio",
        "base_url",
        "cache_salt",
        "custom",
        "data_sources",
        "extra_body",
        "extra_headers",
        "file_id",
        "function_call",
        "functions",
        "moderation",
        "prompt_cache_breakpoint",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "prompt_logprobs",
    }
)

Fault = tuple[Path, str]  # where, and the keyword it breaks


def fault(spec: Spec, body: Any) -> Refusal:
    """Return the refusal for a body that `spec.validator` found wanting."""
    path, keyword = next(_faults(spec.schema, body, ()), ((), ""))
    names = spec.names | REFUSED_FIELDS if keyword == "withheld" else spec.names
    refusal = Refusal(INVALID_REQUEST, message=_MESSAGES.get(keyword, _OTHERWISE), param=json_path(path, names), detail=keyword)
    if keyword in ("additionalProperties", "propertyNames"):
        holder = body
        for step in path:
            holder = holder[step]
        refusal.foreign = tuple(islice((key for key in holder if key not in names), MAX_FOREIGN))
    return refusal


def _faults(schema: Schema, value: Any, path: Path) -> Iterator[Fault]:
    """Yield the faults of `value`, the first of them at little cost."""
    if "anyOf" in schema:
        yield from _union(schema["anyOf"], value, path)
        return
    for keyword in ("const", "enum"):
        if keyword in schema and not _fits({keyword: schema[keyword]}, value):
            yield path, keyword
            return
    if "type" in schema and not _fits({"type": schema["type"]}, value):
        yield path, "type"
    elif isinstance(value, dict):
        yield from _object(schema, value, path)
    elif isinstance(value, list):
        yield from _bounds(schema, len(value), path, "minItems", "maxItems")
        if "items" in schema:
            fits = jsonschema_rs.Draft202012Validator(schema["items"]).is_valid  # compiled once: the list may be long
            for index, item in enumerate(value):
                if not fits(item):
                    yield from _faults(schema["items"], item, (*path, index))
    else:
        for keyword in ("minLength", "maxLength", "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"):
            if keyword in schema and not _fits({keyword: schema[keyword]}, value):
                yield path, keyword


def _fits(schema: Schema, value: Any) -> bool:
    """Return whether a value that holds no others, or only its type, fits."""
    if "type" in schema and isinstance(value, (dict, list)):
        value = type(value)()  # what it holds does not matter, and need not be read
    return bool(jsonschema_rs.is_valid(schema, value))


def _bounds(schema: Schema, size: int, path: Path, least: str, most: str) -> Iterator[Fault]:
    if size < schema.get(least, 0):
        yield path, least
    if size > schema.get(most, size):
        yield path, most


def _object(schema: Schema, value: dict[str, Any], path: Path) -> Iterator[Fault]:
    properties = schema.get("properties", {})
    rest = schema.get("additionalProperties", True)
    unknown = [key for key in value if key not in properties]
    if rest is False and unknown:
        withheld = next((key for key in unknown if key in REFUSED_FIELDS), None)
        yield ((*path, withheld), "withheld") if withheld is not None else (path, "additionalProperties")
    for name in schema.get("required", ()):
        if name not in value:
            yield (*path, name), "required"
    yield from _bounds(schema, len(value), path, "minProperties", "maxProperties")
    for name in value.keys() & properties.keys():
        yield from _faults(properties[name], value[name], (*path, name))
    if isinstance(rest, dict):
        for key in unknown:
            # The key is the caller's: the place is the object that holds it.
            if "propertyNames" in schema and not _fits(schema["propertyNames"], key):
                yield path, "propertyNames"
            for at, keyword in _faults(rest, value[key], path):
                yield at[: len(path)], keyword


def _union(branches: list[Schema], value: Any, path: Path) -> Iterator[Fault]:
    """Yield the faults in the branch that was meant, or say that there is none."""
    if any(jsonschema_rs.is_valid(branch, value) for branch in branches):
        return
    meant = [branch for branch in branches if _accepts_type(branch, value)]
    if not meant:
        yield path, "anyOf" if len(branches) > 1 else "type"
        return
    if isinstance(value, dict):
        told = [branch for branch in meant if _tells(branch, value)]
        if not told:
            place = next((name for name in _DISCRIMINATORS if any(name in branch.get("properties", {}) for branch in meant)), None)
            missing = place is not None and place not in value
            yield ((*path, place), "required" if missing else "enum") if place is not None else (path, "anyOf")
            return
        meant = told
    elif isinstance(value, list) and value and len(meant) > 1:
        # Lists of different things: the first item tells which was meant.
        meant = [branch for branch in meant if _accepts_type(branch.get("items", {}), value[0])] or meant
    yield from _faults(meant[0], value, path)


def _accepts_type(schema: Schema, value: Any) -> bool:
    if "anyOf" in schema:
        return any(_accepts_type(branch, value) for branch in schema["anyOf"])
    if "type" in schema:
        return _fits({"type": schema["type"]}, value)
    return _fits({keyword: schema[keyword] for keyword in ("const", "enum") if keyword in schema}, value)


def _tells(schema: Schema, value: dict[str, Any]) -> bool:
    """Return whether an object carries the discriminators that a branch asks for."""
    properties = schema.get("properties", {})
    return all(name in value and _accepts_type(properties[name], value[name]) for name in _DISCRIMINATORS if name in properties)
