"""What does a remote moderator say of these texts, and how does its word change what was found here? For profiles that ask for it alone.

Runs after the local inspectors, on what they found: whether a text is asked about at all, and what both sides say together, is decided in
`cascade`. Both the text and its most decoded reading are asked about, since a harm spelled in another way is the same harm. One unanswered
question leaves all of them unanswered: the profile says whether that refuses the exchange.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from gateway.content.cascade import FLAGGED, CloudRules, Settled, question, settle, strictest, unanswered
from gateway.content.rules import Action, DirectionRules
from gateway.evidence import Segment
from gateway.ports import InspectorUnavailable, Question, RemoteModerator

if TYPE_CHECKING:
    from gateway.content.inspect import Finding

_BORDER = "\x1f"  # stands at message borders inside windows; a word border to whoever reads
MIN_LANGUAGE_LETTERS = 40


class Readers(Protocol):
    """What of the process's inspectors is used here."""

    @property
    def remote(self) -> RemoteModerator | None: ...
    @property
    def views(self) -> Callable[[str], list[str]]: ...
    @property
    def language(self) -> Callable[[str], str]: ...


async def second_look(
    readers: Readers, segments: Sequence[Segment], found: Sequence[Finding], side: DirectionRules, rules: CloudRules, deadline_s: float
) -> list[Finding]:
    """Return the findings as they stand with the remote word. Raises `InspectorUnavailable` where the profile fails closed."""
    owners: list[tuple[int, int]] = []  # for each text asked about: its segment, how many readings
    questions: list[Question] = []
    for at, (segment, finding) in enumerate(zip(segments, found, strict=True)):
        asked = _questions(readers, segment, finding, rules)
        if asked:
            owners.append((at, len(asked)))
            questions += asked
    if not questions:
        return list(found)
    out = list(found)
    try:
        if readers.remote is None:
            raise InspectorUnavailable("no remote moderator is configured")
        judgements = await readers.remote.judge(questions, deadline_s)
    except InspectorUnavailable:
        if side.on_error is Action.BLOCK:
            raise
        taken = 0
        for at, count in owners:
            out[at] = _without(found[at], questions[taken], rules, local=side.on_error is Action.ALLOW)
            taken += count
        return out
    taken = 0
    for at, count in owners:
        judgement = strictest(judgements[taken : taken + count])
        names = _names(found[at])
        settled = settle(questions[taken], judgement, rules, dict(found[at].scores), names, found[at].blocking)
        out[at] = _with(found[at], settled)
        taken += count
    return out


def _questions(readers: Readers, segment: Segment, finding: Finding, rules: CloudRules) -> list[Question]:
    prose = segment.text.replace(_BORDER, " ")
    language = readers.language(prose) if len(prose) >= MIN_LANGUAGE_LETTERS else "und"
    scores = dict(finding.scores)
    if question(segment, prose, language, scores, rules) is None:
        return []
    readings = readers.views(prose)
    texts = dict.fromkeys([prose, readings[-1]] if readings else [prose])
    asked = [question(segment, text, language, scores, rules) for text in texts]
    return [one for one in asked if one is not None]


def _names(finding: Finding) -> list[str]:
    return [name for action, name in finding.noted if action is Action.RECORD]


def _with(finding: Finding, settled: Settled) -> Finding:
    scores = tuple((head, round(score, 4)) for head, score in settled.scores.items())
    noted = _noted(finding, settled.recorded, settled.blocking)
    return msgspec.structs.replace(finding, scores=scores, noted=noted, blocking=settled.blocking)


def _without(finding: Finding, asked: Question, rules: CloudRules, *, local: bool) -> Finding:
    recorded, blocking = unanswered(asked, rules, _names(finding), finding.blocking, local=local)
    return msgspec.structs.replace(finding, noted=_noted(finding, recorded, blocking), blocking=blocking, degraded=True)


def _noted(finding: Finding, recorded: Sequence[str], blocking: Sequence[str]) -> tuple[tuple[Action, str], ...]:
    others = tuple(note for note in finding.noted if note[0] not in (Action.RECORD, Action.BLOCK))
    return (*others, *((Action.RECORD, name) for name in recorded), *((Action.BLOCK, name) for name in blocking))


def flagged(finding: Finding, side: DirectionRules) -> Finding:
    """Return a degraded finding with the mark of a profile that lets such texts through and says so."""
    if not finding.degraded or side.on_error is not Action.RECORD or (Action.RECORD, FLAGGED) in finding.noted:
        return finding
    return msgspec.structs.replace(finding, noted=(*finding.noted, (Action.RECORD, FLAGGED)))
