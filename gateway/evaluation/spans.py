"""How well do the spans a detector found match the marked ones? Counts by source, language and type; pure.

- token: words and marks of punctuation that touch a span of the type; precision, recall, F1, and F2, which weighs recall four to one.
- strict: same type and same borders. partial: same type, and the overlap is at least half of what both cover together; one to one.
- leak: share of the letters and digits inside marked spans that no found span of **any** type covers: what a redactor would let out.
- over: share of the letters and digits outside all marked spans that some found span covers: what it would blacken for nothing.

Spans of one type that touch, or stand apart by up to three blanks, commas or line ends, count as one on both sides: a given name and a
surname are one person. A type is counted only where the source annotates it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import msgspec

from gateway.evaluation.sets import Document

JOINED = 3  # characters between two spans that may still be one
HALF = 0.5
_BETWEEN = frozenset(" ,\n\t")
_TOKEN = re.compile(r"\w+|[^\w\s]")

# What sources and detectors call the same thing.
SAME = {
    "PERSON": ("PER", "PERSON_NAME", "GIVEN_NAME", "SURNAME", "NAME"),
    "LOCATION": ("GPE", "LOC", "FAC", "ADDRESS", "STREET_ADDRESS", "CITY", "STATE", "ZIP_CODE", "COUNTRY"),
    "ORGANIZATION": ("ORG",),
    "EMAIL_ADDRESS": ("EMAIL",),
    "PHONE_NUMBER": ("PHONE",),
    "CREDIT_CARD": ("CREDIT_CARD_NUMBER",),
    "IBAN_CODE": ("IBAN",),
    "US_SSN": ("SSN",),
    "IP_ADDRESS": ("IP",),
    "URL": ("DOMAIN_NAME",),
    "DATE_TIME": ("DATE", "TIME", "TIMESTAMP", "DATE_OF_BIRTH"),
    "SECRET": ("API_KEY", "PASSWORD", "TOKEN", "PRIVATE_KEY", "JWT"),
}
_NAME_OF = {alias: name for name, aliases in SAME.items() for alias in aliases}

Ranges = list[tuple[int, int]]


class Rates(msgspec.Struct, frozen=True):
    """Precision, recall and their means. 0 where nothing was there to be right about."""

    precision: float
    recall: float
    f1: float
    f2: float


class Tally(msgspec.Struct):
    """What was counted of one type."""

    marked: int = 0
    found: int = 0
    strict: int = 0
    partial: int = 0
    marked_tokens: int = 0
    found_tokens: int = 0
    shared_tokens: int = 0
    inside: int = 0  # letters and digits in marked spans
    bare: int = 0  # of these, covered by nothing
    each: int = 0  # marked spans, none joined
    each_covered: int = 0  # of these, at least half covered by spans of the type
    given: int = 0  # found spans, none joined
    given_right: int = 0  # of these, touching a marked one

    def add(self, other: Tally) -> None:
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def by_token(self) -> Rates:
        return rates(self.shared_tokens, self.marked_tokens, self.found_tokens)

    @property
    def by_strict(self) -> Rates:
        return rates(self.strict, self.marked, self.found)

    @property
    def by_partial(self) -> Rates:
        return rates(self.partial, self.marked, self.found)

    @property
    def by_touch(self) -> Rates:
        """Spans as they are, many to one: for what sources mark line by line and detectors find as a block, such as keys."""
        precision = self.given_right / self.given if self.given else 0.0
        recall = self.each_covered / self.each if self.each else 0.0
        return Rates(precision, recall, *(_mean(precision, recall, beta) for beta in (1.0, 2.0)))

    @property
    def leak(self) -> float:
        return self.bare / self.inside if self.inside else 0.0


class Plain(msgspec.Struct):
    """Letters and digits that are part of no marked span, and how many of them were covered."""

    letters: int = 0
    covered: int = 0
    words: int = 0
    false_secrets: int = 0

    @property
    def over(self) -> float:
        return self.covered / self.letters if self.letters else 0.0


def rates(right: int, marked: int, found: int) -> Rates:
    precision = right / found if found else 0.0
    recall = right / marked if marked else 0.0

    return Rates(precision, recall, _mean(precision, recall, 1.0), _mean(precision, recall, 2.0))


def _mean(precision: float, recall: float, beta: float) -> float:
    return (1 + beta * beta) * precision * recall / (beta * beta * precision + recall) if precision and recall else 0.0


def merged(text: str, spans: Iterable[tuple[int, int, str]]) -> dict[str, Ranges]:
    """Return ranges by type, in order, those that belong together joined."""
    out: dict[str, Ranges] = {}
    for start, end, kind in sorted(set(spans)):
        ranges = out.setdefault(_NAME_OF.get(kind, kind), [])
        if ranges:
            first, last = ranges[-1]
            if start <= last or (start - last <= JOINED and _BETWEEN.issuperset(text[last:start])):
                ranges[-1] = (first, max(last, end))
                continue
        ranges.append((start, end))
    return out


class SpanScores:
    """Counts of all documents added so far."""

    def __init__(self) -> None:
        self.tallies: dict[tuple[str, str, str], Tally] = {}
        self.plain: dict[tuple[str, str], Plain] = {}
        self.documents = 0

    def add(self, document: Document, found: Iterable[tuple[int, int, str]]) -> None:
        """Count one document's findings."""
        self.documents += 1
        text = document.text
        found = list(found)
        marked, ours = merged(text, document.marks), merged(text, found)
        tokens = [match.span() for match in _TOKEN.finditer(text)]
        key = (document.source, document.lang)
        for kind in document.types:
            tally = self._tally(key, kind)
            wanted, given = marked.get(kind, []), ours.get(kind, [])
            tally.marked += len(wanted)
            tally.found += len(given)
            tally.strict += len(set(wanted) & set(given))
            tally.partial += _pairs(wanted, given)
            ours_at, theirs_at = _mask(text, given), _mask(text, wanted)
            for start, end in tokens:
                right, said = theirs_at.find(1, start, end) >= 0, ours_at.find(1, start, end) >= 0
                tally.marked_tokens += right
                tally.found_tokens += said
                tally.shared_tokens += right and said
            _count_each(tally, kind, document, found, theirs_at, ours_at)
        covered = _mask(text, (one for ranges in ours.values() for one in ranges))
        for kind, ranges in marked.items():
            tally = self._tally(key, kind)
            inside = [at for start, end in ranges for at in range(start, end) if text[at].isalnum()]
            tally.inside += len(inside)
            tally.bare += sum(not covered[at] for at in inside)
        self._count_plain(key, text, tokens, _mask(text, (one for ranges in marked.values() for one in ranges)), covered, ours)

    def total(self, wanted: Callable[[str, str, str], bool]) -> Tally:
        """Return the sum over (source, language, type) that `wanted` chooses."""
        out = Tally()
        for key, tally in self.tallies.items():
            if wanted(*key):
                out.add(tally)
        return out

    def outside(self, wanted: Callable[[str, str], bool]) -> Plain:
        """Return what was counted outside marked spans over the (source, language) that `wanted` chooses."""
        out = Plain()
        for key, plain in self.plain.items():
            if wanted(*key):
                for name in plain.__struct_fields__:
                    setattr(out, name, getattr(out, name) + getattr(plain, name))
        return out

    def _tally(self, key: tuple[str, str], kind: str) -> Tally:
        return self.tallies.setdefault((*key, kind), Tally())

    def _count_plain(
        self, key: tuple[str, str], text: str, tokens: Ranges, marked: bytearray, covered: bytearray, ours: dict[str, Ranges]
    ) -> None:
        plain = self.plain.setdefault(key, Plain())
        outside = [at for at, character in enumerate(text) if not marked[at] and character.isalnum()]
        plain.letters += len(outside)
        plain.covered += sum(covered[at] for at in outside)
        plain.words += sum(text[start].isalnum() for start, _ in tokens)
        plain.false_secrets += sum(marked.find(1, start, end) < 0 for start, end in ours.get("SECRET", []))


def _mask(text: str, ranges: Iterable[tuple[int, int]]) -> bytearray:
    mask = bytearray(len(text))
    for start, end in ranges:
        end = min(end, len(text))
        mask[start:end] = b"\1" * max(0, end - start)
    return mask


def _count_each(
    tally: Tally, kind: str, document: Document, found: Iterable[tuple[int, int, str]], marked: bytearray, ours: bytearray
) -> None:
    for start, end, name in document.marks:
        if _NAME_OF.get(name, name) == kind:
            tally.each += 1
            tally.each_covered += sum(ours[start:end]) >= HALF * (end - start)
    for start, end, name in found:
        if _NAME_OF.get(name, name) == kind:
            tally.given += 1
            tally.given_right += marked.find(1, start, end) >= 0


def _pairs(wanted: Ranges, given: Ranges) -> int:
    """Return how many of `wanted` find a partner of their own among `given`, taken in order."""
    free = list(given)
    count = 0
    for start, end in wanted:
        for one in free:
            both = min(end, one[1]) - max(start, one[0])
            if both > 0 and both >= HALF * (max(end, one[1]) - min(start, one[0])):
                free.remove(one)
                count += 1
                break
    return count
