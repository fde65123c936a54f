"""How harmful is a text, and is it an attack on the prompt? The embedded answer: a linear model over words, summed on the fly.

Every word contributes a whole number to every head: its own weight, that of its byte n-grams, and that of the pairs it forms with
the two words before it. The logit of a window is `bias + unit * sum / length_scale(words)`; the score of a text is the highest over
the windows its role asks for, shifted so that **0.5 is the one per cent point of ordinary harmless texts of that role**.

Theory of operation
- Contributions are integers, so a running sum is exact and a window is a difference of two sums. A stream therefore gives the
  numbers of a batch, whatever its chunks.
- Role `assistant`: the last 48 words are judged at every word boundary. Maxima only grow and depend on the concatenation alone.
- Other roles (a request is judged when it is complete): texts of up to 512 words as a whole, longer ones by moving windows of 512
  and 48 words at fixed positions, and the window that ends the text. `feed` gives the score of the text so far.
- Words already met come from a bounded table; new ones are hashed together in one vectorised pass.

It must not see pickles, take time from anyone (linear in the text), or claim understanding: it is a screen.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.content.second_opinion import reading_of
from gateway.evidence import Role
from gateway.providers.local import moderation_features as features
from gateway.providers.local.attack_rules import LONGEST, AttackRules

HEADS = ("hate", "sexual", "violence", "self_harm", "harassment", "illicit", "harmful", "attack")
ATTACK = HEADS.index("attack")
HARMFUL = HEADS.index("harmful")
SHORT, LONG = 48, 512  # words a window holds
SHORT_STEP, LONG_STEP = 16, 256  # a role that is judged whole: where windows of a long text end
KNOWN_WORDS = 32_768  # rows of the table of words met: 2.3 MB with its dictionary
FEW = 12  # words up to which a stream's delta is taken one at a time
THIN = (0.5, 0.65, 0.8)
FRAGMENT = 8  # words up to which a text is held against scraps of its own length
FADED = 16  # words from which it is not
RULE_SCORE = 0.9  # what a matched attack rule lifts the attack head to
WEIGHTS = Path(__file__).parent / "weights"

Int8s = NDArray[np.int8]
Int32s = NDArray[np.int32]
Int64s = NDArray[np.int64]
Float64s = NDArray[np.float64]




class ModelInvalid(Exception):
    """The weights are missing, altered, or of another layout."""


@dataclass(frozen=True)
class Weights:
    """Quantised tables. A table's row holds one int8 a head; `*_by` brings the tables to one unit."""

    version: str
    word: Int8s
    gram: Int8s
    pair: Int8s
    word_by: Int32s
    gram_by: Int32s
    pair_by: Int32s
    unit: Float64s  # logit units of one whole number, by head
    bias: Float64s
    points: dict[str, tuple[Float64s, Float64s]]  # reading -> logits at the one per cent point for short and long windows
    slope: Float64s
    fragments: Float64s  # [FRAGMENT, heads]: logits that one in a hundred ordinary scraps of so many words reaches


def load(folder: Path = WEIGHTS) -> Weights:
    """Read the committed model. Raises `ModelInvalid` unless the file is the one its card names, byte for byte."""
    try:
        card: dict[str, Any] = json.loads((folder / "moderation.json").read_text(encoding="utf-8"))
        raw = (folder / "moderation.npz").read_bytes()
    except (OSError, ValueError) as fault:
        raise ModelInvalid("moderation weights cannot be read") from fault
    if hashlib.sha256(raw).hexdigest() != card["sha256"] or tuple(card["heads"]) != HEADS:
        raise ModelInvalid("moderation weights do not match their card")
    with np.load(folder / "moderation.npz", allow_pickle=False) as tables:
        arrays = {name: tables[name] for name in tables.files}
    points = {
        reading: (np.array(both["short"], dtype=np.float64), np.array(both["long"], dtype=np.float64))
        for reading, both in card["points"].items()
    }
    return Weights(
        version=card["version"], word=arrays["word"], gram=arrays["gram"], pair=arrays["pair"], word_by=arrays["word_by"],
        gram_by=arrays["gram_by"], pair_by=arrays["pair_by"], unit=np.array(card["unit"]), bias=np.array(card["bias"]),
        points=points, slope=np.array(card["slope"]),
        fragments=np.array(card.get("fragments") or np.full((FRAGMENT, len(HEADS)), -np.inf), dtype=np.float64),
    )


