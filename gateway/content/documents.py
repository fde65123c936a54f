"""What strings does a JSON document inside a string hold, and how are they rewritten so that it stays valid JSON?

Tool arguments are such documents. A document is exploded into its strings (values, keys, long numbers), each inspected decoded,
so that `\\u0040` hides nothing. What does not parse strictly, duplicate keys included, is no document: the caller treats it as
plain text together with its unescaped reading.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

Path = tuple[str | int, ...]
MAX_DEPTH = 64
MAX_NODES = 20_000  # values and keys of one document: reading them takes about 20 ms, in which nothing else is served
MIN_NUMBER = 7  # digits from which a number may be an identifier
MAX_PARTS = 19  # of a number that a list holds in pieces, and digits of it: a card has no more


class KeyAt(str):
    """The last step of a path that names a key itself, not its value."""

    __slots__ = ()


class TooLarge(Exception):
    """A document of more than `MAX_NODES` values and keys: no honest argument of a tool."""


class _Reader:
    """Counts while it reads, so that a document of many small objects is not read to its end."""

    def __init__(self) -> None:
        self._nodes = 0

    def pairs(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        self._nodes += 1 + 2 * len(pairs)
        if self._nodes > MAX_NODES:
            raise TooLarge
        document = dict(pairs)
        if len(document) != len(pairs):
            raise ValueError("duplicate key")
        return document


def _constant(_: str) -> NoReturn:
    raise ValueError("not a JSON number")


def parse(text: str) -> Any | None:
    """Return the document, or None when it is not strict JSON of bounded depth (a bare null is None too: it holds no text).

    Half a character (a lone surrogate) is no text, and what holds one is none: it could not be sent on either.

    Raises `TooLarge`.
    """
    try:
        document = json.loads(text, object_pairs_hook=_Reader().pairs, parse_constant=_constant)
    except (ValueError, RecursionError):
        return None
    if "\\u" in text and not all(_encodes(said) for _, said in strings(document)):
        return None
    return document if _bounded(document) else None


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _bounded(document: Any) -> bool:
    """Tell whether the document is no deeper than `MAX_DEPTH`. Raises `TooLarge`."""
    level, depth, nodes = [document], 0, 1
    while level and depth <= MAX_DEPTH:
        below: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                below += node.values()
                nodes += 2 * len(node)
            elif isinstance(node, list):
                below += node
                nodes += len(node)
            if nodes > MAX_NODES:
                raise TooLarge
        level = below
        depth += 1
    return not level


def strings(document: Any, path: Path = ()) -> list[tuple[Path, str]]:
    """Return every inspected string with its path; a key's path ends in `KeyAt`."""
    if isinstance(document, str):
        return [(path, document)]
    if isinstance(document, bool) or document is None:
        return []
    if isinstance(document, (int, float)):
        digits = str(int(document)) if isinstance(document, float) and document.is_integer() else str(document)
        return [(path, digits)] if len(digits) >= MIN_NUMBER else []
    found: list[tuple[Path, str]] = []
    if isinstance(document, list):
        for index, child in enumerate(document):
            found += strings(child, (*path, index))
        number = _number_in_parts(document)
        if number:
            found.append((path, number))  # after its parts: an edit of a part must find the list still there
    elif isinstance(document, dict):
        for key, child in document.items():
            found.append(((*path, KeyAt(key)), key))
            found += strings(child, (*path, key))
    return found


def _number_in_parts(items: list[Any]) -> str:
    """Return the digits of a list that is one number in parts, such as `[4111, 1111, 1111, 1111]`, with blanks between; else nothing."""
    if not 2 <= len(items) <= MAX_PARTS:
        return ""
    parts = [str(item) for item in items if isinstance(item, (int, str)) and not isinstance(item, bool)]
    if len(parts) < len(items) or not all(part.isascii() and part.isdigit() for part in parts):
        return ""
    return " ".join(parts) if MIN_NUMBER <= sum(map(len, parts)) <= MAX_PARTS else ""


def replace(document: Any, path: Path, text: str) -> Any:
    """Return the document with the string at `path` replaced (in place below the root)."""
    if not path:
        return text
    node = document
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = text
    return document


def dump(document: Any) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def unescaped(text: str) -> str:
    """Return a lenient reading of text that looks like broken JSON: its escapes decoded where they can be."""
    if "\\" not in text:
        return text
    return _ESCAPED.sub(_plain, text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


_ESCAPED = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|(.))", re.DOTALL)
_SHORT = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


def _plain(escaped: re.Match[str]) -> str:
    code, sign = escaped.groups()
    return chr(int(code, 16)) if code else _SHORT.get(sign, sign)
