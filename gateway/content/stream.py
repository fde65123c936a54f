"""May this part of a streamed answer leave yet, and as what? One guard a channel; text in, releasable text out.

Theory of operation
-------------------
A channel is one growing text: the content of one choice, its refusal, its reasoning, the arguments of one tool call. The guard
keeps the received text as `left context | tail`. The tail is what has not been released. After each delta it computes a commit
point c, the largest position such that

1. no detector could still begin, extend or change a match before c (`viable_from` of each),
2. c does not fall inside a match, nor inside a placeholder or an unfinished placeholder,
3. every word before c has been scored by the moderation session, and c is a word boundary,
4. where names are looked for (NER), a model has seen the text before c with context on its right or to the end of its sentence,
5. c is not past what another reading of the same text still holds (`hold`: see `gateway.content.seam`).

Then it rewrites the matches before c, releases the result, and keeps enough context for the next scan. Because each
condition depends on the concatenated text alone and never on how it was cut into deltas, the concatenated output equals that
of one delta holding the whole text, for every deterministic detector and for the moderation model: INVARIANT, property-tested.

What follows: no text leaves before a verdict that covers it and the held text after it; a match is never completed in what was
released; on any error the tail is dropped, never flushed; memory is bounded by the tail limit plus the left context. For NER
only this is claimed: what was released was analysed with `NER_LEFT` characters before it and `NER_RIGHT` after it, or a sentence or the
text ended there; what a later analysis finds to go on behind that is replaced from there on.

Harm has no first and last character, so for moderation this is promised and no more: no word leaves before the text up to and with it
was scored, and nothing after a score that blocks. A sentence may have begun to leave before the word that condemns it. What is known
by then is not waited on idly: words that lift a head's score to `CAUTION` of what blocks are kept back, with what follows them, until the
sentence has ended or `CAUTION_LENGTH` more code points were scored. Ordinary text stays below that and is not delayed. Whoever must show
nothing of a harmful answer uses `strict`.

Where a second opinion is asked for, words that leave doubt are kept back with the rest of their stretch (`gateway.content.stretches`)
until the slower model has read it; both models' scores decide. What is asked and what is decided depends on the text alone; an answer
that never came is no verdict, and nothing held leaves without one.

Where policy lets text leave at once (`async`), two guards read a channel: one releases, holds back the last word, secrets and
pseudonyms alone, and looks for nothing else; the other is a guard as above whose releases nobody sees (`unseen`: whatever it would
rewrite ends the stream). The first is held at `ASYNC_BOUND` code points past what the second has decided: text that breaks a rule
ends the stream at the latest that many code points after it was received, and it may have been shown.

A blocking finding raises `Blocked`; the guard is dead afterwards and releases nothing more.
Sans-I/O: no clocks, no tasks. Whoever drives it awaits the NER pool between `ner_request` and `ner_result`, and the slower model between
`opinion_request` and `opinion_result`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import msgspec

from gateway.content.language import short_language
from gateway.content.markup import Markup
from gateway.content.pseudonyms import (
    LINK_CONTEXT,
    OPENING,
    Pseudonyms,
    in_ranges,
    is_json,
    opening,
    partial_placeholder,
    placeholder_ranges,
)
from gateway.content.rules import CANARY, Action, DirectionRules
from gateway.content.second_opinion import Blend, texts_to_ask
from gateway.content.stretches import CONTEXT, READ, SENTENCE_ENDS, Stretches, end_of
from gateway.content.union import united
from gateway.evidence import Role, Span, StreamMode
from gateway.ports import InspectorUnavailable, ModerationSession, SpanDetector

MAX_TAIL_WINDOW = 32_768  # code points: a PEM block is the longest thing a window legitimately holds (8 KiB), with room
MAX_TAIL_STRICT = 4_194_304
ASYNC_BOUND = 1_000  # code points that may leave before inspection has reached them where nothing waits for it
MAX_STEP = 8_192  # a longer delta is taken in steps, so that one large event is not mistaken for text that cannot be released
NER_LEFT = 200  # code points of context on the left: the receptive field of the tagger is a few tokens
NER_RIGHT = 48  # and on the right
NER_STRIDE = 240  # analyse at the latest after so many new code points
LANGUAGE_FIRST = 48  # code points before a text has a language: they are held until it is known
LANGUAGE_STEP = 256
LANGUAGE_SAMPLE = 1_000
READ_LEFT = 400  # code points read again with what is new: an encoded word is longer than a plain one
CAUTION = 0.5  # of a head's blocking score: words that lift it there wait for the end of their sentence
CAUTION_LENGTH = 160  # code points: a sentence that goes on longer is not waited for
TRIM_AT = 256  # released code points beyond the needed context before they are cut away
_SHORT_WORD = re.compile(r"(?:^|\W)[^\W\d_a-z\u00df-\u00ff]\w{0,3}\.\Z")


class Piece(msgspec.Struct, frozen=True):
    """`length` code points of what was received, and what leaves in their place."""

    length: int
    text: str


class Blocked(Exception):
    """A finding asks for the exchange to end. `flagged`: heads, types and rules; never text."""

    def __init__(self, flagged: Sequence[str]) -> None:
        super().__init__(", ".join(flagged))
        self.flagged = tuple(flagged)


class Readings(msgspec.Struct, frozen=True):
    """What else is asked of a channel's text besides spans and words: other readings of it, hidden characters, its language."""

    views: Callable[[str], list[str]]
    smuggling: Callable[[str], frozenset[str]]
    language: Callable[[str], str]
    score: Callable[[str], dict[str, float]]


