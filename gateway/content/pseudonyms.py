"""Which stand-in replaces a value towards the model, and which of them may turn back into the value towards the caller?

A pseudonym is `<TYPE_k7f3_1>`: the entity type, a nonce drawn for this request, a number for each distinct value. Only tokens
minted in this request from the caller's own user messages are restored, never inside a URL, a link, markup or a tool's
arguments: a model can be told to carry placeholders to an address of the attacker's (SECURITY). The map lives in memory for
one exchange and is dropped with it.
"""

from __future__ import annotations

import re2

PLACEHOLDER = re2.compile(r"<[A-Z][A-Z_]{1,39}(?:_[a-z0-9]{4}_[0-9]{1,5})?>")
_LOOKALIKE = re2.compile(r"<([A-Z][A-Z_]{1,39}_[a-z0-9]{4}_[0-9]{1,5}>)")
_PARTIAL = re2.compile(r"<(?:[A-Z][A-Z_]{0,40}(?:_[a-z0-9]{0,4}(?:_[0-9]{0,5})?)?)?\z")
MAX_PLACEHOLDER = 56  # code points of the longest token
_LINKISH = re2.compile(r"(?i)(?://|www\.|mailto:|data:|javascript:|\]\()[^\s]*\z")
_HOSTISH = re2.compile(r"[A-Za-z0-9@_-]*(?:\.[a-z0-9-]{2,}(?:[/:?#.]|\s|\z)|/|@)")
_OPEN_TAG = re2.compile(r"<[A-Za-z/!][^<>]*\z")
_OPEN_LINK = re2.compile(r"\]\([^()\n]*\z")
LINK_CONTEXT = 512  # code points looked back for an unclosed link or tag


def escape_lookalikes(text: str) -> str:
    """Return `text` with anything shaped like a pseudonym made inert, so that only tokens we minted can be restored."""
    return _LOOKALIKE.sub(r"&lt;\1", text) if "<" in text else text


def placeholder_ranges(text: str) -> list[tuple[int, int]]:
    """Return where complete placeholders stand; they are never inspected as content again."""
    return [m.span() for m in PLACEHOLDER.finditer(text)] if "<" in text else []


def partial_placeholder(text: str) -> int:
    """Return where an unfinished placeholder begins at the end of `text`, or its length."""
    at = text.rfind("<", max(0, len(text) - MAX_PLACEHOLDER))
    return at if at >= 0 and _PARTIAL.match(text[at:]) else len(text)


class Pseudonyms:
    """The tokens of one exchange. `nonce`: four characters of [a-z0-9], random, drawn by the caller."""

    def __init__(self, nonce: str) -> None:
        self._nonce = nonce
        self._tokens: dict[tuple[str, str], str] = {}
        self._restorable: dict[str, str] = {}

    def token(self, type_: str, value: str, *, restorable: bool) -> str:
        """Return the token of a value, the same for equal values of a type. `restorable` once makes it restorable for good."""
        token = self._tokens.get((type_, value))
        if token is None:
            token = f"<{type_}_{self._nonce}_{len(self._tokens) + 1}>"
            self._tokens[(type_, value)] = token
        if restorable:
            self._restorable[token] = value
        return token

    @property
    def empty(self) -> bool:
        return not self._restorable

    def value(self, token: str, left: str, right: str) -> str:
        """Return what stands for `token` between `left` and `right`: its value, or the token where it may not be restored.

        `right` must reach to the end of the run without white space that the token stands in.
        """
        value = self._restorable.get(token)
        if value is None:
            return token
        near = left[-LINK_CONTEXT:]
        if _LINKISH.search(near) or _OPEN_TAG.search(near) or _OPEN_LINK.search(near) or _HOSTISH.match(right[:LINK_CONTEXT]):
            return token
        return value

    def restore(self, text: str) -> str:
        """Return a whole text with every token restored that may be."""
        if self.empty or "<" not in text:
            return text
        parts: list[str] = []
        at = 0
        for begin, end in placeholder_ranges(text):
            parts += (text[at:begin], self.value(text[begin:end], text[:begin], text[end:]))
            at = end
        return "".join(parts) + text[at:]
