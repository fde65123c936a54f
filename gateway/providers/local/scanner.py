"""Which personal data and secrets does this text hold, by form alone? Deterministic, linear in the text, exact over streams.

Theory of operation
-------------------
The text is read through its canonical view (`gateway.content.views`) as ASCII bytes, one a character. One linear set of trigger patterns
says which recognizers are worth running; each of these lists *candidates*, memoryless: from the text near the candidate alone.
`_resolve` walks them by start: a candidate that begins inside an accepted span is dropped; one that overlaps a later candidate of higher
rank yields to it. Both rules look only forward from a start, so the walk may begin anew at any position outside an accepted span with
the same result: INVARIANT, property-tested, and the reason that a stream gives the spans of the whole text.

`viable_from`: a candidate without blanks lies inside a run of non-blanks, so nothing before the last run can change by its growth; a
candidate with blanks is found by the automatically derived pattern of all its prefixes, matched backwards from the end. Where such a
prefix reaches back over complete candidates of lower rank, these may still have to yield, so the result moves back over them. Every
candidate is bounded, so that text without blanks is released too: after `MAX_TOKEN` characters, or `MAX_LONG` for key blocks and tokens.

SECURITY: the set's automaton answers with nothing when it runs out of memory. A canary is appended to each text and has a pattern of its
own; where it is not reported, every recognizer runs.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Collection, Sequence

import re2

from gateway.content import views
from gateway.evidence import Span
from gateway.providers.local.recognizers import (
    addresses,
    credentials,
    disguised,
    identifiers,
    labelled,
    national,
    network,
    numbers,
    secrets,
)
from gateway.providers.local.recognizers.base import (
    LEFT,
    LEFT_ORIGINAL,
    MAX_LONG,
    MAX_PHRASE,
    MAX_TOKEN,
    WEAK,
    Found,
    Reading,
    Recognizer,
    compiled,
)
from gateway.providers.local.recognizers.prefixes import unfinished

LEFT_CONTEXT = 320  # `LEFT_ORIGINAL`, what a cut-off run of ignorable characters may distort, and room
_CANARY = b"\nzqxcanaryqzx"
_RANKS = 4
_PREFIX_MEMORY = 24 << 20  # bytes of states of one automaton; a quarter is used
_MAX_ESCAPE = 20
_ESCAPES = frozenset(b"%&\\")
_UNFINISHED_ESCAPE = re.compile(rb"(?:%[0-9A-Fa-f]{0,5}|&(?:amp;){0,2}#?[0-9A-Za-z]{0,7}|\\{1,4}[ux]?[0-9A-Fa-f]{0,4})\Z")
_LETTER = re.compile("[\u00c0-\u1fff]")  # alphabets written with blanks between words; CJK is not


class PatternScanner:
    """Implements `ports.SpanDetector`. Immutable after construction; safe to share between threads."""

    name = "patterns"
    version = "3"
    left_context = LEFT_CONTEXT

    def __init__(
        self, *, urls: bool = False, dates: bool = False, countries: Collection[str] | None = None, set_memory: int = 32 << 20,
        secrets_only: bool = False,
    ) -> None:
        """`countries` (two letters): whose national identifiers to look for; None: all. IBAN, cards and passports are of no country."""
        self._countries = None if countries is None else frozenset(countries)
        self._long = (secrets.PrivateKey(), secrets.SignedToken())
        signs = (*secrets.recognizers(), *credentials.recognizers())
        # One automaton of prefixes for each family: together they have more states than fit, and search at a twentieth of the speed.
        families: tuple[Sequence[Recognizer], ...] = (
            (
                *network.recognizers(urls=urls), numbers.Numbers(), *identifiers.recognizers(), *national.recognizers(),
                *labelled.recognizers(dates=dates), *signs, *disguised.recognizers(),
            ),
            addresses.recognizers(),
        )  # fmt: skip
        if secrets_only:
            families = (signs,)
        self._recognizers: tuple[Recognizer, ...] = tuple(recognizer for family in families for recognizer in family)
        options = re2.Options()
        options.log_errors = False
        options.max_mem = set_memory
        self._set = re2.Set.SearchSet(options)
        triggers: dict[str, list[Recognizer]] = {}
        for recognizer in self._recognizers:
            triggers.setdefault(recognizer.trigger, []).append(recognizer)
        for trigger in triggers:
            self._set.Add(trigger)
        self._groups = tuple(tuple(group) for group in triggers.values())
        self._canary = len(self._groups)
        self._set.Add(_CANARY.decode("ascii").strip())
        self._set.Compile()
        phrases = [dict.fromkeys(recognizer.phrase for recognizer in family if recognizer.phrase) for family in families]
        self._unfinished = tuple(
            compiled("(?:" + "|".join(unfinished(phrase) for phrase in family) + r")\z", _PREFIX_MEMORY) for family in phrases if family
        )

    def scan(self, text: str, start: int = 0) -> list[Span]:
        """Return resolved spans that begin at or after `start`; `text[:start]` is context only."""
        base = max(0, start - LEFT_CONTEXT)
        view = views.canonical(text[base:] if base else text)
        candidates = self._candidates(view, start - base)
        if not candidates:
            return []
        spans: list[Span] = []
        for candidate in _resolve(candidates):
            begin, end = view.original(candidate.start, -candidate.reach)
            spans.append(Span(begin + base, end + base, candidate.type, candidate.score, candidate.name))
        return spans

    def viable_from(self, text: str, start: int = 0) -> int:
        """Return the least index from which more text could begin, extend or change a span; see `ports.SpanDetector`."""
        base = max(0, start - LEFT)
        view = views.canonical(text[base:] if base else text)
        data = _bytes(view)
        at = self._viable(view, data, _position(view, start - base))
        if at >= len(data):
            return len(text)
        return max(start, base + (at if view.offsets is None else view.offsets[at]))

    def _viable(self, view: views.View, data: bytes, start: int) -> int:
        size = len(data)
        run = _last_run(data)
        at = max(run, size - MAX_TOKEN)
        phrase = self._phrase_from(data, start)
        tail = data[-_MAX_ESCAPE:]
        if not _ESCAPES.isdisjoint(tail) and (escape := _UNFINISHED_ESCAPE.search(tail)) is not None:
            # SECURITY: it may become a blank, a digit or nothing at all, and what stands before it go on behind it.
            before = size - len(tail) + escape.start()
            phrase = min(phrase, before, self._phrase_from(data[:before], start))
            phrase = min([phrase, *(begin for long in self._long if (begin := long.open_from(data[:before], start)) >= 0)])
        for recognizer in self._long:
            if (recognizer is self._long[0] and b"-----BEGIN" in data) or at > run:
                opened = recognizer.open_from(data, start)
                phrase = min(phrase, opened if opened >= 0 else size)
        if phrase < run or at > run:
            at = self._clear(view, min(at, phrase))
        return at

    def _phrase_from(self, data: bytes, start: int) -> int:
        """Return where a candidate with blanks begins that could go on after the end, or the end."""
        near = max(start, _last_run(data) - MAX_PHRASE)
        found = [match.start() for pattern in self._unfinished if (match := pattern.search(data, near)) is not None]
        return min(found, default=len(data))

    def _clear(self, view: views.View, at: int) -> int:
        """Move back over complete candidates that a candidate still to come could make yield; each yields to a higher rank only."""
        near = max(0, at - MAX_LONG)
        candidates = self._candidates(view, near if view.offsets is None else view.offsets[near])
        for _ in range(_RANKS):
            at = min([at, *(c.start for c in candidates if c.start < at < -c.reach)])
        return at

    def _candidates(self, view: views.View, start: int) -> list[Found]:
        """Return all candidates whose original position is `start` or later, sorted."""
        data = _bytes(view)
        hits: Sequence[int] = self._set.Match(data + _CANARY)
        if self._canary not in hits:
            hits = range(self._canary)
        elif len(hits) == 1:
            return []
        reading = Reading(data, view.offsets)
        begin = _position(view, start)
        found: list[Found] = []
        for hit in hits:
            if hit != self._canary:
                for recognizer in self._groups[hit]:
                    found += recognizer.find(reading, begin)
        if self._countries is not None:
            found = [c for c in found if (country := national.country_of(c.type)) is None or country in self._countries]
        if view.offsets is not None:
            offsets = view.offsets
            found = [c for c in found if offsets[c.start] >= start and offsets[c.start] - offsets[c.origin] <= LEFT_ORIGINAL]
        found.sort()
        return found


def _bytes(view: views.View) -> bytes:
    """One byte a character: letters of other alphabets as DEL, which may be part of a mailbox name, anything else as `?`."""
    text = view.text
    return text.encode() if text.isascii() else _LETTER.sub("\x7f", text).encode("ascii", "replace")


def _position(view: views.View, start: int) -> int:
    return start if view.offsets is None else bisect_left(view.offsets, start)


def _last_run(data: bytes) -> int:
    """Return where the last run of non-blanks begins; the end of the text when it ends with a blank."""
    tail = data[-MAX_TOKEN - 1 :]
    at = max(tail.rfind(b" "), tail.rfind(b"\n"), tail.rfind(b"\t"), tail.rfind(b"\r"), tail.rfind(b"\x0b"), tail.rfind(b"\x0c"))
    return len(data) - len(tail) + at + 1 if at >= 0 else max(0, len(data) - len(tail))


def _resolve(candidates: Sequence[Found]) -> list[Found]:
    accepted: list[Found] = []
    end = 0
    for index, candidate in enumerate(candidates):
        if candidate.start >= end and not _yields(candidates, index):
            accepted.append(candidate)
            end = -candidate.reach
    return accepted


def _yields(candidates: Sequence[Found], index: int) -> bool:
    """Tell whether a later, overlapping candidate of higher rank takes precedence, which itself yields to none."""
    mine = candidates[index]
    end = -mine.reach
    for later in range(index + 1, len(candidates)):
        other = candidates[later]
        if other.start >= end:
            return False
        beats = other.order < mine.order and other.start > mine.start and (-other.reach > end or -mine.order == WEAK)
        if beats and not _yields(candidates, later):
            return True
    return False
