"""How does a quality scorer reach the embedded model? `score(texts, roles)`: the highest score over the views of each text."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.content.views import for_moderation
from gateway.evidence import Role
from gateway.providers.local.moderation import LinearModerator

_MODEL = LinearModerator()


def score(texts: Sequence[str], roles: Sequence[str]) -> list[dict[str, float]]:
    """Return one dict of head -> score a text, as the gateway would judge it."""
    return [_highest(text, Role(role)) for text, role in zip(texts, roles, strict=True)]


def _highest(text: str, role: Role) -> dict[str, float]:
    best: dict[str, float] = {}
    for view in for_moderation(text):
        for head, value in _MODEL.score(view, role).items():
            best[head] = max(best.get(head, 0.0), value)
    return best