class Findings:
    """What one exchange's answer held so far: numbers and names, shared by the guards of its channels."""

    def __init__(self) -> None:
        self.entities: defaultdict[str, int] = defaultdict(int)
        self.scores: dict[str, float] = {}
        self.flagged: set[str] = set()
        self.action = Action.ALLOW

    def note(self, action: Action, name: str) -> None:
        self.flagged.add(name)
        self.action = max(self.action, action)

    def raise_scores(self, scores: dict[str, float]) -> None:
        if not self.scores:
            self.scores = {head: score for head, score in scores.items() if score > 0.0}
            return
        for head, score in scores.items():
            if score > self.scores.get(head, 0.0):
                self.scores[head] = score

    def merge(self, scores: dict[str, float], flagged: Iterable[str], action: Action) -> None:
        """Take over what another look at other texts found, entities aside."""
        self.raise_scores(scores)
        self.flagged.update(flagged)
        self.action = max(self.action, action)


def releasing(rules: DirectionRules) -> DirectionRules:
    """Return the rules of the guard that releases at once: secrets alone are looked for."""
    return msgspec.structs.replace(
        rules,
        entities={},
        entity_default=Action.ALLOW,
        block_at={},
        record_at={},
        blocklist=None,
        ner=False,
        unsupported_language=Action.ALLOW,
    )


def behind(rules: DirectionRules) -> DirectionRules:
    """Return the rules of the guard that reads behind: all but the secrets the other one redacts."""
    return rules if rules.secrets is Action.BLOCK else msgspec.structs.replace(rules, secrets=Action.ALLOW)


def judge_scores(scores: dict[str, float], rules: DirectionRules, role: Role, findings: Findings) -> None:
    """Note recorded heads; raise `Blocked` for blocking ones."""
    findings.raise_scores(scores)
    for head in rules.recorded_heads(scores):
        findings.note(Action.RECORD, head)
    blocked = rules.blocked_heads(scores, role)
    if blocked:
        for head in blocked:
            findings.note(Action.BLOCK, head)
        raise Blocked(blocked)


