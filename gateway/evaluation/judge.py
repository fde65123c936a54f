"""What does the inspection that serves say of many texts? Runs it as an exchange would, a few texts at a time; keeps no text.

A text that inspection refuses to judge is an unanswered one, never a clean one: it is counted, and its spans and scores are missing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence

from gateway.content.inspect import Finding, Inspection, Scope, TooDear
from gateway.content.rules import Rules
from gateway.evidence import Direction, Role, Segment, Use
from gateway.ports import InspectorUnavailable

TOGETHER = 16  # texts in one call, as many as fit the bound on characters
CHARACTERS = 6_000
CALLS = 4  # at a time: enough to keep the names process busy while this one scans
DEADLINE_S = 120.0  # of one call: quality is measured here, not speed
_SCOPE = Scope("evaluation", b"evaluation")

Text = tuple[str, Role]


class Judge:
    """Asks one inspection under given rules. `unanswered` counts the texts it would not judge."""

    def __init__(self, inspection: Inspection, rules: Rules) -> None:
        self._inspection = inspection
        self.rules = rules
        self.unanswered = 0
        self.judged = 0

    async def findings(self, texts: Sequence[Text]) -> list[Finding | None]:
        """Return what was found in each text, None where there was no answer."""
        gate = asyncio.Semaphore(CALLS)

        async def ask(batch: range) -> list[Finding | None]:
            async with gate:
                return await self._some([texts[at] for at in batch])

        found = await asyncio.gather(*(ask(batch) for batch in _batches(texts)))
        self.judged += len(texts)
        return [one for batch in found for one in batch]

    async def _some(self, texts: Sequence[Text]) -> list[Finding | None]:
        try:
            return [*await self._ask(texts)]
        except (TooDear, InspectorUnavailable):
            if len(texts) == 1:
                self.unanswered += 1
                return [None]
        return [(await self._some([text]))[0] for text in texts]

    async def _ask(self, texts: Sequence[Text]) -> list[Finding]:
        """Ask about texts of one direction each: what an assistant says is an answer, all else comes in."""
        out: dict[int, Finding] = {}
        for direction in (Direction.INBOUND, Direction.OUTBOUND):
            chosen = [at for at, (_, role) in enumerate(texts) if (role is Role.ASSISTANT) is (direction is Direction.OUTBOUND)]
            if chosen:
                segments = [Segment(("text", at), texts[at][0], texts[at][1], Use.CONTENT) for at in chosen]
                found, _ = await self._inspection.findings(segments, self.rules, direction, _SCOPE, time.monotonic() + DEADLINE_S)
                out.update(zip(chosen, found, strict=True))
        return [out[at] for at in range(len(texts))]


def _batches(texts: Sequence[Text]) -> Iterator[range]:
    begin, size = 0, 0
    for at, (text, _) in enumerate(texts):
        if at > begin and (at - begin >= TOGETHER or size + len(text) > CHARACTERS):
            yield range(begin, at)
            begin, size = at, 0
        size += len(text)
    if begin < len(texts):
        yield range(begin, len(texts))
