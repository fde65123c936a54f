"""When is a remote moderator asked about a text, and what do its judgement and the local scores say together?

Sans-I/O: scores, severities and rules in, decisions out. Four ways to moderate: `local` has no rules here; `azure` takes the remote word
for what it was asked; `cascade` asks where a local score lies in the uncertain band and takes the remote word there; `both` asks always
and the stricter wins.

INVARIANT: a head or aspect the remote was not asked about keeps its local verdict; nothing unasked counts as harmless. What has no local
counterpart (blocklists there, protected material) is always asked. Labels (names, ids, keys) are judged locally in every mode: they are
many, short and no prose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

import msgspec

from gateway.evidence import Segment, Use
from gateway.ports import Aspect, Judgement, Question

# These stand here and not in `rules`, which holds them.
HEADS: Final = ("hate", "sexual", "violence", "self_harm", "harassment", "illicit", "harmful", "attack")
CATEGORIES: Final = ("hate", "sexual", "violence", "self_harm")
PIECE: Final = 10_000
MAX_CHARS: Final = 48 * PIECE  # of one direction of one exchange: what costs more is no honest prompt
FLAGGED: Final = "uninspected"
_SCORES: Final = {0: 0.0, 2: 0.4, 4: 0.65, 6: 0.9}  # in the middle of the words they stand for


class Mode(StrEnum):
    AZURE = "azure"
    CASCADE = "cascade"
    BOTH = "both"


class Acts(StrEnum):
    """What a hit does."""

    OFF = "off"
    RECORD = "record"
    BLOCK = "block"


class CloudRules(msgspec.Struct, frozen=True, kw_only=True):
    """What one profile asks of the remote moderator in one direction. Thresholds are severities, 1 to 7, by head."""

    mode: Mode
    block_at: Mapping[str, int]
    record_at: Mapping[str, int]
    uncertain: tuple[float, float] = (0.0, 1.0)  # local scores from the first to below the second leave room for doubt
    shield: Acts = Acts.OFF  # prompt attacks; inbound alone
    protected: Acts = Acts.OFF  # protected material; outbound alone
    blocklists: tuple[str, ...] = ()
    eight_levels: bool = False

    @property
    def heads(self) -> tuple[str, ...]:
        return tuple(head for head in CATEGORIES if head in self.block_at or head in self.record_at)


class Settled(msgspec.Struct, frozen=True):
    """What counts in the end: scores to report, names to record, names that block."""

    scores: Mapping[str, float]
    recorded: tuple[str, ...]
    blocking: tuple[str, ...]


def folded(severity: int) -> int:
    """Return a severity of eight levels on the scale of four: 0, 2, 4, 6."""
    return severity - severity % 2


def score_of(severity: int) -> float:
    """Return the score a severity is reported as, in the words' own scale."""
    return _SCORES[folded(severity)]


def too_dear(segments: Sequence[Segment]) -> bool:
    """Return whether texts are more than any honest exchange would have a remote moderator read."""
    return sum(len(segment.text) for segment in segments if segment.use is not Use.LABEL) > MAX_CHARS


def question(segment: Segment, text: str, language: str, scores: Mapping[str, float], rules: CloudRules) -> Question | None:
    """Return what to ask about `text`, a reading of a segment; None where there is nothing to ask."""
    if segment.use is Use.LABEL or not text.strip():
        return None
    always = rules.mode is not Mode.CASCADE
    aspects: set[Aspect] = set()
    if rules.blocklists or (rules.heads and (always or any(_doubtful(scores, head, rules) for head in CATEGORIES))):
        aspects.add(Aspect.CATEGORIES)
    if rules.shield is not Acts.OFF and (always or _doubtful(scores, "attack", rules)):
        aspects.add(Aspect.ATTACK)
    if rules.protected is not Acts.OFF:
        aspects.add(Aspect.PROTECTED)
    if not aspects:
        return None
    return Question(
        text=text,
        role=segment.role,
        aspects=frozenset(aspects),
        heads=(rules.heads or CATEGORIES) if Aspect.CATEGORIES in aspects else (),
        blocklists=rules.blocklists if Aspect.CATEGORIES in aspects else (),
        language=language,
        eight_levels=rules.eight_levels,
    )


def _doubtful(scores: Mapping[str, float], head: str, rules: CloudRules) -> bool:
    low, high = rules.uncertain
    return low <= scores.get(head, 0.0) < high


def strictest(judgements: Sequence[Judgement]) -> Judgement:
    """Return one judgement that finds all that any of them found."""
    severities: dict[str, int] = {}
    for judgement in judgements:
        for head, severity in judgement.severities.items():
            severities[head] = max(severity, severities.get(head, 0))
    return Judgement(
        severities=severities,
        attack=any(j.attack for j in judgements),
        protected=any(j.protected for j in judgements),
        ungrounded=any(j.ungrounded for j in judgements),
        blocklists=tuple(sorted({name for j in judgements for name in j.blocklists})),
    )


def settle(
    asked: Question,
    judgement: Judgement,
    rules: CloudRules,
    scores: Mapping[str, float],
    recorded: Sequence[str],
    blocking: Sequence[str],
) -> Settled:
    """Return the verdict on a text from both sides. `recorded` and `blocking` are the local names, of which only heads are weighed.

    A local block that the remote overrules stays on the record: who disagrees with whom is worth knowing.
    """
    heads = _asked(asked) if rules.mode is not Mode.BOTH else ()
    overruled = {head for head in heads if rules.mode is Mode.AZURE or _doubtful(scores, head, rules)}
    blocks = [name for name in blocking if name not in overruled]
    records = [*recorded, *(name for name in blocking if name in overruled)]
    merged = dict(scores)
    for head, severity in judgement.severities.items():
        _report(merged, head, score_of(severity), overruled)
        if severity >= rules.block_at.get(head, 8):
            blocks.append(head)
        elif severity >= rules.record_at.get(head, 8):
            records.append(head)
    if Aspect.ATTACK in asked.aspects:
        _report(merged, "attack", 0.9 if judgement.attack else 0.0, overruled)
    hits = (
        ("attack", judgement.attack, rules.shield),
        ("protected_material_text", judgement.protected, rules.protected),
        ("custom_blocklists", bool(judgement.blocklists), Acts.BLOCK),
    )
    for name, hit, acts in hits:
        if hit and acts is not Acts.OFF:
            (blocks if acts is Acts.BLOCK else records).append(name)
    return Settled(merged, tuple(dict.fromkeys(records)), tuple(dict.fromkeys(blocks)))


def _asked(asked: Question) -> tuple[str, ...]:
    return (*asked.heads, "attack") if Aspect.ATTACK in asked.aspects else asked.heads


def _report(merged: dict[str, float], head: str, score: float, overruled: set[str]) -> None:
    merged[head] = score if head in overruled else max(score, merged.get(head, 0.0))


def unanswered(
    asked: Question, rules: CloudRules, recorded: Sequence[str], blocking: Sequence[str], *, local: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return (recorded, blocking) for a text whose question stayed without an answer and whose profile goes on all the same.

    `local`: the local verdict is what counts. Otherwise what the remote would have decided alone is let through and flagged; what the
    local side decides by its own right, in `cascade` outside the band and in `both`, goes on blocking.
    """
    if local:
        return tuple(recorded), tuple(blocking)
    waived = set(_asked(asked)) if rules.mode is Mode.AZURE else set()
    return (*(n for n in recorded if n not in waived), FLAGGED), tuple(n for n in blocking if n not in waived)
