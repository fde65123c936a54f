"""Which values are whole only when labels, or the strings of a document, are read one after the other?

Nobody reads the names of tools or the items of a list as one text, but who takes them apart can put them together again. So they are read
joined for what is recognised by more than digits: keys, addresses, account numbers, listed phrases. Runs of digits are left out: codes and
measurements stand in lists everywhere, and one in ten of them ends like a card number; `documents` reads short lists of digits. Pure.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import msgspec

from gateway.content.inspect import SEPARATOR, Finding
from gateway.content.rules import BLOCKLIST, CANARY, READ_OVER
from gateway.evidence import Role, Segment, Span, Use

TYPES = frozenset({"SECRET", "EMAIL_ADDRESS", "IBAN_CODE", BLOCKLIST, CANARY})


RUNS = (2, 3, 4, 5)  # neighbours also read by themselves: what follows a value would make it another word
MAX_MEMBERS = 64  # of a group whose runs are read; a longer one is read joined as a whole
MAX_TEXT = 4_000
NEAR = 64  # findings of a text before a place that may reach up to it: they hardly overlap one another


class Joined(msgspec.Struct, frozen=True):
    """Texts by index, one text of all readings of them, and where in it (without separators) each stands: (begin, end, index)."""

    places: tuple[tuple[int, int, int], ...]
    segment: Segment


def join(groups: Sequence[Sequence[int]], texts: Sequence[str], role: Role) -> list[Joined]:
    """Return the joined reading of each group of at least two texts that hold anything."""
    out: list[Joined] = []
    for group in groups:
        members = [index for index in group if texts[index]]
        if len(members) < 2:
            continue
        runs = [members]
        if len(members) <= MAX_MEMBERS and sum(len(texts[index]) for index in members) <= MAX_TEXT:
            runs += [members[at : at + size] for size in RUNS if size < len(members) for at in range(len(members) - size + 1)]
        places: list[tuple[int, int, int]] = []
        at = 0
        for run in runs:
            for index in run:
                places.append((at, at + len(texts[index]), index))
                at += len(texts[index])
            at += 1
        said = "\n".join(SEPARATOR.join(texts[index].replace(SEPARATOR, "\ufffd") for index in run) for run in runs)
        out.append(Joined(tuple(places), Segment((READ_OVER, "joined", len(out)), said, role, Use.CONTENT)))
    return out


def completed(joined: Joined, found: Finding, own: Sequence[Sequence[Span]]) -> list[tuple[str, list[int]]]:
    """Return (type, texts it covers) of every finding that no text holds by itself. `own`: what each of all texts holds, ordered.

    SECURITY: places are looked up, never walked through: both may be many.
    """
    out: list[tuple[str, list[int]]] = []
    for span in found.spans:
        if span.type not in TYPES:
            continue
        first = bisect_right(joined.places, span.start, key=_end)
        touched = joined.places[first : bisect_left(joined.places, span.end, lo=first, key=_begin)]
        members = list(dict.fromkeys(index for _, _, index in touched))
        if len(members) > 1 and not any(_holds(own[index], span, begin) for begin, _, index in touched):
            out.append((span.type, members))
    return out


def _begin(place: tuple[int, int, int]) -> int:
    return place[0]


def _end(place: tuple[int, int, int]) -> int:
    return place[1]


def _holds(own: Sequence[Span], span: Span, begin: int) -> bool:
    """Tell whether a text that stands at `begin` holds a finding of the same type where the span is."""
    before = bisect_left(own, span.end - begin, key=lambda s: s.start)
    return any(s.type == span.type and span.start < s.end + begin for s in own[max(0, before - NEAR) : before])