class KnownWords:
    """Contributions and hashes of words met before. Emptied when full, so its size is bounded and no input can grow it."""

    def __init__(self, weights: Weights, capacity: int = KNOWN_WORDS) -> None:
        self._weights = weights
        self._capacity = capacity
        self._index: dict[str, int] = {}
        self._rows = np.zeros((capacity, len(HEADS)), dtype=np.int32)
        self._ids = np.zeros(capacity, dtype=np.uint32)

    def of(self, words: list[str]) -> tuple[Int32s, NDArray[np.uint32]]:
        """Return contributions [n, heads] without pairs, and hashes [n]."""
        index = self._index
        try:
            at = [index[word] for word in words]
        except KeyError:
            fresh = list(dict.fromkeys(word for word in words if word not in index))
            if len(index) + len(fresh) > self._capacity:
                index.clear()
                fresh = list(dict.fromkeys(words))
            if len(fresh) > self._capacity:
                return self._compute(words)
            start = len(index)
            self._rows[start : start + len(fresh)], self._ids[start : start + len(fresh)] = self._compute(fresh)
            index.update(zip(fresh, range(start, start + len(fresh)), strict=True))
            at = [index[word] for word in words]
        rows = np.array(at, dtype=np.intp)
        return self._rows.take(rows, axis=0), self._ids.take(rows)

    def _compute(self, words: list[str]) -> tuple[Int32s, NDArray[np.uint32]]:
        weights = self._weights
        ids = features.word_ids(words)
        rows = weights.word[features.word_buckets(ids)].astype(np.int32) * weights.word_by
        buckets, owners = features.grams(words)
        if len(buckets):
            order = np.argsort(owners, kind="stable")
            owners = owners[order]
            first = np.flatnonzero(np.diff(owners, prepend=-1))
            sums = np.add.reduceat(weights.gram[buckets[order]], first, axis=0, dtype=np.int32)
            rows[owners[first]] += sums * weights.gram_by
        return rows, ids


# Eight whole numbers in one, 32 bits apart, so that adding and comparing rows of heads costs one operation each. A lane may be
# negative while sums are taken: only their total, lifted by `_LIFT`, is ever taken apart.
# INVARIANT: a row stays under 2**18 and a window of rows under 2**24, whatever the text, so no lane reaches its neighbour.
_LANE_BITS = 32
_LIFT_LANE = 1 << 30
_LIFT = sum(_LIFT_LANE << (_LANE_BITS * head) for head in range(len(HEADS)))
_LANES_BYTES = _LANE_BITS // 8 * len(HEADS)
_FAR = 1 << 28  # beyond any sum of a window


def packed(rows: Int64s) -> list[int]:
    """Return each row [n, heads] as one number."""
    raw = (rows + _LIFT_LANE).astype("<u4").tobytes()
    return [int.from_bytes(raw[at : at + _LANES_BYTES], "little") - _LIFT for at in range(0, len(raw), _LANES_BYTES)]


def unpacked(rows: Iterable[int]) -> Int64s:
    """Return [n, heads] of packed rows."""
    raw = b"".join([(row + _LIFT).to_bytes(_LANES_BYTES, "little") for row in rows])
    return np.frombuffer(raw, dtype="<u4").reshape(-1, len(HEADS)).astype(np.int64) - _LIFT_LANE


class FewWords:
    """The same contributions as `LinearModerator.recent`, one word at a time in whole numbers: a stream's word is too little for a
    vectorised pass, whose fixed cost is ten times this. Bounded like `KnownWords`."""

    def __init__(self, weights: Weights, known: KnownWords, capacity: int = 8_192) -> None:
        self._weights = weights
        self._known = known
        self._capacity = capacity
        self._rows: dict[str, tuple[int, int]] = {}
        self._pairs: dict[int, int] = {}  # bucket -> its row of the table, packed

    def of(self, word: str, one_before: int, two_before: int) -> tuple[int, int]:
        """Return the word's contribution, pairs included, packed, and the word's hash."""
        found = self._rows.get(word)
        if found is None:
            rows, ids = self._known.of([word])
            if len(self._rows) >= self._capacity:
                self._rows.clear()
            found = self._rows[word] = (int(ids[0]), packed(rows.astype(np.int64))[0])
        own, row = found
        pairs = self._pairs
        near, far = features.pair_bucket(one_before, own, 1), features.pair_bucket(two_before, own, 2)
        one = pairs.get(near)
        two = pairs.get(far)
        if one is None or two is None:
            one, two = self._look_up(near, far)
        return row + one + two, own

    def _look_up(self, near: int, far: int) -> tuple[int, int]:
        if len(self._pairs) >= 2 * self._capacity:
            self._pairs.clear()
        one, two = packed(self._weights.pair[[near, far]].astype(np.int64) * self._weights.pair_by)
        self._pairs[near], self._pairs[far] = one, two
        return one, two


