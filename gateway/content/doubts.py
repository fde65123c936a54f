"""Which texts are asked about a second time, and with which words: between the linear scores of one request and a slower model.

Asks once for all doubtful texts of a request, so that they can be read together. What is in doubt and what both say together is decided
in `second_opinion`. Labels (names, ids, keys) and message borders keep their linear scores: they are too short to be read as sentences,
and the texts on both sides of a border are asked about themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from gateway.content.rules import READ_OVER
from gateway.content.second_opinion import Blend, Opinion, combined, texts_to_ask, uncertain
from gateway.evidence import Role, Segment, Use
from gateway.ports import SecondOpinion


def doubtful(segments: Sequence[Segment], scores: Sequence[Mapping[str, float]], blend: Blend) -> list[int]:
    """Return the indices of the texts worth asking about."""
    return [
        at
        for at, (segment, found) in enumerate(zip(segments, scores, strict=True))
        if segment.use is not Use.LABEL and segment.path[:1] != (READ_OVER,) and segment.text and uncertain(found, segment.role, blend)
    ]


async def second_scores(
    opinion: SecondOpinion,
    blend: Blend,
    views: Callable[[str], list[str]],
    segments: Sequence[Segment],
    scores: Sequence[Mapping[str, float]],
    deadline_s: float,
) -> dict[int, dict[str, float]]:
    """Return index -> scores for the texts that were asked about. Raises `InspectorUnavailable` when one of them was not answered."""
    owners: list[tuple[int, int]] = []
    texts: list[str] = []
    roles: list[Role] = []
    for at in doubtful(segments, scores, blend):
        readings = texts_to_ask(views(segments[at].text))
        owners.append((at, len(readings)))
        texts += readings
        roles += [segments[at].role] * len(readings)
    if not texts:
        return {}
    answers = await opinion.judge(texts, roles, deadline_s)
    found: dict[int, dict[str, float]] = {}
    taken = 0
    for at, count in owners:
        opinions = [Opinion(heads, whole) for heads, whole in answers[taken : taken + count]]
        found[at] = combined(scores[at], opinions, segments[at].role, blend)
        taken += count
    return found
