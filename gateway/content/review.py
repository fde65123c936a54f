"""Given the texts of one direction and its rules: what must be rewritten, what must be blocked?

Used for whole requests and whole answers; streams have their own guard with the same actions. Texts are expanded first: a JSON
document in a string becomes its strings. Findings across a border of neighbouring texts are applied to each text they touch.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from gateway.content import documents
from gateway.content.canaries import without_marks
from gateway.content.inspect import (
    ANNOUNCED,
    MIN_LANGUAGE_LETTERS,
    Clean,
    Finding,
    Inspection,
    Pace,
    Scope,
    TooDear,
    borders,
    prose_offsets,
    runs,
)
from gateway.content.joined import Joined, completed, join
from gateway.content.neighbours import orders
from gateway.content.pseudonyms import Pseudonyms, is_json, opening
from gateway.content.rules import CANARY, Action, DirectionRules, Rules
from gateway.content.stream import Findings
from gateway.content.verdicts import verdict
from gateway.evidence import Direction, Role, Segment, Span, Use, Verdict

_TOKEN = "\x1ftoken"  # of a span: a token of ours, no finding; no detector's type bears such a name
UNREADABLE_ARGUMENTS = "{}"
MAX_UNITS = 40_000  # texts of one direction of one exchange, the strings of its documents among them
SLICE = 1_000  # replacements made in one go


class Unit(msgspec.Struct):
    """One inspected string: a segment, or one string of the document a segment holds. `shadow`: a reading, never sent."""

    owner: int
    segment: Segment
    document_path: documents.Path | None = None
    shadow: bool = False


class Edits(msgspec.Struct):
    """What is to become of the documents: new names of keys by owner and object, owners of changed values. Written once, at the end."""

    parsed: dict[int, Any]
    renamed: dict[tuple[int, documents.Path], dict[str, str]]
    changed: set[int]


class Review(msgspec.Struct):
    """The outcome: new texts by segment index, and what asks for a block with the index it was first seen at."""

    texts: dict[int, str]
    blocked: list[str]
    blocked_at: int | None
    cached: bool
    degraded: bool


async def expand(segments: Sequence[Segment], pace: Pace) -> tuple[list[Unit], dict[int, Any]]:
    """Return the units to inspect and the parsed documents by segment index. Raises `TooDear`."""
    units: list[Unit] = []
    parsed: dict[int, Any] = {}
    for index, segment in enumerate(segments):
        if segment.use is not Use.ARGUMENTS:
            units.append(Unit(index, segment))
            continue
        await pace.breathe()
        try:
            document = documents.parse(segment.text)
        except documents.TooLarge:
            raise TooDear from None
        if document is None:
            units.append(Unit(index, Segment(segment.path, segment.text, segment.role, Use.CONTENT)))
            reading = documents.unescaped(segment.text)
            if reading != segment.text:
                units.append(Unit(index, Segment(segment.path, reading, segment.role, Use.LABEL), shadow=True))
            continue
        parsed[index] = document
        for path, text in documents.strings(document):
            units.append(Unit(index, Segment(segment.path, text, segment.role, Use.CONTENT), document_path=path))
        if len(units) > MAX_UNITS:
            raise TooDear
    return units, parsed


def judged_before(
    inspection: Inspection, segments: Sequence[Segment], rules: Rules, direction: Direction, scope: Scope
) -> tuple[bytes, Verdict | None]:
    """Return the key of a list of texts, for `review`, and what was recorded of the list when nothing had to be done about it."""
    key = inspection.list_key(segments, rules, direction, scope)
    known = inspection.cache.get_list(key)
    return key, None if known is None else known.verdict


async def review(
    inspection: Inspection,
    segments: Sequence[Segment],
    rules: Rules,
    direction: Direction,
    scope: Scope,
    deadline_s: float,
    pseudonyms: Pseudonyms | None,
    findings: Findings,
    key: bytes = b"",
    restorer: Pseudonyms | None = None,
) -> Review:
    """Inspect every segment and return what to do; notes everything in `findings`. Raises `InspectorUnavailable`.

    `key` is what `judged_before` said of these texts; without it nothing is remembered of the list as a whole. `restorer`: in the texts
    that are returned values stand for their tokens again; whether they may is judged by what stood around them before.
    """
    own = Findings()
    result, clean = await _review(inspection, segments, rules, direction, scope, deadline_s, pseudonyms, own, restorer)
    if clean and key:
        inspection.cache.put_list(key, Clean(verdict(own, inspection.names, cached=True)))
    findings.merge(own.scores, own.flagged, own.action)
    for type_, count in own.entities.items():
        findings.entities[type_] += count
    return result


async def _review(
    inspection: Inspection,
    segments: Sequence[Segment],
    rules: Rules,
    direction: Direction,
    scope: Scope,
    deadline_s: float,
    pseudonyms: Pseudonyms | None,
    findings: Findings,
    restorer: Pseudonyms | None,
) -> tuple[Review, bool]:
    """Return what to do, and whether nothing was found that depends on where it stands or must be done again."""
    side = rules.inbound if direction is Direction.INBOUND else rules.outbound
    pace = Pace(deadline_s)
    units, parsed = await expand(segments, pace)
    plain = [u.segment for u in units]
    # Strings of one document are no neighbours in prose: nobody reads them one after the other.
    prose = [
        without_marks(u.segment) if u.document_path is None else Segment((), u.segment.text, u.segment.role, Use.ARGUMENTS) for u in units
    ]
    ways = [[prose[at] for at in order] for order in orders(prose, direction)]
    windows = [borders(way) + runs(way) for way in ways]
    flat = [window for way in windows for _, window in way]
    joins: list[Joined] = []
    for joined in _joins(units):
        joins += joined
        await pace.breathe()
    asked = inspection.findings([*plain, *flat, *(j.segment for j in joins)], rules, direction, scope, deadline_s)
    found, cached = await pace.elsewhere(asked)
    alone = [f.spans for f in found[: len(units)]]
    together: list[tuple[str, list[int]]] = []
    for j, f in zip(joins, found[len(units) + len(flat) :], strict=True):
        if f.spans:
            together += completed(j, f, alone)
            await pace.breathe()
    found = found[: len(units) + len(flat)]
    result = Review({}, [], None, cached, any(f.degraded for f in found))
    _judge(result, units, found, side, findings)
    _judge_windows(result, found[len(units) :], side, findings)
    _judge_scattered(result, prose, side, inspection, findings)
    if rules.asked:
        await _judge_documents(result, segments, parsed, side, inspection, findings, pace)
    together = _judge_joined(result, units, together, side, findings)
    if result.blocked or not (together or any(f.spans for f in found)):
        return result, not result.blocked and not result.degraded
    spans = [list(f.spans) for f in found[: len(units)]]
    at = len(units)
    for order, way, own in zip(orders(prose, direction), ways, windows, strict=True):
        _add_crossing([spans[index] for index in order], way, own, found[at : at + len(own)])
        at += len(own)
    edits = Edits(parsed, {}, set())
    if spans:
        await _rewrite(result, units, edits, spans, side, pseudonyms, findings, pace, restorer)
    for type_, touched in together:
        _replace_joined(result, [units[index] for index in touched], edits, type_)
    await _write_documents(result, edits, pace)
    return result, False


def _joins(units: Sequence[Unit]) -> Iterator[list[Joined]]:
    """Yield what is read joined: labels, by kind and all of them, and the strings or keys of each list and object of a document."""
    labels: dict[object, list[int]] = {}
    strings: dict[object, list[int]] = {}
    for index, unit in enumerate(units):
        path = unit.document_path
        if path:
            strings.setdefault((unit.owner, path[:-1], isinstance(path[-1], documents.KeyAt)), []).append(index)
        elif unit.segment.use is Use.LABEL and not unit.shadow:
            kind = next((step for step in reversed(unit.segment.path) if isinstance(step, str)), "")
            labels.setdefault("", []).append(index)
            labels.setdefault((kind,), []).append(index)
    if len(labels.get("", ())) < 2 and all(len(group) < 2 for group in strings.values()):
        return
    texts = [unit.segment.text for unit in units]
    for group in dict.fromkeys(tuple(group) for group in (*labels.values(), *strings.values()) if len(group) > 1):
        yield join([group], texts, Role.DOCUMENT)


def _judge_joined(
    result: Review, units: list[Unit], together: list[tuple[str, list[int]]], side: DirectionRules, findings: Findings
) -> list[tuple[str, list[int]]]:
    """Refuse values that labels make together; return those that a document's strings make, to be replaced."""
    left: list[tuple[str, list[int]]] = []
    for type_, touched in together:
        action = side.action_for(Span(0, 0, type_))
        if action < Action.PSEUDONYMISE:
            continue
        if action is Action.BLOCK or units[touched[0]].document_path is None:
            findings.note(Action.BLOCK, type_)
            result.blocked.append(type_)
            continue
        findings.note(action, type_)
        findings.entities[type_] += 1
        left.append((type_, touched))
    return left


