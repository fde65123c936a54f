"""Does an answer give its system prompt away? Marks that an application puts there, watched for in all that the model says.

A mark is `canary-` followed by 12 to 64 letters and digits, at least two of each kind, in a text of the role `system` or `developer`: a
message, instructions, the description of a tool. The application makes it up and may change it with every request; no policy and no record
holds it. What counts in an answer is the part after `canary-`, in any case, forwards or backwards, as it is or as a model would encode it:
base64, base32, hexadecimal, decimal or binary codes, ROT13. Letters and digits alone are compared, so nothing is hidden by what stands
between them, at most `GAP` characters each, nor by what it is glued to. It is an entity of the type CANARY, which blocks unless the
profile says otherwise. Sans-I/O.
"""

from __future__ import annotations

import base64
import codecs
import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice

import msgspec

from gateway.content.custom import Together
from gateway.content.rules import CANARY, Rules
from gateway.content.views import FOLD
from gateway.evidence import Role, Segment, Span, Use
from gateway.ports import SpanDetector

MOST = 8  # marks of one request that are watched
TRIED = 64  # marks of one text that are read as such; more are an attack on the watcher
ENOUGH = 24  # signs of a longer mark that are looked for: it bounds how far a stream is held back
GAP = 16  # characters that are no letter and no digit between two of a mark's: so does this
_MARK = re.compile(r"(?i)(?<![^\W_])canary-([a-z0-9]{12,64})(?![^\W_])")  # bounded, and system messages alone are searched
_ESCAPE = re.compile(r"\\[0bfnrtv]")
_LONG_GAP = re.compile(f" {{{GAP + 1},}}")
_NEUTRAL = " so it says and" * 6  # words, longer than a mark


class _Kept(dict[int, str]):
    """What is compared of a character, by its code; a blank where that is nothing."""

    def __missing__(self, code: int) -> str:
        return " "


_KEPT = _Kept({code: "".join(c for c in plain.lower() if c.isascii() and c.isalnum()) or " " for code, plain in FOLD.items()})
_KEPT.update({code: chr(code).lower() if chr(code).isalnum() else " " for code in range(128)})


def _marks(text: str) -> list[re.Match[str]]:
    if "canary-" not in text.lower():
        return []
    tried = islice(_MARK.finditer(text), 16 * TRIED)
    return list(islice((m for m in tried if sum(map(str.isdigit, m.group(1))) >= 2 <= sum(map(str.isalpha, m.group(1)))), TRIED))


def marks(text: str) -> list[str]:
    """Return the marks of a text as they are written, without `canary-`; those that differ in case alone once."""
    found: dict[str, str] = {}
    for match in _marks(text):
        found.setdefault(match.group(1).lower(), match.group(1))
    return list(found.values())


def marked(text: str) -> list[tuple[int, int]]:
    """Return where the marks of a system message stand: they are meant for the model, whatever a detector takes them for."""
    return [match.span() for match in _marks(text)]


def without_marks(segment: Segment) -> Segment:
    """Return a text as it is read over the borders of texts: a system message with words where its marks stand, each as long.

    SECURITY: what stands beside a mark is neither taken for a part of it nor hidden by it.
    """
    if segment.role is not Role.SYSTEM or segment.use is not Use.CONTENT or not (found := marked(segment.text)):
        return segment
    parts: list[str] = []
    at = 0
    for begin, end in found:
        parts += (segment.text[at:begin], _NEUTRAL[: end - begin - 2], ". ")
        at = end
    return msgspec.structs.replace(segment, text="".join(parts) + segment.text[at:])


