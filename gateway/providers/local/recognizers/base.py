"""What is a recognizer? The few types that the scanner and the families of patterns share.

A recognizer is *memoryless*: whether a candidate starts at a position depends on at most `LEFT` characters before it and on a bounded
number after it, never on where the scan began. That property is what makes a stream equal a whole text; keep it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import NamedTuple, Protocol

import msgspec
import re2

LEFT_ORIGINAL = 192  # original characters that the evidence of a candidate may reach back; padding with ignorable ones gains nothing
LEFT = 64  # canonical characters of context before a match; keywords further away do not count
MAX_TOKEN = 512  # characters of a candidate that holds no blank, unless it is a `LONG` one
MAX_PHRASE = 256  # characters of a candidate that holds blanks
MAX_LONG = 8_192  # characters of a private key block or a signed token

WEAK, SHAPED, SECRET_RANK, PROVEN = 0, 1, 2, 3  # who yields to whom where candidates overlap


class Found(NamedTuple):
    """A candidate over canonical positions. Sorts by start, then by rank, then longer first; `origin` is where its evidence begins."""

    start: int
    order: int  # -rank
    reach: int  # -end
    type: str
    name: str
    score: float
    origin: int


def found(start: int, end: int, kind: str, name: str, score: float, rank: int, origin: int = -1) -> Found:
    return Found(start, -rank, -end, kind, name, score, start if origin < 0 else origin)


class Reading(msgspec.Struct, frozen=True):
    """The canonical text as bytes, one a character: what no pattern names has become `?`. `offsets`: where each stood in the original."""

    data: bytes
    offsets: list[int] | None = None

    def before(self, at: int, width: int = LEFT) -> bytes:
        """Return up to `width` characters left of `at`, in lower case, none from more than `LEFT_ORIGINAL` original ones before it."""
        begin = max(0, at - width)
        if self.offsets is not None and at < len(self.offsets):
            begin = max(begin, bisect_left(self.offsets, self.offsets[at] - LEFT_ORIGINAL))
        return self.data[begin:at].lower()


class Recognizer(Protocol):
    """`trigger` is a linear pattern that must match somewhere for `find` to be worth calling; `phrase` a span pattern with blanks."""

    @property
    def name(self) -> str: ...
    @property
    def trigger(self) -> str: ...
    @property
    def phrase(self) -> str: ...

    def find(self, reading: Reading, start: int) -> list[Found]:
        """Return every candidate that begins at or after `start`, each position judged by itself."""
        ...


Check = Callable[[Reading, int, int], bool]  # (reading, start, end)


class Rule:
    """One pattern: `left` is context and never part of the span; `span` the entity; `right` what must follow."""

    def __init__(
        self,
        name: str,
        kind: str,
        span: str,
        *,
        left: str = "",
        right: str = "",
        trigger: str = "",
        score: float = 0.9,
        rank: int = SHAPED,
        check: Check | None = None,
        phrase: bool = False,
        token: bool = False,
    ) -> None:
        """`token`: instead of patterns `left` and `right`, no letter or digit may stand on either side."""
        self.name = name
        self.type = kind
        self.trigger = trigger or f"{left}(?:{span}){right}"
        self.phrase = span if phrase else ""
        # Without a group the automaton alone gives the bounds, at a tenth of the cost: hostile text may match everywhere.
        zero_width = {left, right} <= {"", r"\b"}
        self._compiled = compiled(f"{left}(?:{span}){right}" if zero_width else f"{left}({span}){right}")
        self._group = 0 if zero_width else 1
        self._token = token
        self._score = score
        self._rank = rank
        self._check = check
        self._limit = MAX_PHRASE if phrase else MAX_TOKEN

    def find(self, reading: Reading, start: int) -> list[Found]:
        data = reading.data
        out: list[Found] = []
        match = self._compiled.search(data, max(0, start - LEFT - 2))
        while match is not None:
            begin, end = match.span(self._group)
            fits = begin >= start and begin - match.start() <= LEFT + 2 and end - begin <= self._limit
            if fits and (not self._token or _alone(data, begin, end)) and (self._check is None or self._check(reading, begin, end)):
                out.append(found(begin, end, self.type, self.name, self._score, self._rank, match.start()))
            match = self._compiled.search(data, match.start() + 1)
        return out


def _alone(data: bytes, begin: int, end: int) -> bool:
    """A token cut at its greatest length may go on: what is known of it is masked."""
    return not data[max(0, begin - 1) : begin].isalnum() and (end - begin >= 200 or not data[end : end + 1].isalnum())


def compiled(pattern: str, memory: int = 8 << 20) -> re2._Regexp:
    """Compile over bytes, with RE2's own logging off: patterns must not print the text they fail on.

    `memory`: bytes for the states of the automaton. A pattern with more of them than fit is searched by slower means, and not a word of it.
    """
    options = re2.Options()
    options.log_errors = False
    options.max_mem = memory
    return re2.compile(pattern.encode("ascii"), options)