def _replace_joined(result: Review, touched: Sequence[Unit], edits: Edits, type_: str) -> None:
    owner = touched[0].owner
    if any(unit.document_path is None or isinstance(unit.document_path[-1], documents.KeyAt) for unit in touched):
        result.texts[owner] = UNREADABLE_ARGUMENTS  # names of values cannot be replaced one by one and stay what they were
        return
    for unit in touched:
        if unit.document_path is None:
            continue
        try:
            edits.parsed[owner] = documents.replace(edits.parsed[owner], unit.document_path, f"<{type_}>")
        except TypeError:  # the list it stood in was a value itself, and is gone
            continue
    edits.changed.add(owner)


async def _write_documents(result: Review, edits: Edits, pace: Pace) -> None:
    # Deep objects before shallow ones: their paths are those of the names before.
    for (owner, path), names in sorted(edits.renamed.items(), key=lambda entry: -len(entry[0][1])):
        await pace.breathe()
        node = edits.parsed[owner]
        for step in path:
            node = node[step]
        _rename(node, names)
    for owner in edits.changed:
        if result.texts.get(owner) != UNREADABLE_ARGUMENTS:
            await pace.breathe()
            result.texts[owner] = documents.dump(edits.parsed[owner])


def _rename(node: dict[str, Any], names: dict[str, str]) -> None:
    items: dict[str, Any] = {}
    numbers: dict[str, int] = {}
    for key, value in node.items():
        wanted = name = names.get(key, key)
        while name in items:  # two keys become one placeholder: both values stay
            numbers[wanted] = number = numbers.get(wanted, 0) + 1
            name = f"{wanted}_{number}"
        items[name] = value
    node.clear()
    node.update(items)


