"""How is a body that does not fit its schema refused? With the place, in our schema's words, and never with the caller's.

The validator's own messages are not used: they quote values and unknown keys. A union says only that no branch fits; the branch that
was meant is found by its discriminator (`role`, `type`), and its first fault is the one reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gateway.refusals import INVALID_REQUEST, Refusal
from gateway.schema.operations.spec import Path, Spec, json_path

_DISCRIMINATORS = ("role", "type")
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
    "maxLength": "the text is too long",
    "minLength": "the text is too short",
    "pattern": "the text does not have the form required",
    "propertyNames": "a key does not have the form required",
    "maxProperties": "the object holds too many fields",
    "anyOf": "the value has none of the shapes permitted",
}
_WITHHELD = "the gateway does not take this field"

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


def fault(spec: Spec, body: Any) -> Refusal:
    """Return the refusal for a body that `spec.validator` found wanting."""
    try:
        spec.validator.validate(body)
    except ValueError as error:
        found = _meant(error)
        path: Path = tuple(found.instance_path)
        kind = found.kind.name
        message = _MESSAGES.get(kind, "the value does not fit")
        if kind == "required":
            path = (*path, found.kind.property)
        elif kind == "additionalProperties":
            withheld = next((name for name in found.kind.unexpected if name in REFUSED_FIELDS), None)
            if withheld is not None:
                return _refusal((*path, withheld), spec.names | REFUSED_FIELDS, _WITHHELD, kind)
        return _refusal(path, spec.names, message, kind)
    return _refusal((), spec.names, "the request does not fit its schema", "undecided")


def _refusal(path: Path, names: frozenset[str], message: str, kind: str) -> Refusal:
    return Refusal(INVALID_REQUEST, message=message, param=json_path(path, names), detail=kind)


def _meant(error: Any) -> Any:
    """Follow unions down to the branch whose discriminator fits."""
    while error.kind.name == "anyOf":
        here = tuple(error.instance_path)
        branches: list[list[Any]] = [list(branch) for branch in error.kind.context]
        fitting = [branch for branch in branches if branch and not any(_tells_apart(one, here) for one in branch)]
        if len(fitting) == 1:
            error = fitting[0][0]
            continue
        # All branches refuse the same discriminator: that is the place.
        places = {tuple(one.instance_path) for branch in branches for one in _apart(branch, here)}
        deeper = [place for place in places if len(place) == len(here) + 1]
        if not fitting and len(deeper) == 1:
            return next(one for branch in branches for one in branch if tuple(one.instance_path) == deeper[0])
        return error
    return error


def _apart(branch: Iterable[Any], here: Path) -> list[Any]:
    return [one for one in branch if _tells_apart(one, here)]


def _tells_apart(error: Any, here: Path) -> bool:
    """Return whether this error says that the branch was not the one meant, rather than that something in it is wrong."""
    path = tuple(error.instance_path)
    if path == here:
        return bool(error.kind.name in {"type", "enum", "const"})
    return len(path) == len(here) + 1 and path[-1] in _DISCRIMINATORS and error.kind.name in {"const", "enum", "type"}
