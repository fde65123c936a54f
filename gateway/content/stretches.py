"""Which stretches of a streamed text does the slower model read, and what do both models say of each?

Theory of operation
- A text is cut into stretches: one ends with the first sentence that ends `LEAST` code points after it began, or at the last blank within
  `MOST`. Where they end depends on the text alone, so what is asked does not depend on how the text was cut into deltas: INVARIANT.
- At the end of each stretch the first model's scores are looked at: the highest since it was last begun anew, of the text as it stands and
  of its other readings. Where they leave doubt (`second_opinion.uncertain`) the slower model reads the stretch with what stands
  before it, `READ` code points or as much as the stretch is long.
- After a doubtful stretch the first model begins anew, `CONTEXT` code points back. So doubt ends with what gave rise to it, and both models
  speak of the same text: an opinion on one passage clears no other. Other readings look further back, as a code is longer than what it
  says, so a doubtful code is asked about for some stretches more.
- From `MANY` doubtful stretches on they grow longer, and after `ASKED` nobody is asked any more: the first model's word stands.
- Whoever holds the text lets nothing of a stretch leave from its first doubtful word on before the answer (`StreamGuard`).

Sans-I/O. Positions count from the channel's beginning.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from gateway.content.second_opinion import Blend, Opinion, combined, uncertain
from gateway.evidence import Role

LEAST, MOST = 80, 320  # code points of a stretch
LONGER = 240  # instead of `LEAST`, from `MANY` doubtful ones on
MANY = 8
ASKED = 120  # stretches of one channel
CONTEXT = 160  # code points that both models read again before a stretch
READ = 380  # code points that the slower model reads at once: what one of its windows holds
SENTENCE_ENDS = (". ", "! ", "? ", "\n")


class Stretch(msgspec.Struct, frozen=True):
    """A stretch that was scored: where it ends, the first model's scores of it, and the readings to ask about; none without doubt."""

    end: int
    scores: Mapping[str, float]
    texts: tuple[str, ...]


def end_of(text: str, begin: int, upto: int, least: int = LEAST) -> int:
    """Return where the stretch that begins at `begin` ends within `text[:upto]`, -1 where that is not known yet."""
    found = [at + len(mark) for mark in SENTENCE_ENDS if (at := text.find(mark, max(begin, begin + least - len(mark)), upto)) >= 0]
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
    """The stretches of one channel, in order: the ones that wait for an answer."""

    def __init__(self, blend: Blend, role: Role) -> None:
        self._blend = blend
        self._role = role
        self._waiting: deque[Stretch] = deque()
        self._asked = 0  # of those that wait
        self._doubtful = 0
        self.begin = 0  # of the stretch that has not ended
        self.settled = 0  # INVARIANT: everything before was judged
        self.wary = 0  # another reading of what stands before needs a verdict

    @property
    def waiting(self) -> bool:
        """Tell whether a stretch waits for its verdict."""
        return bool(self._waiting)

    @property
    def holds(self) -> bool:
        """Tell whether the stretch that has not ended waits for its end already: another reading of it does."""
        return self.wary > self.begin

    @property
    def least(self) -> int:
        """How long the next stretch is at least."""
        return LEAST if self._doubtful < MANY else LONGER

    def doubts(self, scores: Mapping[str, float]) -> bool:
        """Tell whether the first model's scores leave doubt; no scores do."""
        return uncertain(scores, self._role, self._blend)

    def ended(self, end: int, scores: Mapping[str, float], texts: Iterable[str]) -> bool:
        """Note that a stretch ended at `end`, and tell whether it is in doubt. `texts`: the readings to ask about if it is.

        INVARIANT: nobody writes into `scores` any more.
        """
        self.begin = end
        doubtful = self.doubts(scores)
        self._doubtful += doubtful
        asked = tuple(texts) if doubtful and self._doubtful <= ASKED else ()
        self._waiting.append(Stretch(end, scores, asked))
        return doubtful

    def wanted(self) -> list[str]:
        """Return the texts to ask about, once each. The answers are for `judged`, in order."""
        fresh = [text for one in list(self._waiting)[self._asked :] for text in one.texts]
        self._asked = len(self._waiting)
        return fresh

    def judged(self, answers: Sequence[tuple[dict[str, float], bool]]) -> list[dict[str, float]]:
        """Return what both models say of each stretch, in order, up to the next one without an answer. An empty answer: no opinion."""
        given = deque(answers)
        out: list[dict[str, float]] = []
        while self._waiting and len(given) >= len(self._waiting[0].texts):
            one = self._waiting.popleft()
            self._asked = max(0, self._asked - 1)
            self.settled = one.end
            said = [given.popleft() for _ in one.texts]
            out.append(combined(one.scores, [Opinion(scores, whole) for scores, whole in said], self._role, self._blend))
        return out