def _judge(result: Review, units: list[Unit], found: list[Finding], side: DirectionRules, findings: Findings) -> None:
    for unit, finding in zip(units, found, strict=False):
        _enter(finding, findings)
        if not finding.blocking and not finding.spans:
            continue
        names = list(finding.blocking)
        for span in finding.spans:
            action = side.action_for(span)
            if action is Action.BLOCK or (action >= Action.PSEUDONYMISE and unit.segment.use is Use.LABEL and not unit.shadow):
                findings.note(Action.BLOCK, span.type)
                names.append(span.type)
        if names and result.blocked_at is None:
            result.blocked_at = unit.owner
        result.blocked += names


def _judge_windows(result: Review, found: list[Finding], side: DirectionRules, findings: Findings) -> None:
    for finding in found:
        _enter(finding, findings)
        names = [s.type for s in finding.spans if side.action_for(s) is Action.BLOCK]
        for name in names:
            findings.note(Action.BLOCK, name)
        result.blocked += [*finding.blocking, *names]


def _judge_scattered(result: Review, plain: Sequence[Segment], side: DirectionRules, inspection: Inspection, findings: Findings) -> None:
    """Judge the language of texts too short to have one each: together they do."""
    if side.unsupported_language is Action.ALLOW or len(plain) < 2:
        return
    short: dict[Role, list[str]] = {}
    for segment in plain:
        if segment.use is Use.CONTENT and 0 < len(segment.text) < MIN_LANGUAGE_LETTERS:
            short.setdefault(segment.role, []).append(segment.text)
    for texts in short.values():
        joined = " ".join(texts)
        if len(texts) < 2 or len(joined) < MIN_LANGUAGE_LETTERS:
            continue
        language = inspection.inspectors.language(joined)
        if language != "und" and language not in side.languages:
            findings.note(side.unsupported_language, "unsupported_language")
            if side.unsupported_language is Action.BLOCK:
                result.blocked.append("unsupported_language")


