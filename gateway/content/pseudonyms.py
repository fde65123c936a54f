"""Which stand-in replaces a value towards the model, and which of them may turn back into the value towards the caller?

A pseudonym is `<TYPE_k7f3_1>`: the entity type, a nonce drawn for this request, a number for each distinct value. Only tokens
minted in this request from the caller's own user messages are restored, never inside a URL, a link, markup (`markup`) or a tool's
arguments: a model can be told to carry placeholders to an address of the attacker's (SECURITY). In a text that is JSON, and in a
string that stands in JSON's punctuation, the value comes back escaped, so that the text stays valid JSON. The map lives in memory for one
exchange and is dropped with it.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import NamedTuple

import re2

from gateway.content.markup import Markup
from gateway.evidence import Span

PLACEHOLDER = re.compile(r"<[A-Z][A-Z_]{1,39}(?:_[a-z0-9]{4}_[0-9]{1,5})?>")
_LOOKALIKE = re2.compile(r"<([A-Z][A-Z_]{1,39}_[a-z0-9]{4}_[0-9]{1,5}>)")
_PARTIAL = re2.compile(r"<(?:[A-Z][A-Z_]{0,40}(?:_[a-z0-9]{0,4}(?:_[0-9]{0,5})?)?)?\z")
MAX_PLACEHOLDER = 56  # code points of the longest token
# What may stand, without white space, around a token that is restored. SECURITY: everything a link, a path, a query, an escape or
# markup needs is absent: / \\ = & % @ # < > [ ] and a dot before a letter.
_BEFORE = re2.compile(r"(?:[\pL\pN,;:!('\"\x{201c}\x{201e}\x{2018}*_-])*\z")
_AFTER = re2.compile(r"(?:[\pL\pN,;:!?)'\"\x{201d}\x{2019}*_\x{2026}-]|\.(?:[^\pL\pN]|\z)|\.\.)*\z")
# The same within a string of JSON without white space: `{"to":"` before it, `"}` or `","n":1` after it. SECURITY: what follows the string
# is JSON to its end, or the run goes on as another word: an address, say, that the value would be part of.
_JSON_BEFORE = re2.compile(r"""[`(*_]{0,3}(?:[\pL\pN_{}\[\],:"+-]|[0-9]\.[0-9])*[{\[,:]"[\pL\pN,;:!('\x{201c}\x{201e}\x{2018}*_-]*\z""")
_JSON_AFTER = re2.compile(
    r"""(?s)(?:[\pL\pN,;:!?)'\x{201d}\x{2019}*_\x{2026}-]|\.(?:[^\pL\pN]|\z)|\.\.)*(?:\z|["]"""  # the rest of the string, to its end
    r"""(?:[\]}]|[,:][\[{]*(?:"(?:[^"\\]|\\.)*"|-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null)?)*"""
    r"""(?:[,:][\[{]*(?:"(?:[^"\\]|\\.)*\\?|-?[0-9.eE+-]*|[a-z]{1,4}))?[`)*_]{0,3}[.,;:!?)]{0,2}\z)"""  # what is cut off, and prose
)
# A list of numbers or words in brackets is a footnote as often; what begins with a quotation mark alone is prose.
_JSON_OPENS = re2.compile(r"""\s*(?:(?:`{3,5}|~{3,5})[A-Za-z0-9]{0,12}\s*)?(?:\{\s*"|\[\s*[{\["])""")
_KEYED = re2.compile(r"""(?s)"\s*:\s*"(?:[^"\\\n]|\\.)*\z""")  # the string is the value of a key, though the text as a whole is not JSON
OPENING = 64  # code points of a text that tell whether it is JSON, what is blank before them aside
_NAMING = re2.compile(r"""(?s)[{,]\s*"(?:[^"\\\n]|\\.)*\z""")  # or it is a name itself
_NAMED = re2.compile(r"""(?s)(?:[^"\\\s]|\\.)*":""")
_BLANKS = " \t\r\n\ufeff"
_SCHEME = re2.compile(r"(?i)\b(?:[a-z]+-)?(?:https?|ftp|mailto|data|javascript|vbscript|blob|wss?):")
STEP = 8_192  # code points read for markup in one go
LINK_CONTEXT = 512  # code points looked back for the run a token stands in; a longer run is never prose


def opening(text: str) -> str:
    """Return what `is_json` wants of a text, which may come in parts: `opening(opening(part) + rest)` is that of the whole."""
    return text.lstrip(_BLANKS)[:OPENING]


def is_json(opened: str) -> bool:
    """Tell whether a text with this `opening` is JSON, by its first signs: a stream shows no more when it must be known."""
    return _JSON_OPENS.match(opened) is not None


class _Value(NamedTuple):
    """A value as it reads in prose, and as the caller wrote it in JSON."""

    plain: str
    escaped: str

    @classmethod
    def of(cls, text: str, *, escaped: bool) -> _Value:
        if escaped and "\\" in text:
            try:
                return cls(json.loads(f'"{text}"'), text)
            except ValueError:  # half an escape, or text that only looks like JSON: it stands for itself
                pass
        return cls(text, json.dumps(text, ensure_ascii=False)[1:-1])


def escape_lookalikes(text: str) -> str:
    """Return `text` with anything shaped like a pseudonym made inert, so that only tokens we minted can be restored."""
    return _LOOKALIKE.sub(r"&lt;\1", text) if "<" in text else text


def placeholder_ranges(text: str) -> list[tuple[int, int]]:
    """Return where complete placeholders stand; they are never inspected as content again."""
    return [m.span() for m in PLACEHOLDER.finditer(text)] if "<" in text else []


def in_ranges(span: Span, ranges: Sequence[tuple[int, int]]) -> bool:
    """Tell whether one of the ranges, ordered and apart from one another, holds the whole span."""
    at = bisect_right(ranges, span.start, key=_begin) - 1
    return at >= 0 and span.end <= ranges[at][1]


def _begin(found: tuple[int, int]) -> int:
    return found[0]


def partial_placeholder(text: str) -> int:
    """Return where an unfinished placeholder begins at the end of `text`, or its length."""
    at = text.rfind("<", max(0, len(text) - MAX_PLACEHOLDER))
    return at if at >= 0 and _PARTIAL.match(text[at:]) else len(text)


class Pseudonyms:
    """The tokens of one exchange. `nonce`: four characters of [a-z0-9], random, drawn by the caller."""

    def __init__(self, nonce: str) -> None:
        self._nonce = nonce
        self._tokens: dict[tuple[str, str], str] = {}
        self._restorable: dict[str, _Value] = {}
        self._minted: set[str] = set()

    def token(self, type_: str, value: str, *, restorable: bool, escaped: bool = False) -> str:
        """Return the token of a value, the same for equal values of a type. `restorable` once makes it restorable for good.

        `escaped`: the value was found in a text that is JSON.
        """
        found = _Value.of(value, escaped=escaped)
        token = self._tokens.get((type_, found.plain))
        if token is None:
            token = f"<{type_}_{self._nonce}_{len(self._tokens) + 1}>"
            self._tokens[(type_, found.plain)] = token
            self._minted.add(token)
        if restorable:
            self._restorable.setdefault(token, found)
        return token

    @property
    def empty(self) -> bool:
        return not self._restorable

    def value(self, token: str, left: str, right: str, *, inside: bool = False, escaped: bool = False) -> str:
        """Return what stands for `token` between `left` and `right`: its value, or the token where it may not be restored.

        `right` must reach to the end of the run without white space that the token stands in, `LINK_CONTEXT` at most, as `left` to its
        beginning; `inside`: all before the token leaves markup open (`Markup`); `escaped`: the text is JSON.
        """
        value = self._restorable.get(token)
        if value is None or inside:
            return token
        left, right = left[-LINK_CONTEXT:], right[:LINK_CONTEXT]
        before, after = _run_before(left), _run_after(right)
        if len(before) == LINK_CONTEXT or len(after) == LINK_CONTEXT:
            return token  # SECURITY: nobody sees where it begins, or ends; it is no prose
        before, after = PLACEHOLDER.sub("", before), PLACEHOLDER.sub("", after)
        if _SCHEME.search(before):
            return token
        if not _BEFORE.match(before):
            if not _JSON_BEFORE.match(before):
                return token
            escaped = True
        if not _AFTER.match(after):
            if not _JSON_AFTER.match(after):
                return token
            escaped = True
        escaped = escaped or _KEYED.search(left) is not None or (_NAMING.search(left) is not None and _NAMED.match(after) is not None)
        return value.escaped if escaped else value.plain

    def minted(self, text: str) -> list[tuple[int, int]]:
        """Return where tokens of this exchange stand. SECURITY: `<STYLE>` has the shape of a placeholder and is none."""
        return [match.span() for match in PLACEHOLDER.finditer(text) if match.group() in self._minted] if "<" in text else []

    def walk(self, text: str) -> Iterator[tuple[int, int, str] | None]:
        """Yield where the tokens of a whole text stand and what stands for each, in order, and None when time has passed."""
        at = 0
        markup = Markup()
        escaped = is_json(opening(text))
        for number, (begin, end) in enumerate(self.minted(text)):
            for step in range(at, begin, STEP):
                markup = markup.after(text[step : min(begin, step + STEP)])
                if step > at or number % 64 == 63:
                    yield None
            near, far = text[max(0, begin - LINK_CONTEXT) : begin], text[end : end + LINK_CONTEXT]
            yield begin, end, self.value(text[begin:end], near, far, inside=markup.open, escaped=escaped)
            at = end

    async def restore(self, text: str, breathe: Callable[[], Awaitable[None]]) -> str:
        """Return a whole text with every token restored that may be; `breathe` is awaited while it takes its time."""
        if self.empty or "<" not in text:
            return text
        parts: list[str] = []
        at = 0
        for edit in self.walk(text):
            if edit is None:
                await breathe()
                continue
            begin, end, value = edit
            parts += (text[at:begin], value)
            at = end
        return "".join(parts) + text[at:]


def _run_before(left: str) -> str:
    at = len(left)
    while at and not left[at - 1].isspace():
        at -= 1
    return left[at:]


def _run_after(right: str) -> str:
    at = 0
    while at < len(right) and not right[at].isspace():
        at += 1
    return right[:at]