class StreamGuard:
    """The guard of one channel. Not reusable after `finish` or `Blocked`."""

    def __init__(
        self,
        rules: DirectionRules,
        detectors: Sequence[SpanDetector],
        opens: Callable[[], ModerationSession] | None,
        pseudonyms: Pseudonyms | None,
        findings: Findings,
        *,
        mode: StreamMode,
        role: Role = Role.ASSISTANT,
        readings: Readings | None = None,
        label: bool = False,
        unseen: bool = False,
        blend: Blend | None = None,
    ) -> None:
        """`opens` begins a moderation session.

        `label`: the text is a name, never rewritten; what would be redacted in prose ends the exchange.
        `unseen`: what this guard releases goes nowhere, so it may judge at once what another would wait for, and rewrites nothing either.
        `blend`: a slower model is asked about stretches that leave doubt; not with `strict`, which judges whole texts.
        """
        self._rules = rules
        self._detectors = tuple(detectors) + ((rules.blocklist,) if rules.blocklist is not None else ())
        self._opens = opens
        self._session = opens() if opens is not None else None
        self._pseudonyms = pseudonyms if pseudonyms is not None and not pseudonyms.empty else None
        self._findings = findings
        self._strict = mode is StreamMode.STRICT
        self._label = label or unseen
        self._unseen = unseen
        self._role = role
        self._stretches = Stretches(blend, role) if blend is not None else None
        contexts = [d.left_context for d in self._detectors]
        contexts += [LINK_CONTEXT if self._pseudonyms else 0, NER_LEFT if rules.ner else 0, READ_LEFT if readings else 0]
        self._keep = max([*contexts, READ_LEFT + READ if self._stretches is not None else 0])
        self._text = ""
        self._opening = ""  # the first `OPENING` code points, where values come back
        self._start = 0  # INVARIANT: text[:start] has left or is context; text[start:] has not left
        self._scored = 0  # INVARIANT: start <= scored; text[:scored] was fed to the session
        self._named = 0  # text[:named] has been through NER
        self._names: list[Span] = []
        self._asked = -1  # where the text ended that NER was asked about, counted from the channel's beginning; -1: nothing is asked
        self._forced: list[Span] = []  # what other readings of the same text found here
        self._hold = -1  # from the channel's beginning: nothing from there on leaves; -1: nobody holds
        self._cautious = -1  # text[cautious:] waits for the end of its sentence; -1: nothing does
        self._judged: dict[str, float] | None = None
        self._known: dict[str, float] | None = None  # scores that were no doubt and no block at the end of a stretch
        self._readings = readings
        self._read = 0  # text[:read] has been read in its other readings
        self._from = 0  # from the channel's beginning: what stands before is read in its other readings elsewhere
        self._spoken = 0  # code points received when its language was last looked at
        self._total = 0  # code points received
        self._walked = self._blank = 0  # of these, how many were looked at for blanks, and where the last one ended
        self._markup = Markup()  # after text[:marked]
        self._marked = 0  # INVARIANT: at least `start` once something has left
        self._dead = False
        self._left = -1  # how much had left when the rest was dropped

    @property
    def received(self) -> int:
        """Code points received, counted from the channel's beginning as every position told to or asked of others is."""
        return self._total

    @property
    def released(self) -> int:
        """Where in the channel the text begins that has not left."""
        return self._total - len(self._text) + self._start if self._left < 0 else self._left

    @property
    def held(self) -> int:
        """Code points received and not released."""
        return len(self._text) - self._start

    def feed(self, delta: str) -> list[Piece]:
        """Take the next delta; return what may leave now. Raises `Blocked`."""
        if len(delta) <= MAX_STEP:
            return self._feed(delta)
        pieces: list[Piece] = []
        for at in range(0, len(delta), MAX_STEP):
            pieces += self._feed(delta[at : at + MAX_STEP])
        return pieces

    def _feed(self, delta: str) -> list[Piece]:
        if self._dead:
            return []
        if self._pseudonyms is not None and len(self._opening) < OPENING:
            self._opening = opening(self._opening + delta)
        self._text += delta
        self._total += len(delta)
        if self.held > (MAX_TAIL_STRICT if self._strict else MAX_TAIL_WINDOW):
            self._die(["held_text_limit"])
        if self._strict:
            return []
        boundary = self._boundary()
        if boundary <= self._start or not self._speaks(final=False):
            return []
        self._score(boundary)
        self._reread(boundary)
        if self._stretches is not None:
            boundary = self._undoubted(self._stretches, boundary)
        elif self._cautious >= 0:
            boundary = self._cleared(boundary)
        return self._commit(min([boundary, *(d.viable_from(self._text, self._start) for d in self._detectors)]))

    def after(self, text: str, others_from: int) -> None:
        """Take text that stands before all that will be fed: it has left already and is context, for patterns alone.

        Other readings of what stands before `others_from` are another guard's.
        """
        self._text = text
        self._total = self._start = self._scored = self._named = self._read = len(text)
        self._from = others_from

    def recent(self, context: int) -> tuple[str, str]:
        """Return up to `context` code points that nothing to come can change, and all after them."""
        at = self._start
        if self._strict:
            near = max(0, len(self._text) - MAX_TAIL_WINDOW // 2)
            at = min([self._boundary(), *(d.viable_from(self._text, near) for d in self._detectors)])
        return self._text[max(0, at - context) : at], self._text[at:]

    def hold(self, at: int) -> None:
        """Let nothing from `at` on leave until this is said again; -1 lets go."""
        self._hold = at

    def force(self, begin: int, end: int, type_: str) -> None:
        """Treat what is held from `begin` to `end` as a finding of `type_`: another reading of the same text says so."""
        base = self._total - len(self._text)
        if end > base + self._start:
            self._forced.append(Span(max(begin - base, self._start), end - base, type_, 1.0, "seam"))

    def finish(self) -> list[Piece]:
        """No more text will come: judge and release the rest. Raises `Blocked`."""
        if self._dead:
            return []
        self._speaks(final=True)
        self._score(len(self._text), final=True)
        self._reread(len(self._text))
        if self._stretches is not None and self._stretches.waiting:
            self.drop()
            raise InspectorUnavailable("the end of a text was not judged")
        pieces = self._commit(len(self._text), final=True)
        self._dead = True
        return pieces

    def take(self) -> str:
        """Hand over everything that is held, unreleased, to be judged as a whole elsewhere. The guard is done with it.

        What other readings found in it is replaced, so it may have another length than `held`.
        """
        text = self._text[self._start :]
        found: list[Span] = []
        for span in self._forced:  # several readings may say the same
            if span.start >= self._start:
                found = united(found, [span], self._text)
        for span in sorted(found, reverse=True):
            if span.start >= self._start:
                text = f"{text[: span.start - self._start]}<{span.type}>{text[span.end - self._start :]}"
                self._findings.entities[span.type] += 1
                self._findings.note(self._rules.action_for(span), span.type)
        self.drop()
        return text

    def drop(self) -> None:
        """Forget the tail: nothing of it will leave."""
        if self._left < 0:
            self._left = self.released
        self._dead = True
        self._text = ""
        self._start = 0

    def ner_request(self, *, final: bool = False) -> tuple[str, int] | None:
        """Return (text to analyse, where in the channel it begins) when it is time to, else None. Answer with `ner_result`."""
        if not self._rules.ner or self._dead or self._asked >= 0:
            return None
        fresh = len(self._text) - self._named
        if fresh <= 0 or (self._strict and not final):
            return None
        if not final and fresh < NER_STRIDE and self._ner_cut(len(self._text)) <= self._named:
            return None
        begin = max(0, self._named - NER_LEFT)
        self._asked = self._total
        return self._text[begin:], self._total - len(self._text) + begin

    def ner_result(self, spans: Sequence[Span], offset: int, *, final: bool = False) -> list[Piece]:
        """Take the names found in the requested text; return what may leave now. Raises `Blocked`."""
        if self._dead:
            return []
        base = self._total - len(self._text)
        end = self._asked - base
        self._asked = -1
        cut = end if final else max(self._ner_cut(end), self._text.rfind(" ", 0, max(0, end - NER_RIGHT)) + 1, self._named)
        moved = [Span(s.start + offset - base, s.end + offset - base, s.type, s.score, s.detector) for s in spans]
        for span in moved:
            if span.start < cut < span.end:
                cut = max(self._named, span.start)
        self._names += [self._rest(s) for s in moved if self._named < s.end <= cut]
        self._named = cut
        return [] if final else self.feed("")

    def opinion_request(self, *, final: bool = False) -> list[str]:
        """Return the texts the slower model is to read now, if any. Answer with `opinion_result`. Raises `Blocked`."""
        if self._stretches is None or self._dead:
            return []
        if final:
            self._score(len(self._text), final=True)
        return self._stretches.wanted()

    def opinion_result(self, answers: Sequence[tuple[dict[str, float], bool]], *, final: bool = False) -> list[Piece]:
        """Take what was said of the requested texts, in order; return what may leave now. Raises `Blocked`."""
        if self._stretches is None or self._dead:
            return []
        for scores in self._stretches.judged(answers):
            self._judge(scores)
        return [] if final else self.feed("")

    def _rest(self, name: Span) -> Span:
        """Return what has not been decided of a name. SECURITY: its first part was released as another name, or as none."""
        start = max(name.start, self._named)
        while start > name.start and start < name.end and not self._text[start].isalnum():
            start += 1
        return msgspec.structs.replace(name, start=start)

    def _ner_cut(self, end: int) -> int:
        """Return where the last sentence ends, 0 for none. A point after an initial or a title ends nothing: a name may go on there."""
        at = end
        while True:
            at = max(self._text.rfind(mark, self._named, at) + len(mark) - 1 for mark in SENTENCE_ENDS)
            if at < self._named + 1:
                return 0
            if self._text[at] == "\n" or _SHORT_WORD.search(self._text, max(0, at - 8), at) is None:
                return at + 1

    def _boundary(self) -> int:
        """Return where the last word begins that has not ended, walking over no text twice."""
        text = self._text
        at = len(text)
        least = max(self._start, at - (self._total - self._walked))
        while at > least and not text[at - 1].isspace():
            at -= 1
        if at > least:
            self._blank = self._total - len(text) + at
        self._walked = self._total
        return max(self._start, self._blank - self._total + len(text))

    def _judge(self, scores: dict[str, float]) -> None:
        try:
            judge_scores(scores, self._rules, self._role, self._findings)
        except Blocked:
            self.drop()
            raise

    def _score(self, upto: int, *, final: bool = False) -> None:
        if self._stretches is not None:
            self._score_stretches(self._stretches, upto, final=final)
            return
        if upto <= self._scored:
            return
        if self._session is not None:
            scores = self._session.feed(self._text[self._scored : upto])
            if scores is not self._judged:  # a session gives the same object again while no maximum rose
                self._judged = scores
                self._judge(scores)
                if self._cautious < 0 and self._near(scores):
                    self._cautious = self._scored
        self._scored = upto

    def _score_stretches(self, stretches: Stretches, upto: int, *, final: bool) -> None:
        """Score text stretch by stretch: what is asked at the end of one may not depend on what came after it."""
        base = self._total - len(self._text)
        while True:
            begin = stretches.begin - base
            end = end_of(self._text, begin, upto, stretches.least)
            if end < 0 and final and begin < upto:
                end = upto
            to = end if end >= 0 else upto
            if to > self._scored and self._session is not None:
                self._judged = self._session.feed(self._text[self._scored : to])
                self._scored = to
            if end < 0:
                break
            scores, others = self._read_otherwise(self._text[max(0, begin - READ_LEFT) : end], dict(self._judged or {}))
            texts = dict.fromkeys([self._text[max(0, min(end - READ, begin - CONTEXT)) : end], *others])
            doubtful = stretches.ended(base + end, scores, texts)
            self._known = None if doubtful else dict(self._judged or {})  # a session may go on writing into what it gave
            if doubtful and self._opens is not None:
                self._session = self._opens()
                self._judged = self._session.feed(self._text[max(0, end - CONTEXT) : end])
        for scores in stretches.judged(()):
            self._judge(scores)

    def _read_otherwise(self, text: str, scores: dict[str, float]) -> tuple[dict[str, float], list[str]]:
        """Return the highest of `scores` and those of the other readings of a text, and which of these are worth a slower look."""
        if self._readings is None:
            return scores, []
        readings = self._readings.views(text)
        for reading in readings:
            if reading != text:
                for head, score in self._readings.score(reading).items():
                    scores[head] = max(score, scores.get(head, 0.0))
        return scores, texts_to_ask(readings)[1:]

    def _near(self, scores: dict[str, float]) -> bool:
        return any(scores.get(head, 0.0) >= CAUTION * at for head, at in self._rules.block_at.items())

    def _unsettled(self, stretches: Stretches, scores: dict[str, float]) -> bool:
        return self._near(scores) or stretches.doubts(scores)

    def _undoubted(self, stretches: Stretches, boundary: int) -> int:
        """Return how much of what was scored may leave: while a stretch is in doubt, or near what blocks, what stands before it."""
        scores = self._judged or {}
        free = not stretches.waiting and stretches.wary <= stretches.settled
        if free and (not self._unsettled(stretches, scores) or scores == self._known):
            return boundary
        return min(boundary, stretches.settled - self._total + len(self._text))

    def _cleared(self, boundary: int) -> int:
        """Return how much of what was scored may leave while words wait for the end of their sentence."""
        at = self._cautious
        if boundary - at < CAUTION_LENGTH and not any(mark in self._text[at:boundary] for mark in SENTENCE_ENDS):
            return at
        self._cautious = -1
        return boundary

    def _speaks(self, *, final: bool) -> bool:
        """Judge the language once there is enough text to have one, and again as it goes on; False while it is too early."""
        if self._readings is None or self._rules.unsupported_language is Action.ALLOW:
            return True
        if self._total < LANGUAGE_FIRST and not final:
            return self._unseen
        if self._total - self._spoken < (1 if final or not self._spoken else LANGUAGE_STEP):
            return True
        end, begin = len(self._text), len(self._text) - self._total + self._spoken
        self._spoken = self._total
        while end > max(0, begin):  # SECURITY: all that is new, however much came at once
            sample = self._text[max(0, end - LANGUAGE_SAMPLE) : end]
            language = self._readings.language(sample) if end >= LANGUAGE_FIRST else short_language(sample)
            end -= LANGUAGE_SAMPLE
            if language != "und" and language not in self._rules.languages:
                self._findings.note(self._rules.unsupported_language, "unsupported_language")
                if self._rules.unsupported_language is Action.BLOCK:
                    self._die(["unsupported_language"])
        return True

    def _reread(self, upto: int) -> None:
        """Judge the other readings of what is about to leave: decoded, folded, unhidden. SECURITY: else a code is a way around."""
        if self._readings is None or upto <= self._read:
            return
        text = self._text[max(0, self._read - READ_LEFT, self._from - self._total + len(self._text)) : upto]
        self._read = upto
        if not text.isascii() and self._rules.smuggling is not Action.ALLOW:
            for rule in sorted(self._readings.smuggling(text)):
                self._findings.note(self._rules.smuggling, rule)
                if self._rules.smuggling >= Action.PSEUDONYMISE:
                    self._die([rule])
        for reading in self._readings.views(text):
            if reading == text:
                continue
            if self._stretches is None:
                self._judge(self._readings.score(reading))
            elif not self._stretches.holds and self._unsettled(self._stretches, self._readings.score(reading)):
                self._stretches.wary = self._total - len(self._text) + upto  # judged with its stretch, by both models
            for span in self._rules.blocklist.scan(reading) if self._rules.blocklist is not None else ():
                action = self._rules.action_for(span)
                if action >= Action.PSEUDONYMISE:  # nobody knows which characters to replace
                    self._die([span.type])
                if action is Action.RECORD:
                    self._findings.note(action, span.type)

    def _die(self, flagged: list[str]) -> None:
        for name in flagged:
            self._findings.note(Action.BLOCK, name)
        self.drop()
        raise Blocked(flagged)

    def _commit(self, upto: int, *, final: bool = False) -> list[Piece]:
        if self._rules.ner and not final:
            upto = min(upto, self._named)
        if self._hold >= 0 and not final:
            upto = min(upto, self._hold - self._total + len(self._text))
        if upto <= self._start:
            return []
        kept = placeholder_ranges(self._text)
        if not final:
            upto = min(upto, partial_placeholder(self._text))
        spans = self._spans(kept)
        upto = self._outside(upto, spans, kept)
        if upto <= self._start:
            return []
        pieces = self._rewrite(upto, spans, kept)
        self._start = upto
        self._trim()
        return pieces

    def _spans(self, kept: list[tuple[int, int]]) -> list[Span]:
        found: list[Span] = []
        for detector in self._detectors:
            found += detector.scan(self._text, self._start)
        if self._names:
            found = united(sorted(found), [name for name in self._names if name.start >= self._start], self._text)
        rules = self._rules
        found = [s for s in found if rules.action_for(s) is not Action.ALLOW and not rules.passes(s, self._text)]
        found = [s for s in found if s.type == CANARY or not in_ranges(s, kept)]
        found.sort()
        # SECURITY: what another reading found is never dropped for what overlaps it here: the rest of it is kept.
        for span in self._forced:
            if span.start >= self._start:
                found = united(found, [span], self._text)
        return found

    def _outside(self, upto: int, spans: list[Span], kept: list[tuple[int, int]]) -> int:
        ranges = [(s.start, s.end) for s in spans] + kept
        moved = True
        while moved:
            moved = False
            for begin, end in ranges:
                if begin < upto < end:
                    upto = begin
                    moved = True
        return upto

    def _rewrite(self, upto: int, spans: list[Span], kept: list[tuple[int, int]]) -> list[Piece]:
        edits: list[tuple[int, int, str]] = []
        for span in spans:
            if span.start >= upto:
                break
            action = self._rules.action_for(span)
            if action is Action.BLOCK or (self._label and action >= Action.PSEUDONYMISE):
                self._die([span.type])
            self._findings.entities[span.type] += 1
            self._findings.note(action, span.type)
            if action is not Action.RECORD:
                edits.append((span.start, span.end, f"<{span.type}>"))
        if self._pseudonyms is not None:
            escaped = is_json(self._opening)
            for begin, end in self._pseudonyms.minted(self._text):
                if self._marked <= begin < upto:
                    self._mark(begin)
                    near, far = self._text[max(0, begin - LINK_CONTEXT) : begin], self._text[end : end + LINK_CONTEXT]
                    value = self._pseudonyms.value(self._text[begin:end], near, far, inside=self._markup.open, escaped=escaped)
                    edits.append((begin, end, value))
                    self._marked = end  # a token ends no tag, as in a whole text
            self._mark(upto)
            edits.sort()
        pieces: list[Piece] = []
        at = self._start
        for begin, end, text in edits:
            if begin < at:
                continue
            if begin > at:
                pieces.append(Piece(begin - at, self._text[at:begin]))
            pieces.append(Piece(end - begin, text))
            at = end
        if at < upto:
            pieces.append(Piece(upto - at, self._text[at:upto]))
        return pieces

    def _mark(self, upto: int) -> None:
        if upto > self._marked:
            self._markup = self._markup.after(self._text[self._marked : upto])
            self._marked = upto

    def _trim(self) -> None:
        cut = self._start - self._keep
        if cut < TRIM_AT:
            return
        self._text = self._text[cut:]
        self._start -= cut
        self._scored -= cut
        self._marked -= cut
        self._read = max(0, self._read - cut)
        self._named = max(0, self._named - cut)
        self._names = _moved(self._names, cut)
        if self._forced:
            self._forced = _moved(self._forced, cut)
        if self._cautious >= 0:
            self._cautious -= cut


def _moved(spans: Sequence[Span], by: int) -> list[Span]:
    return [Span(s.start - by, s.end - by, s.type, s.score, s.detector) for s in spans if s.start >= by]