async def _judge_documents(
    result: Review,
    segments: Sequence[Segment],
    parsed: Mapping[int, Any],
    side: DirectionRules,
    inspection: Inspection,
    findings: Findings,
    pace: Pace,
) -> None:
    """Look for marks in whole documents, and in what all of them say together: what is in pieces there is read as one."""
    if side.blocklist is None:
        return
    texts: list[str] = []
    values: list[str] = []
    for index, segment in enumerate(segments):
        if segment.use is Use.ARGUMENTS and index in parsed:
            texts.append(documents.dump(parsed[index]))
            values += [text for path, text in documents.strings(parsed[index]) if not path or not isinstance(path[-1], documents.KeyAt)]
        elif segment.use is Use.ARGUMENTS:
            texts.append(segment.text)
    for text in (*texts, "\n".join(values)):
        if any(span.type == CANARY for span in await inspection.scan(side.blocklist, text, pace)):
            action = side.action_for(Span(0, 0, CANARY))
            findings.note(action, CANARY)
            if action >= Action.PSEUDONYMISE:
                result.blocked.append(CANARY)


def _enter(finding: Finding, findings: Findings) -> None:
    scores = findings.scores
    for head, score in finding.scores:
        if score > scores.get(head, 0.0):
            scores[head] = score
    for action, name in finding.noted:
        findings.note(action, name)


def _add_crossing(
    spans: list[list[Span]], plain: Sequence[Segment], windows: list[tuple[int, Segment]], found: list[Finding]
) -> None:
    """Add to each text the part of every span that runs over a border into it."""
    if not any(f.spans for f in found):
        return
    offsets = prose_offsets(plain)
    seen: set[tuple[int, int]] = set()
    for (offset, _), finding in zip(windows, found, strict=True):
        for span in finding.spans:
            begin, end = span.start + offset, span.end + offset
            if (begin, end) in seen:
                continue
            seen.add((begin, end))
            first = max(0, bisect_right(offsets, begin, key=_place) - 1)
            near = offsets[first : bisect_left(offsets, end, lo=first, key=_place)]
            touched = [(at, i) for at, i in near if begin < at + len(plain[i].text)]
            if len(touched) < 2 and span.detector != ANNOUNCED:
                continue
            if len(touched) > 1 and _covered(spans[touched[-1][1]], touched[-1][0], end):
                continue  # the later text holds it whole: what stands before the border is not part of it
            if span.type == "EMAIL_ADDRESS" and all(_gone(spans[i], plain[i].text, begin - at, end - at) for at, i in touched[:-1]):
                continue  # a sentence that ends with an address: the first word of the next text is no part of that
            for at, i in touched:
                part = Span(max(0, begin - at), min(len(plain[i].text), end - at), span.type, span.score, span.detector)
                if not any(s.start < part.end and part.start < s.end for s in spans[i]):
                    spans[i].append(part)


def _place(offset: tuple[int, int]) -> int:
    return offset[0]


def _gone(own: Sequence[Span], text: str, begin: int, end: int) -> bool:
    """Tell whether findings of the text itself cover all letters and digits it has between two places."""
    begin, end = max(0, begin), min(len(text), end)
    while end > begin and not text[end - 1].isalnum():
        end -= 1
    return any(s.start <= begin and s.end >= end for s in own)


