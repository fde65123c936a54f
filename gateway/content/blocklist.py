"""Does a text contain a listed phrase? Phrases are sequences of words, compared case-folded, whatever stands between them.

Sans-I/O. A `SpanDetector` of the type BLOCKLIST, exact over streams: text is viable from the first word that could still
begin a phrase. Phrases are trusted configuration; text is not, and the scan is linear in it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

import re2

from gateway.evidence import Span

_WORD = re2.compile(r"[\pL\pN\pM]+")
MAX_PHRASE_WORDS = 16
MAX_WORD = 256  # code points; a longer word cannot be part of a phrase, so it is not held


def _fold(word: str) -> str:
    return word.lower() if word.isascii() else unicodedata.normalize("NFKC", word).casefold()


class Blocklist:
    """A set of phrases. Raises `ValueError` for an empty phrase or one of over 16 words."""

    name = "blocklist"

    def __init__(self, phrases: Iterable[str], version: str = "1", *, kind: str = "BLOCKLIST") -> None:
        """`kind` is the entity type of what is found."""
        self.version = version
        self._kind = kind
        self._phrases: set[tuple[str, ...]] = set()
        self._prefixes: set[tuple[str, ...]] = set()
        self._first: set[str] = set()
        self._longest = 1
        for phrase in phrases:
            words = tuple(_fold(m.group()) for m in _WORD.finditer(phrase))
            if not words or len(words) > MAX_PHRASE_WORDS:
                raise ValueError(f"a blocklist phrase needs 1 to {MAX_PHRASE_WORDS} words")
            self._phrases.add(words)
            self._first.add(words[0])
            self._longest = max(self._longest, len(words))
            self._prefixes.update(words[:n] for n in range(1, len(words)))

    @property
    def left_context(self) -> int:
        return MAX_WORD

    def _words(self, text: str) -> list[tuple[int, int, str]]:
        return [(m.start(), m.end(), _fold(m.group())) for m in _WORD.finditer(text)]

    def scan(self, text: str, start: int = 0) -> list[Span]:
        words = self._words(text)
        spans: list[Span] = []
        at = 0
        while at < len(words):
            begin = words[at][0]
            length = self._match(words, at) if begin >= start and words[at][2] in self._first else 0
            if length:
                spans.append(Span(begin, words[at + length - 1][1], self._kind, 1.0, self.name))
            at += length or 1
        return spans

    def _match(self, words: list[tuple[int, int, str]], at: int) -> int:
        for n in range(min(self._longest, len(words) - at), 0, -1):
            if tuple(w[2] for w in words[at : at + n]) in self._phrases:
                return n
        return 0

    def viable_from(self, text: str, start: int = 0) -> int:
        words = self._words(text[start:])
        if not words:
            return len(text)
        end = len(text) - start
        unfinished = words[-1][1] == end and words[-1][1] - words[-1][0] < MAX_WORD
        complete = words[:-1] if unfinished else words
        viable = words[-1][0] if unfinished else end
        for back in range(min(self._longest - 1, len(complete)), 0, -1):
            if tuple(w[2] for w in complete[-back:]) in self._prefixes:
                viable = min(viable, complete[-back][0])
                break
        return start + viable
