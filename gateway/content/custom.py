"""Which entities of a customer's own does this text hold? Patterns and phrases that a policy set brings, as one `SpanDetector`.

Patterns come checked and bounded (`gateway.policy.patterns`), so text is viable from the last `longest` characters on, or from the
unfinished word where no match holds a blank. Each part is exact over streams by itself; parts may overlap one another, as they may overlap
what the built-in patterns find: the strictest action of what covers a character decides. Sans-I/O.
"""

from __future__ import annotations

from collections.abc import Sequence

import re2

from gateway.evidence import Span
from gateway.ports import SpanDetector


class CustomPattern:
    """One pattern. Of matches that begin at the same place the longest counts."""

    left_context = 1

    def __init__(
        self,
        name: str,
        kind: str,
        pattern: str,
        longest: int,
        *,
        score: float = 0.9,
        ignore_case: bool = False,
        whole_words: bool = True,
        blanks: bool = True,
        version: str = "1",
    ) -> None:
        """`longest`: characters of a match at most; `blanks`: whether a match may hold one."""
        self.name = name
        self.version = version
        self._kind = kind
        self._longest = longest
        self._score = score
        self._whole_words = whole_words
        self._blanks = blanks
        options = re2.Options()
        options.log_errors = False
        options.longest_match = True
        options.case_sensitive = not ignore_case
        self._compiled = re2.compile(pattern, options)

    def scan(self, text: str, start: int = 0) -> list[Span]:
        spans: list[Span] = []
        end = start
        for match in self._compiled.finditer(text, start):
            stop = match.end()
            at = max(match.start(), end)
            # Every match begins inside one of these; where that one stands in a longer word, another may begin within it.
            while at < stop:
                begin, finish = self._first(text, at, stop)
                if begin < 0:
                    break
                if finish - begin <= self._longest and self._alone(text, begin, finish):
                    spans.append(Span(begin, finish, self._kind, self._score, self.name))
                    at = end = finish
                else:
                    at = begin + 1
        return spans

    def _first(self, text: str, at: int, before: int) -> tuple[int, int]:
        """Return the first match that begins from `at` on and before `before`; the text looked at is short, so this is cheap."""
        found = self._compiled.search(text[at : before + self._longest])
        if found is None or at + found.start() >= before:
            return -1, -1
        return at + found.start(), at + found.end()

    def _alone(self, text: str, begin: int, end: int) -> bool:
        if not self._whole_words:
            return True
        before = begin > 0 and text[begin - 1].isalnum() and text[begin].isalnum()
        return not before and not (end < len(text) and text[end].isalnum() and text[end - 1].isalnum())

    def viable_from(self, text: str, start: int = 0) -> int:
        at = len(text) - self._longest
        if not self._blanks:
            run = len(text)
            while run > max(start, at) and not text[run - 1].isspace():
                run -= 1
            at = max(at, run)
        return max(start, min(at, len(text)))


class Together:
    """Several detectors as one. Spans are ordered and may overlap."""

    name = "policy"

    def __init__(self, detectors: Sequence[SpanDetector], version: str) -> None:
        self.version = version
        self._detectors = tuple(detectors)

    @property
    def left_context(self) -> int:
        return max((detector.left_context for detector in self._detectors), default=0)

    def scan(self, text: str, start: int = 0) -> list[Span]:
        return sorted(span for detector in self._detectors for span in detector.scan(text, start))

    def viable_from(self, text: str, start: int = 0) -> int:
        return min((detector.viable_from(text, start) for detector in self._detectors), default=len(text))
