"""What is found when patterns and a model of names read the same text? Both; where they overlap, the pattern keeps what it covers.

A checksum is better evidence than a tagger's guess, so a pattern's span is never changed. SECURITY: the rest of a name that only partly
overlaps one is kept: a house number's pattern must not uncover the street around it. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gateway.evidence import Span


def united(first: Sequence[Span], names: Sequence[Span], text: str) -> list[Span]:
    """Return ordered spans: all of `first`, and of each name the parts outside them that hold a letter or digit.

    `first` is ordered; `names` do not overlap one another.
    """
    if not names:
        return list(first)
    out = list(first)
    for name in names:
        start = name.start
        for span in first:
            if span.end <= start:
                continue
            if span.start >= name.end:
                break
            out += _part(name, start, span.start, text)
            start = max(start, span.end)
        out += _part(name, start, name.end, text)
    return sorted(out)


def _part(name: Span, start: int, end: int, text: str) -> list[Span]:
    """Return the part of a name without the blanks and marks at its edges; nothing where no letter or digit is left."""
    while start < end and not text[start].isalnum():
        start += 1
    while end > start and end < name.end and not text[end - 1].isalnum():
        end -= 1
    return [msgspec.structs.replace(name, start=start, end=end)] if start < end else []
