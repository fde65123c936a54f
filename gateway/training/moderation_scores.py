"""What do the embedded detectors say of each text of a set? Score functions for an evaluation, the same path as serving takes.

Each function takes texts and their roles (`user`, `assistant`, `document`) and returns head -> score in 0..1 for each text. `linear`
is the linear model over all readings of a text; `layered` asks the encoder where the linear model leaves room for doubt; `both`
asks it always.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache

from gateway.content import views
from gateway.content.second_opinion import Blend, combined, texts_to_ask, uncertain
from gateway.evidence import Role
from gateway.providers.local.encoder import Encoder
from gateway.providers.local.moderation import LinearModerator

Scores = dict[str, float]


@cache
def _moderator() -> LinearModerator:
    return LinearModerator()


@cache
def _encoder() -> Encoder:
    return Encoder()


def linear(texts: Sequence[str], roles: Sequence[str]) -> list[Scores]:
    """Return the linear model's scores, the highest over the readings of each text."""
    found = []
    for text, role in zip(texts, roles, strict=True):
        best: Scores = {}
        for reading in views.for_moderation(text):
            for head, score in _moderator().score(reading, Role(role)).items():
                best[head] = max(score, best.get(head, 0.0))
        found.append(best)
    return found


def both(texts: Sequence[str], roles: Sequence[str]) -> list[Scores]:
    """Return the combined scores, the encoder asked about every text."""
    return _asked(texts, roles, always=True)


def layered(texts: Sequence[str], roles: Sequence[str]) -> list[Scores]:
    """Return the scores that serving gives: combined where the linear model is in doubt, its own elsewhere."""
    return _asked(texts, roles, always=False)


def _asked(texts: Sequence[str], roles: Sequence[str], *, always: bool) -> list[Scores]:
    blend: Blend = _encoder().blend
    first = linear(texts, roles)
    found = []
    for text, role, scores in zip(texts, roles, first, strict=True):
        if always or uncertain(scores, Role(role), blend):
            scores = combined(scores, _encoder().opinions(texts_to_ask(views.for_moderation(text)), Role(role)), Role(role), blend)
        found.append(scores)
    return found


def timed(texts: Sequence[str], roles: Sequence[str]) -> tuple[list[Scores], float, float]:
    """Return `layered` scores, CPU milliseconds a text, and the share of texts the encoder was asked about."""
    first = linear(texts, roles)
    share = sum(uncertain(scores, Role(role), _encoder().blend) for scores, role in zip(first, roles, strict=True)) / max(1, len(texts))
    begun = time.process_time()
    scores = layered(texts, roles)
    return scores, (time.process_time() - begun) * 1000 / max(1, len(texts)), share
