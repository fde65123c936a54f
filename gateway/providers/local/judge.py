"""What would the embedded model say, asked as a remote moderator is? The twin by which a remote one is measured and tested.

Its severities are its calibrated scores on the scale of the words they are reported in. What it cannot judge (protected material,
groundedness, named blocklists, languages) it refuses to, as the contract demands.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from gateway.ports import Aspect, InspectorUnavailable, Judgement, Moderator, Question, Unjudgeable

HEADS: Final = ("hate", "sexual", "violence", "self_harm")
LANGUAGES: Final = frozenset({"und", "en"})
ATTACK_AT: Final = 0.5
_STEPS: Final = (0.15, 0.3, 0.4, 0.5, 0.65, 0.8, 0.9)  # scores from which severity is 1, 2, ... 7


def severity_of(score: float) -> int:
    """Return 0 to 7 for a calibrated score; 2, 4 and 6 begin where the words low, medium and high do."""
    return sum(score >= step for step in _STEPS)


class LocalJudge:
    """`RemoteModerator` over a local `Moderator`. Takes milliseconds a text, on whichever thread asks."""

    def __init__(self, moderator: Moderator) -> None:
        self._moderator = moderator
        self.name = moderator.name
        self.version = moderator.version

    async def judge(self, questions: Sequence[Question], deadline_s: float) -> list[Judgement]:
        """Return a judgement for each question. Raises `InspectorUnavailable`, `Unjudgeable`."""
        return [self._judged(question, deadline_s) for question in questions]

    async def aclose(self) -> None:
        """Nothing is under way."""

    def _judged(self, question: Question, deadline_s: float) -> Judgement:
        if question.aspects - {Aspect.CATEGORIES, Aspect.ATTACK} or question.blocklists:
            raise Unjudgeable("the local model judges categories and attacks alone")
        if unknown := [head for head in question.heads if head not in HEADS]:
            raise Unjudgeable(f"the local model is not measured on the category `{unknown[0]}`")
        if question.language not in LANGUAGES:
            raise Unjudgeable(f"the local model is not trained for the language `{question.language}`")
        if time.monotonic() >= deadline_s:
            raise InspectorUnavailable("no time is left")
        scores = self._moderator.score(question.text, question.role)
        levels = {head: severity_of(scores.get(head, 0.0)) for head in question.heads}
        return Judgement(
            severities=levels if question.eight_levels else {head: level - level % 2 for head, level in levels.items()},
            attack=Aspect.ATTACK in question.aspects and scores.get("attack", 0.0) >= ATTACK_AT,
        )