def _covered(own: Sequence[Span], at: int, end: int) -> bool:
    return any(s.start == 0 and s.end >= end - at for s in own)


async def _rewrite(
    result: Review,
    units: list[Unit],
    edits: Edits,
    spans: list[list[Span]],
    side: DirectionRules,
    pseudonyms: Pseudonyms | None,
    findings: Findings,
    pace: Pace,
    restorer: Pseudonyms | None,
) -> None:
    # Values before keys: an edit must find the path it was made for.
    for unit, found in sorted(((unit, found) for unit, found in zip(units, spans, strict=True) if found), key=_turn):
        segment = unit.segment
        restorable = segment.role is Role.USER and unit.document_path is None
        escaped = unit.document_path is None and is_json(opening(segment.text))
        values: dict[int, str] = {}
        if restorer is not None and segment.use is Use.CONTENT and unit.document_path is None:
            found = list(found)
            for edit in restorer.walk(segment.text):
                await pace.breathe()
                if edit is not None:
                    values[edit[0]] = edit[2]
                    found.append(Span(edit[0], edit[1], _TOKEN))

        def stand_in(
            span: Span, value: str, restorable: bool = restorable, escaped: bool = escaped, values: Mapping[int, str] = values
        ) -> str | None:
            if span.type == _TOKEN:
                return values[span.start]
            action = side.action_for(span)
            if action is Action.ALLOW:
                return None
            findings.note(action, span.type)
            findings.entities[span.type] += 1
            if action is Action.PSEUDONYMISE and pseudonyms is not None:
                return pseudonyms.token(span.type, value, restorable=restorable, escaped=escaped)
            return f"<{span.type}>" if action >= Action.PSEUDONYMISE else None

        await pace.breathe()
        text = await _substituted(segment.text, sorted(found), stand_in, pace)
        path = unit.document_path
        if text == segment.text:
            continue
        if unit.shadow:
            result.texts[unit.owner] = UNREADABLE_ARGUMENTS
        elif path and isinstance(path[-1], documents.KeyAt):
            edits.renamed.setdefault((unit.owner, path[:-1]), {})[str(path[-1])] = text
            edits.changed.add(unit.owner)
        elif path is not None:
            edits.parsed[unit.owner] = documents.replace(edits.parsed[unit.owner], path, text)
            edits.changed.add(unit.owner)
        elif unit.owner not in result.texts or result.texts[unit.owner] != UNREADABLE_ARGUMENTS:
            result.texts[unit.owner] = text


def _turn(pair: tuple[Unit, list[Span]]) -> bool:
    path = pair[0].document_path
    return isinstance(path[-1], documents.KeyAt) if path else False


async def _substituted(text: str, spans: Sequence[Span], stand_in: Callable[[Span, str], str | None], pace: Pace) -> str:
    """Return what `substitute` does, in slices."""
    if len(spans) <= SLICE:
        return substitute(text, spans, stand_in)
    parts: list[str] = []
    at = 0
    for index in range(0, len(spans), SLICE):
        await pace.breathe()
        at = _substitute(text, spans[index : index + SLICE], stand_in, at, parts)
    return "".join(parts) + text[at:]


def substitute(text: str, spans: Sequence[Span], stand_in: Callable[[Span, str], str | None]) -> str:
    """Return `text` with each ordered span replaced by what `stand_in(span, value)` gives; None leaves it, overlaps are skipped."""
    parts: list[str] = []
    at = _substitute(text, spans, stand_in, 0, parts)
    return "".join(parts) + text[at:]


def _substitute(text: str, spans: Sequence[Span], stand_in: Callable[[Span, str], str | None], at: int, parts: list[str]) -> int:
    """Add to `parts` what becomes of `text` from `at` on; return how far that reaches."""
    for span in spans:
        if span.start < at:
            continue
        replacement = stand_in(span, text[span.start : span.end])
        if replacement is None:
            continue
        parts += (text[at : span.start], replacement)
        at = span.end
    return at
