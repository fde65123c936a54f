"""Is this body one JSON document that every parser on the way reads alike? If not, it is refused before anything looks at it.

RFC 8259, narrowed to what leaves no room for two readings (RFC 7493 and a little more):

1. UTF-8 without BOM, no lone surrogates, one document and nothing after it;
2. no key twice, neither exactly nor after NFKC and case folding: parsers exist that match names without regard to case,
   and let the last one win;
3. no control character in a key;
4. numbers are finite doubles or integers within 64 bits, signed;
5. nesting, size and the number of objects and lists are bounded;
6. a request body is an object.

It never says which text was wrong: the reason is one of a few constants.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

import jiter
import msgspec

from gateway.refusals import INVALID_JSON, TOO_LARGE, Refusal

MAX_DEPTH = 64  # the deepest legitimate body seen, a tool's nested JSON Schema, stays under 20
MAX_CONTAINERS = 65_536  # objects and lists: a conversation of 2,048 messages with parts holds a tenth of it
MAX_FOLDED = 16_384  # code points of keys beyond ASCII: normalising can make 18 of one, and costs a microsecond each

_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1
_MAX_FLOAT = 1.7976931348623157e308

# No two of these fold alike (a test holds them to it), so an object with no other name needs no closer look: most end here.
_PLAIN_KEY_LIST = """
model messages role content name type text image_url url detail tool_calls tool_call_id id index function arguments temperature
top_p max_tokens max_completion_tokens stream stream_options include_usage n stop seed tools tool_choice description parameters
properties required items enum input prompt response_format json_schema schema strict additionalProperties shape datatype data
inputs outputs user metadata refusal
"""
_PLAIN_KEYS = frozenset(_PLAIN_KEY_LIST.split())


def parse(body: bytes, max_bytes: int, max_depth: int = MAX_DEPTH) -> dict[str, Any]:
    """Return the object that `body` holds.

    Raises `Refusal(TOO_LARGE)` above `max_bytes` and `Refusal(INVALID_JSON)` for everything else, with a message of its class;
    `detail` is the class of the fault: syntax, duplicate_key, key, number, depth, containers or not_object.
    """
    if len(body) > max_bytes:
        raise Refusal(TOO_LARGE, detail="too_large")
    root = _read(body)
    if type(root) is not dict:
        raise _no("not_object")
    _walk(root, max_depth)
    return root


def parse_document(text: str, max_depth: int = MAX_DEPTH) -> Any:
    """Return the value of a JSON document that came inside a string, under the same rules; any type may stand at the top."""
    root = _read(text.encode("utf-8", "surrogatepass"))  # a lone surrogate is then refused as what it is: not UTF-8
    _walk([root], max_depth + 1)
    return root


def dump(value: Any) -> bytes:
    """Write a parsed value back as JSON: what leaves is written by us, so that it says what was checked and nothing else."""
    return msgspec.json.encode(value)


def fold(key: str) -> str:
    """Return the form under which two keys count as the same."""
    # Folding may undo the normal form and normalising may bring up new cased letters: twice is a fixed point.
    once = unicodedata.normalize("NFKC", key).casefold()
    return unicodedata.normalize("NFKC", once).casefold()


_WHY: Mapping[str, str] = {
    "syntax": "it is not one JSON document in UTF-8",
    "duplicate_key": "a key stands twice in one object, regardless of case and form",
    "key": "a key holds a control character or too much beyond ASCII",
    "number": "a number is not finite or not within 64 bits",
    "depth": "it is nested too deeply",
    "containers": "it holds too many objects and lists",
    "not_object": "it is not an object",
}


def _no(reason: str) -> Refusal:
    return Refusal(INVALID_JSON, message=f"{INVALID_JSON.message}: {_WHY[reason]}", detail=reason)


def _read(body: bytes) -> Any:
    try:
        return jiter.from_json(body, allow_inf_nan=False, cache_mode="keys", catch_duplicate_keys=True)
    except ValueError as error:
        # SECURITY: the parser's text names the duplicate key; only the class of the fault goes on.
        text = str(error)
        if text.startswith("Detected duplicate key"):
            raise _no("duplicate_key") from None
        raise _no("depth" if text.startswith("recursion limit") else "syntax") from None


def _walk(root: Any, max_depth: int) -> None:
    """Check what the parser lets through: folded duplicates, control characters in keys, numbers, depth. Level by level."""
    level: list[Any] = [root]
    depth = containers = folded = 0
    while level:
        depth += 1
        containers += len(level)
        if depth > max_depth:
            raise _no("depth")
        if containers > MAX_CONTAINERS:
            raise _no("containers")
        below: list[Any] = []
        for node in level:
            if type(node) is dict:
                if not node.keys() <= _PLAIN_KEYS:
                    folded = _check_keys(node, folded)
                values: Any = node.values()
            else:
                values = node
            for value in values:
                kind = type(value)
                if kind is str:
                    continue
                if kind is dict or kind is list:
                    below.append(value)
                elif kind is int:
                    if not _INT_MIN <= value <= _INT_MAX:
                        raise _no("number")
                elif kind is float and not -_MAX_FLOAT <= value <= _MAX_FLOAT:
                    raise _no("number")
        level = below


def _check_keys(node: dict[str, Any], folded: int) -> int:
    """Check one object's keys; return `folded` and what had to be folded here, in code points."""
    joined = "".join(node)
    if not joined.isascii():
        folded += len(joined)
        if folded > MAX_FOLDED:
            raise _no("key")
        distinct = len({fold(key) for key in node})
    elif joined != joined.lower():
        distinct = len({key.lower() for key in node})
    else:
        distinct = len(node)  # exact duplicates ended in the parser
    if distinct != len(node):
        raise _no("duplicate_key")
    # A key may hold odd separators or unassigned code points; controls are what breaks logs and C parsers.
    if not joined.isprintable() and any(unicodedata.category(char) == "Cc" for char in joined):
        raise _no("key")
    return folded
