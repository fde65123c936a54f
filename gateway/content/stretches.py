"""Which stretches of a streamed text does the slower model read, and what do both models say of the text so far?

Theory of operation
- A text is cut into stretches: one ends with the first sentence that ends `LEAST` code points after it began, or at the last blank within
  `MOST`. Where they end depends on the text alone, so what is asked does not depend on how the text was cut into deltas: INVARIANT.
- At the end of each stretch the scores of the first model are looked at. Where they leave doubt (`second_opinion.uncertain`) the
  slower model reads the last `READ` code points up to there, a window of its own, and the highest it said so far counts.
- The first model's scores are maxima, so doubt does not end: from its first doubtful stretch on a text is read to its end.
- Whoever holds the text lets nothing of a doubtful stretch leave before the answer (`StreamGuard`).

Sans-I/O. Positions count from the channel's beginning.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import msgspec

from gateway.content.second_opinion import Blend, Opinion, combined, uncertain
from gateway.evidence import Role

LEAST, MOST = 80, 320  # code points of a stretch
READ = 380  # code points that the slower model reads at once: what one of its windows holds
_ENDS = (". ", "! ", "? ", "\n")


class Stretch(msgspec.Struct, frozen=True):
    """A stretch that was scored: where it ends, the first model's scores up to there, and what to ask; no text where there is no doubt."""

    end: int
    scores: Mapping[str, float]
    text: str


def end_of(text: str, begin: int, upto: int) -> int:
    """Return where the stretch that begins at `begin` ends within `text[:upto]`, -1 where that is not known yet."""
    found = [at + len(mark) for mark in _ENDS if (at := text.find(mark, max(begin, begin + LEAST - len(mark)), upto)) >= 0]
    if found and min(found) - begin <= MOST:
        return min(found)
    if upto - begin < MOST:
        return -1
    at = begin + MOST
    while at > begin and not text[at - 1].isspace():
        at -= 1
    if at == begin:  # one word without an end
        at = begin + MOST
        while at < upto and not text[at].isspace():
            at += 1
        if at == upto:
            return -1
        at += 1
    return at


class Stretches:
    """The stretches of one channel, in order: the ones that wait for an answer and what was said so far."""

    def __init__(self, blend: Blend, role: Role) -> None:
        self._blend = blend
        self._role = role
        self._waiting: deque[Stretch] = deque()
        self._asked = 0  # of those that wait
        self._whole = True  # it could read all that it was asked about
        self._said: dict[str, float] = {}  # the highest the slower model said of each head
        self.begin = 0  # of the stretch that has not ended
        self.settled = 0  # INVARIANT: everything before was judged

    @property
    def waiting(self) -> bool:
        """Tell whether a stretch waits for its verdict."""
        return bool(self._waiting)

    def doubts(self, scores: Mapping[str, float]) -> bool:
        """Tell whether the first model's scores leave doubt; no scores do."""
        return uncertain(scores, self._role, self._blend)

    def ended(self, end: int, scores: Mapping[str, float], text: str) -> None:
        """Note that a stretch ended at `end`; `text` holds the last `READ` code points up to there."""
        self.begin = end
        # A session may go on writing into what it gave.
        self._waiting.append(Stretch(end, dict(scores), text if self.doubts(scores) else ""))

    def wanted(self) -> list[str]:
        """Return the texts to ask about, once each. The answers are for `judged`, in order."""
        fresh = [one.text for one in list(self._waiting)[self._asked :]]
        self._asked = len(self._waiting)
        return [text for text in fresh if text]

    def judged(self, answers: Sequence[tuple[dict[str, float], bool]]) -> list[dict[str, float]]:
        """Return what both models say at each end, in order, up to the next one without an answer. An empty answer: no opinion."""
        given = deque(answers)
        out: list[dict[str, float]] = []
        while self._waiting and (given or not self._waiting[0].text):
            one = self._waiting.popleft()
            self._asked = max(0, self._asked - 1)
            self.settled = one.end
            if not one.text:
                out.append(dict(one.scores))
                continue
            said, whole = given.popleft()
            # SECURITY: an earlier stretch that was read speaks for none that was not. What was never asked about was not in doubt.
            self._whole = self._whole and whole and bool(said)
            for head, score in said.items():
                self._said[head] = max(score, self._said.get(head, 0.0))
            out.append(combined(one.scores, [Opinion(self._said, self._whole)], self._role, self._blend))
        return out