class LinearModerator:
    """Implements `ports.Moderator`. One a process; not shared between threads."""

    name = "linear"

    def __init__(self, folder: Path = WEIGHTS) -> None:
        self._weights = load(folder)
        self.version = self._weights.version
        self.known = KnownWords(self._weights)
        self.rules = AttackRules()
        self.unit_at: Float64s = self._weights.unit / features.length_scale(np.arange(LONG + 1))[:, None]
        # One to three words are thin evidence: corpora of abuse are full of a bare "yes" and "no" that were abusive by context alone.
        self.unit_at[1:4] *= np.array(THIN)[:, None]
        self.unit_rows: list[list[float]] = self.unit_at.tolist()
        self.few = FewWords(self._weights, self.known)
        # What a short text has to have beyond the point, by reading.
        self.scraps = {name: np.maximum(self._weights.fragments - long, 0.0) for name, (_, long) in self._weights.points.items()}

    @property
    def weights(self) -> Weights:
        return self._weights

    def score(self, text: str, role: Role) -> dict[str, float]:
        """Return head -> score in 0..1. Equals the last `feed` of a session given the same text in any pieces."""
        return self.open(role).feed(text)

    def open(self, role: Role) -> LinearSession:
        """Start judging one channel."""
        return LinearSession(self, role)

    def recent(self, words: list[str], before: NDArray[np.uint32]) -> tuple[Int64s, NDArray[np.uint32]]:
        """Return the contribution of each word, and the hashes of the last two words. `before` holds the two hashes preceding."""
        weights = self._weights
        rows, ids = self.known.of(words)
        chain = np.concatenate([before, ids])
        near_and_far = weights.pair[features.both_pair_buckets(chain)]
        pairs = near_and_far[0].astype(np.int64) + near_and_far[1]
        return rows + pairs * weights.pair_by, chain[-2:]


