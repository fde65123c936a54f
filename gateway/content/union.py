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
    taken = _covered(first)
    at = 0  # SECURITY: never back, or a text of many addresses and names would keep the process for minutes
    for name in sorted(names):
        start = name.start
        while at < len(taken) and taken[at][1] <= start:
            at += 1
        here = at
        while here < len(taken) and taken[here][0] < name.end:
            out += _part(name, start, taken[here][0], text)
            start = taken[here][1]
            here += 1
        out += _part(name, start, name.end, text)
    return sorted(out)


def _covered(spans: Sequence[Span]) -> list[tuple[int, int]]:
    """Return the stretches that ordered spans cover together, apart from one another."""
    out: list[tuple[int, int]] = []
    for span in spans:
        if out and span.start <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], span.end))
        else:
            out.append((span.start, span.end))
    return out


def _part(name: Span, start: int, end: int, text: str) -> list[Span]:
    """Return the part of a name without the blanks and marks at its edges; nothing where no letter or digit is left."""
    while start < end and not text[start].isalnum():
        start += 1
    while end > start and end < name.end and not text[end - 1].isalnum():
        end -= 1
    return [msgspec.structs.replace(name, start=start, end=end)] if start < end else []