def _in_base(raw: bytes, bits: int) -> Iterator[str]:
    """Yield what base64 (6 bits a sign) or base32 (5) make of bytes wherever they stand in a longer text, without what depends on that."""
    encode = base64.b64encode if bits == 6 else base64.b32encode
    for before in range(3 if bits == 6 else 5):
        whole = (before + len(raw)) * 8 // bits
        yield encode(bytes(before) + raw).decode()[-(-before * 8 // bits) : whole]


def _needles(mark: str) -> Iterator[str]:
    mark = mark[:ENOUGH]
    for way in (mark, mark[::-1]):
        yield way
        yield codecs.encode(way, "rot13")
        for text in (way, way.lower(), way.upper()):
            raw = text.encode()
            yield from _in_base(raw, 6)
            yield from _in_base(raw, 5)
            for between in ("", "x", "0x", "u", "u00", "u000000", "0000"):  # as escapes of programs, JSON and style sheets have it
                yield raw.hex(" ").replace(" ", between)
            for form, between in (("d", ""), ("03d", ""), ("03o", ""), ("08b", ""), ("08b", "0b"), ("07b", ""), ("b", ""), ("b", "0b")):
                yield between.join(format(byte, form) for byte in raw)


class Marks:
    """A detector of the marks of one request, exact over streams: text is viable from where one may have begun."""

    name = "canaries"
    left_context = 0

    def __init__(self, watched: Sequence[str], version: str) -> None:
        self.version = version
        # Looked for one by one: an automaton of them all takes a megabyte for each mark, which a caller may change with every request.
        self._needles = list(dict.fromkeys(needle.lower() for mark in watched for needle in _needles(mark)))
        self._longest = max(map(len, self._needles))
        self._begun: defaultdict[str, list[str]] = defaultdict(list)
        for needle in self._needles:
            self._begun[needle[:1]].append(needle)
            self._begun[needle[:2]].append(needle)

    def scan(self, text: str, start: int = 0) -> list[Span]:
        spans: set[Span] = set()
        for said in _said(text[start:]):
            kept = _compared(said)
            places: list[int] = []
            for needle in self._needles:
                at = kept.find(needle)
                while at >= 0:
                    places = places or _places(said)
                    spans.add(Span(start + places[at], start + places[at + len(needle) - 1] + 1, CANARY, 1.0, self.name))
                    at = kept.find(needle, at + 1)
        return sorted(spans)

    def viable_from(self, text: str, start: int = 0) -> int:
        near = text[max(start, len(text) - (GAP + 1) * self._longest) :]
        return len(text) - max(_length(said, self._unfinished(_compared(said))) for said in _said(near))

    def _unfinished(self, kept: str) -> int:
        """Return the length of the longest end of `kept` that a needle begins with."""
        for length in range(min(len(kept), self._longest - 1), 0, -1):
            rest = kept[-length:]
            if any(len(needle) > length and needle.startswith(rest) for needle in self._begun.get(rest[:2], ())):
                return length
        return 0


def _said(text: str) -> Iterator[str]:
    """Yield the text, and without the escapes of a string of a program, which end in a letter."""
    yield text
    if "\\" in text and _ESCAPE.search(text) is not None:
        yield _ESCAPE.sub("  ", text)


def _compared(text: str) -> str:
    """Return the letters and digits of a text, folded, with a sign no mark has where others stand between them for too long."""
    return _LONG_GAP.sub("\0", text.translate(_KEPT)).replace(" ", "")


def _places(text: str) -> list[int]:
    """Return where each character of `_compared` stands in the text."""
    places: list[int] = []
    gap = 0
    for at, char in enumerate(text):
        kept = _KEPT[ord(char)]
        if kept == " ":
            gap += 1
            if gap == GAP + 1:
                places.append(at)
            continue
        gap = 0
        places += [at] * len(kept)
    return places


def _length(text: str, kept: int) -> int:
    """Return the length of the end of a text that `kept` characters of `_compared` stand for."""
    at = len(text)
    while kept > 0:
        at -= 1
        kept -= len(_KEPT[ord(text[at])].strip())
    return len(text) - at


def watching(rules: Rules, segments: Sequence[Segment]) -> Rules:
    """Return the rules of one request's answer: with its marks among what is looked for. Without marks, `rules` itself."""
    found: dict[str, str] = {}
    for segment in segments:
        if segment.role is Role.SYSTEM and segment.use is Use.CONTENT:
            for mark in marks(segment.text):
                found.setdefault(mark.lower(), mark)
        if len(found) >= MOST:
            break
    if not found:
        return rules
    watched = list(found.values())[:MOST]
    detector = Marks(watched, hashlib.sha256("\n".join(watched).encode()).hexdigest()[:16])
    own = rules.outbound.blocklist
    both: SpanDetector = detector if own is None else Together([own, detector], detector.version)
    outbound = msgspec.structs.replace(rules.outbound, blocklist=both)
    # SECURITY: findings are cached under what was looked for; those of one request's marks are no other's.
    return msgspec.structs.replace(rules, asked=detector.version.encode(), outbound=outbound)