class LinearSession:
    """One text on its way. Holds at most 512 running sums and 200 characters."""

    def __init__(self, model: LinearModerator, role: Role) -> None:
        self._model = model
        self._streams = role is Role.ASSISTANT
        reading = reading_of(role)
        self._short_point, self._long_point = model.weights.points[reading]
        self._scraps = model.scraps[reading]
        self._before = np.full(2, features.START, dtype=np.uint32)
        self._sums: Int64s = np.zeros((1, len(HEADS)), dtype=np.int64)  # of the last LONG words and the word before them
        self._count = 0
        self._best = np.full(len(HEADS), -50.0)
        self._tail = "\n"
        self._ruled = False
        self._recent: deque[int] = deque()  # contributions of words not yet in `_sums`, packed: streams take few at a time
        self._window: deque[int] = deque(maxlen=SHORT)
        self._window_sum = 0
        self._limits = 0  # packed and lifted: the highest sums of a full window that raise no maximum; 0 until they are known
        self._shift: list[float] = (model.weights.bias - self._short_point).tolist()
        self._known_scores: dict[str, float] | None = None
        self._best_list: list[float] = [-50.0] * len(HEADS)  # of a stream, kept beside `_best` while words come one at a time
        self._last = self._last_but_one = features.START

    def feed(self, words: str) -> dict[str, float]:
        """Add text that ends at a word boundary. Returns the score of all text so far; for `assistant` it never falls."""
        if not self._streams and not self._ruled:
            seen = self._tail + words
            self._ruled = bool(self._model.rules.found(seen))
            self._tail = _from_space(seen[-LONGEST:]) if len(seen) > LONGEST else seen
        found = features.words(words)
        if self._streams and len(found) <= FEW:
            changed = [self._step(word) for word in found]
            if self._known_scores is None or any(changed):
                self._known_scores = self._scores(np.array(self._best_list))
            return self._known_scores
        self._known_scores = None
        self._fold()
        for at in range(0, len(found), 4096):  # memory stays flat on a text of any size
            self._add(found[at : at + 4096])
        best = self._best if self._streams else np.maximum(self._best, self._ending())
        return self._scores(best)

    def _step(self, word: str) -> bool:
        """Take one word of a stream; tell whether a maximum rose. The same numbers as `_add`, in the same order of operations."""
        row, own = self._model.few.of(word, self._last, self._last_but_one)
        self._last_but_one, self._last = self._last, own
        self._recent.append(row)
        self._count += 1
        window = self._window
        full = len(window) == SHORT
        self._window_sum = total = self._window_sum + row - (window[0] if full else 0)
        window.append(row)
        rose = False
        # A lane of the difference keeps its lifted bit exactly where the sum is not above its limit.
        if not (full and self._limits) or (self._limits - total) & _LIFT != _LIFT:
            rose = self._judge(total, len(window))
        if len(self._recent) >= LONG_STEP or (self._count % LONG_STEP == 0 and self._count >= LONG):
            before = list(self._best_list)
            self._fold()
            return rose or self._best_list != before
        return rose

    def _judge(self, total: int, size: int) -> bool:
        """Compare the window's sums with the maxima, and find the limits below which the next need no look."""
        best, shift = self._best_list, self._shift
        units = self._model.unit_rows[size]
        lifted = total + _LIFT
        rose = False
        for head, unit in enumerate(units):
            entered = (lifted >> (_LANE_BITS * head) & 0xFFFFFFFF) - _LIFT_LANE
            logit = entered * unit + shift[head]
            if logit > best[head]:
                best[head] = logit
                rose = True
        self._limits = 0
        if size == SHORT:
            lanes = (_highest(best[head], units[head], shift[head]) << (_LANE_BITS * head) for head in range(len(HEADS)))
            self._limits = _LIFT + sum(lanes)
        return rose

    def _fold(self) -> None:
        """Move words taken one at a time into the running sums, judging the long windows that ended among them."""
        if not self._recent:
            return
        rows = unpacked(self._recent)
        self._recent.clear()
        self._best = np.array(self._best_list)
        self._before = np.array([self._last_but_one, self._last], dtype=np.uint32)
        self._grow(rows, self._count - len(rows), short=False)
        self._best_list = self._best.tolist()
        self._limits = 0

    def _add(self, words: list[str]) -> None:
        if not words:
            return
        contributions, self._before = self._model.recent(words, self._before)
        count = self._count
        self._count += len(words)
        self._grow(contributions, count, short=True)
        if self._streams:
            self._window.extend(packed(contributions[-SHORT:]))
            self._window_sum = sum(self._window)
            self._best_list = self._best.tolist()
            self._limits = 0
            self._last_but_one, self._last = (int(n) for n in self._before)

    def _grow(self, contributions: Int64s, count: int, *, short: bool) -> None:
        """Append contributions after `count` words and judge the windows that end among them."""
        held = len(self._sums) - 1
        added = len(contributions)
        sums = np.concatenate([self._sums, np.cumsum(contributions, axis=0) + self._sums[-1]])
        ends = np.arange(held + 1, held + 1 + added)
        positions = np.arange(count + 1, count + 1 + added)
        for size, step, point in ((SHORT, SHORT_STEP, self._short_point), (LONG, LONG_STEP, self._long_point)):
            if self._streams and size == SHORT:
                if not short:
                    continue
                chosen, at = ends, positions
            else:
                due = (positions % step == 0) & (positions >= size)
                if not due.any():
                    continue
                chosen, at = ends[due], positions[due]
            self._best = np.maximum(self._best, self._logits(sums, chosen, np.minimum(at, size), point).max(axis=0))
        self._sums = sums[-LONG - 1 :]

    def _ending(self) -> Float64s:
        """Judge the windows that end here: all of a short text; the last 48 words too where the text is longer."""
        if self._count == 0:
            return self._best
        end = np.array([len(self._sums) - 1])
        best: Float64s = self._logits(self._sums, end, np.minimum(end, LONG), self._long_point)[0]
        if self._count < FADED:
            fading = min(1.0, (FADED - self._count) / (FADED - FRAGMENT))
            best = best - fading * self._scraps[min(self._count, FRAGMENT) - 1]
        if self._count > SHORT:
            best = np.maximum(best, self._logits(self._sums, end, np.array([SHORT]), self._short_point)[0])
        return best

    def _logits(self, sums: Int64s, ends: Int64s, sizes: Int64s, point: Float64s) -> Float64s:
        model = self._model
        logits: Float64s = (sums[ends] - sums[ends - sizes]) * model.unit_at[sizes] + (model.weights.bias - point)
        return logits

    def _scores(self, best: Float64s) -> dict[str, float]:
        scores = [_sigmoid(value) for value in (best * self._model.weights.slope).tolist()]
        if self._ruled:
            scores[ATTACK] = max(scores[ATTACK], RULE_SCORE)
        return dict(zip(HEADS, scores, strict=True))


def _from_space(text: str) -> str:
    """Drop what comes before the first white space: a cut inside a word could look like the beginning of one."""
    return next((text[at:] for at, character in enumerate(text) if character.isspace()), "")


def _highest(best: float, unit: float, shift: float) -> int:
    """Return the highest whole sum whose logit, computed as everywhere, is not above `best`."""
    at = math.floor(min(max((best - shift) / unit, -_FAR), _FAR))
    while at > -_FAR and at * unit + shift > best:
        at -= 1
    while at < _FAR and (at + 1) * unit + shift <= best:
        at += 1
    return at


def _sigmoid(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-max(-40.0, min(40.0, value))))
