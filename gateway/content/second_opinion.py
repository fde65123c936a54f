"""Which texts does the linear model leave in doubt, and what do its scores and those of a slower model say together?

Sans-I/O: numbers in, numbers out. Both models' scores are calibrated so that 0.5 is the one per cent point of ordinary harmless texts of
a role; so is the result. They are added as logits, each head with the weight its calibration gave it.

What the second model may not do: lower a score where it has not read all of the text, or one that a rule has set. It is asked about
texts inside a band of linear scores only; below and above it the linear model's word stands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from gateway.evidence import Role

MAX_READINGS = 3
LEAST, MOST = -6.0, 8.0  # logits beyond are as sure as these: one model cannot outvote the other without end
RULED = 0.9  # from this score of the attack head on, a matched rule may be the reason


class Opinion(msgspec.Struct, frozen=True):
    """Calibrated scores of one text by head, and whether the whole text was read."""

    scores: Mapping[str, float]
    whole: bool = True


class Blend(msgspec.Struct, frozen=True):
    """How two models' scores are joined. Made by training, shipped with the weights.

    `weight` is the second model's share by head; `shift` and `slope` recalibrate the sum by reading and head; a text is in doubt where
    a head's linear score lies within `low[head]` and `high`.
    """

    weight: Mapping[str, float]
    shift: Mapping[str, Mapping[str, float]]
    slope: Mapping[str, float]
    low: Mapping[str, float]
    high: float = 1.0


def reading_of(role: Role) -> str:
    """Return the name of the calibration a role is read in."""
    return {Role.ASSISTANT: "answer", Role.USER: "prompt"}.get(role, "document")


def uncertain(scores: Mapping[str, float], role: Role, blend: Blend) -> bool:
    """Tell whether the linear scores leave room for doubt. An unscored text does."""
    if not scores:
        return True
    return any(low <= scores.get(head, 0.0) <= blend.high for head, low in blend.low.items())


def texts_to_ask(readings: Sequence[str]) -> list[str]:
    """Return the readings of one text worth a slower look: the original and the last, which are those furthest from each other."""
    return list(dict.fromkeys([readings[0], *readings[1 - MAX_READINGS :]])) if len(readings) > 1 else list(readings)


def combined(scores: Mapping[str, float], opinions: Sequence[Opinion], role: Role, blend: Blend) -> dict[str, float]:
    """Return the scores that count. Without an opinion, the linear ones."""
    whole = all(opinion.whole for opinion in opinions)
    opinions = [opinion for opinion in opinions if opinion.scores]
    if not opinions:
        return dict(scores)
    if not scores:  # the linear model knew none of its words
        return {head: max(opinion.scores.get(head, 0.0) for opinion in opinions) for head in opinions[0].scores}
    shift = blend.shift[reading_of(role)]
    joined: dict[str, float] = {}
    for head, first in scores.items():
        second = max((opinion.scores.get(head, 0.0) for opinion in opinions), default=0.0)
        share = blend.weight.get(head, 0.0)
        total = (1.0 - share) * _logit(first) + share * _logit(second) - shift.get(head, 0.0)
        score = 1.0 / (1.0 + math.exp(-blend.slope.get(head, 1.0) * total))
        if (head == "attack" and first >= RULED) or not whole:
            score = max(score, first)
        joined[head] = score
    return joined


def _logit(score: float) -> float:
    if score <= 0.0:
        return LEAST
    if score >= 1.0:
        return MOST
    return max(LEAST, min(MOST, math.log(score / (1.0 - score))))
