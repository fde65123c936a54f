"""What do the inspectors find in these texts? The batch side: whole segments, cached by what could change the finding.

A cache entry holds spans and scores, never text, under a keyed hash of tenant, role, use, direction, rules, detector versions
and the text; for user text of the subject too, so that nobody learns from timing what another wrote. Degraded findings are
never cached. Every inspector that cannot answer raises: there is no path on which a text counts as clean unseen.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from typing import TypeVar

import msgspec

from gateway.content import views
from gateway.content.canaries import marked
from gateway.content.cascade import too_dear
from gateway.content.doubts import doubtful, second_scores
from gateway.content.language import short_language
from gateway.content.pseudonyms import in_ranges, placeholder_ranges
from gateway.content.remote import flagged, second_look
from gateway.content.rules import CANARY, NER_TYPES, READ_OVER, Action, DirectionRules, Rules
from gateway.content.second_opinion import Blend
from gateway.content.union import united
from gateway.evidence import Direction, Role, Segment, Span, Subject, Use, Verdict
from gateway.ports import InspectorUnavailable, Moderator, NerDetector, RemoteModerator, SecondOpinion, SpanDetector, TooMuch

STEP = 2_048  # code points scanned at once: a hostile one costs about 15 ms
LONG = 4 * STEP  # code points of a text read in its other readings at once
SCORED = 2 * STEP  # and of one that is scored at once: about 6 ms
LONG_OVERLAP = 400  # and of the stretch before it that is read again: an encoded word is longer than a plain one
KEYS = 128  # texts looked up in one go
_T = TypeVar("_T")
TURN_S = 0.004
DEAR_S = 0.3  # of this process: beyond it, it is the texts' fault that their deadline passed, however busy the others were
OWN_S = 1.2  # of this process for one direction of one exchange: 700 KB of ordinary text fit
MAX_BASES = 4_096  # profiles x directions x tenants in use; beyond it they are made again
SEPARATOR = "\x1f"
BORDER = 160  # code points taken from each side of a message border
RUN = 5  # neighbouring texts over which a value is looked for by itself
RUN_BETWEEN = 64  # code points of those between the first and the last: all of them are pieces of the value
DIGITS = 7  # of a score: with four, whatever is surely bad is equally bad, and no threshold or order can tell it apart
MIN_LANGUAGE_LETTERS = 40  # shorter texts have no reliable language
ANNOUNCED = "announced"  # detector of what stands in one text and is known by what another says before it
_BLANK = re.compile(r"\s")


class Finding(msgspec.Struct, frozen=True):
    """What one text holds. `spans` are resolved and ordered; `unsupported` names a language no enabled detector covers."""

    spans: tuple[Span, ...] = ()
    scores: tuple[tuple[str, float], ...] = ()
    rules: tuple[str, ...] = ()  # smuggling rules
    unsupported: str = ""
    degraded: bool = False
    noted: tuple[tuple[Action, str], ...] = ()  # what the rules make of it: the rules are part of the key
    blocking: tuple[str, ...] = ()


class Clean(msgspec.Struct, frozen=True):
    """What is known of a whole list of texts of which nothing has to be rewritten and nothing blocks."""

    verdict: Verdict


class Inspectors(msgspec.Struct, frozen=True):
    """The inspectors of this process. `views` gives the normalised readings of a text, `smuggling` the hidden-character rules."""

    scanner: SpanDetector
    moderator: Moderator
    ner: NerDetector | None
    views: Callable[[str], list[str]]
    smuggling: Callable[[str], frozenset[str]]
    language: Callable[[str], str]
    remote: RemoteModerator | None = None
    opinion: SecondOpinion | None = None  # asked where rules say so and the moderator leaves doubt, with `blend`
    blend: Blend | None = None
    secrets: SpanDetector | None = None  # finds secrets alone: what is held back where nothing else is

    @property
    def names(self) -> tuple[str, ...]:
        names = [f"{self.scanner.name}@{self.scanner.version}", f"{self.moderator.name}@{self.moderator.version}"]
        if self.ner is not None:
            names.append(f"{self.ner.name}@{self.ner.version}")
        if self.opinion is not None:
            names.append(f"{self.opinion.name}@{self.opinion.version}")
        if self.remote is not None:
            names.append(f"{self.remote.name}@{self.remote.version}")
        return tuple(names)


class FindingCache:
    """A bounded least-recently-used map from keyed hashes to findings, shared by the exchanges of one process."""

    def __init__(self, secret: bytes, capacity: int = 50_000) -> None:
        self._secret = secret[:64]
        self._entries: OrderedDict[bytes, Finding] = OrderedDict()
        self._lists: OrderedDict[bytes, Clean] = OrderedDict()
        self._capacity = capacity
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._entries)

    def prefix(self, *parts: bytes) -> hashlib.blake2b:
        """Return a keyed hash fed with length-framed parts; copy it to add the text."""
        state = hashlib.blake2b(key=self._secret, digest_size=24)
        for part in parts:
            state.update(len(part).to_bytes(4, "big"))
            state.update(part)
        return state

    def get(self, key: bytes) -> Finding | None:
        found = self._entries.get(key)
        if found is None:
            self.misses += 1
            return None
        self._entries.move_to_end(key)
        self.hits += 1
        return found

    def get_list(self, key: bytes) -> Clean | None:
        found = self._lists.get(key)
        if found is not None:
            self._lists.move_to_end(key)
            self.hits += 1
        return found

    def put_list(self, key: bytes, clean: Clean) -> None:
        self._lists[key] = clean
        if len(self._lists) > self._capacity // 8:
            self._lists.popitem(last=False)

    def put(self, key: bytes, finding: Finding) -> None:
        if finding.degraded:
            return
        self._entries[key] = finding
        if len(self._entries) > self._capacity:
            self._entries.popitem(last=False)


class Scope(msgspec.Struct, frozen=True):
    """Whose exchange this is, as far as a cached finding may be shared."""

    tenant: str
    subject: bytes

    @classmethod
    def of(cls, subject: Subject) -> Scope:
        """Return the scope of a subject. SECURITY: an id is one issuer's; another may give the same to somebody else."""
        return cls(subject.tenant, f"{subject.issuer}\n{subject.subject_id}".encode())


def _is_run(segment: Segment) -> bool:
    return len(segment.path) > 1 and segment.path[1] == "run" and _is_window(segment)


def _is_window(segment: Segment) -> bool:
    return bool(segment.path) and segment.path[0] == READ_OVER


_pack = msgspec.msgpack.Encoder().encode  # frames every part with its length: no two lists give the same bytes


class TooDear(Exception):
    """A request's texts take more of this process than any honest ones would: the caller's fault, not an outage."""


class Pace:
    """Gives the event loop its turn between steps, and ends inspection at its deadline (monotonic seconds)."""

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._since_s = time.monotonic()
        self._cpu_s = time.thread_time()
        self._own_s = 0.0  # this thread's in our own turns; the rest was others'

    async def breathe(self) -> None:
        """Yield if this task has run for long. Unread never counts as clean.

        Raises `TooDear` when the texts themselves took too long, `InspectorUnavailable` when others left no time.
        """
        now_s = time.monotonic()
        if now_s - self._since_s < TURN_S:
            return
        self._own_s += time.thread_time() - self._cpu_s
        if self._own_s > OWN_S:
            raise TooDear
        if now_s > self._deadline_s:
            if self._own_s > DEAR_S:
                raise TooDear
            raise InspectorUnavailable("inspection passed its deadline")
        await asyncio.sleep(0)
        self._since_s = time.monotonic()
        self._cpu_s = time.thread_time()

    async def elsewhere(self, work: Awaitable[_T]) -> _T:
        """Return what `work` gives. INVARIANT: nothing else is awaited between two `breathe`, or others' work would count as our own."""
        self._own_s += time.thread_time() - self._cpu_s
        try:
            return await work
        finally:
            self._since_s = time.monotonic()
            self._cpu_s = time.thread_time()


class Inspection:
    """Inspects texts of one process under given rules."""

    def __init__(self, inspectors: Inspectors, cache: FindingCache) -> None:
        self.inspectors = inspectors
        self.cache = cache
        self.names = inspectors.names
        self._versions = "|".join(self.names).encode()
        self._bases: dict[tuple[bytes, Direction, str], hashlib.blake2b] = {}

    async def findings(
        self, segments: Sequence[Segment], rules: Rules, direction: Direction, scope: Scope, deadline_s: float
    ) -> tuple[list[Finding], bool]:
        """Return a finding for each segment and whether all came from the cache.

        `deadline_s` is monotonic. Raises `InspectorUnavailable` when the rules do not let an absent inspector pass.
        """
        side = rules.inbound if direction is Direction.INBOUND else rules.outbound
        base = self._base(rules, direction, scope.tenant)
        results: list[Finding | None] = []
        missing: list[int] = []
        keys: list[bytes] = []
        pace = Pace(deadline_s)
        for at, segment in enumerate(segments):
            if at % KEYS == KEYS - 1:
                await pace.breathe()
            state = base.copy()
            window = _is_window(segment)
            # SECURITY: a window may reach over what a user wrote, whoever speaks at its border.
            owner = scope.subject if window or segment.role is Role.USER else b""
            # SECURITY: a window's offsets are not its text's, and a run is not read for words.
            kind = segment.use.encode() if not window else b"r" if _is_run(segment) else b"w"
            state.update(b"%s\0%s\0%d\0" % (segment.role.encode(), kind, len(owner)) + owner)
            state.update(segment.text.encode("utf-8", "surrogatepass"))
            key = state.digest()
            keys.append(key)
            found = self.cache.get(key)
            results.append(found)
            if found is None:
                missing.append(at)
        if missing:
            fresh = await self._inspect([segments[at] for at in missing], side, deadline_s)
            for at, finding in zip(missing, fresh, strict=True):
                results[at] = finding
                self.cache.put(keys[at], finding)
        return [f for f in results if f is not None], not missing

    def list_key(self, segments: Sequence[Segment], rules: Rules, direction: Direction, scope: Scope) -> bytes:
        """Return the keyed hash of a whole list of texts in order. It names the subject: such a list holds their words.

        SECURITY: and where they stand, which says what is read together: else a harmless arrangement would vouch for another.
        """
        state = self._base(rules, direction, scope.tenant).copy()
        state.update(_pack((scope.subject, [(s.role, s.use, s.path, s.text) for s in segments])))
        return state.digest()

    def _base(self, rules: Rules, direction: Direction, tenant: str) -> hashlib.blake2b:
        """Return the keyed hash over everything but the text, ready to be copied."""
        key = (rules.key, direction, tenant)
        base = self._bases.get(key)
        if base is None:
            if len(self._bases) >= MAX_BASES:
                self._bases.clear()
            base = self._bases[key] = self.cache.prefix(rules.key, direction.encode(), tenant.encode(), self._versions)
        if rules.asked:  # not kept: it may be another one with every request
            base = base.copy()
            base.update(b"\0asked" + rules.asked)
        return base

    async def _inspect(self, segments: list[Segment], side: DirectionRules, deadline_s: float) -> list[Finding]:
        if side.cloud is not None and too_dear(segments):
            raise TooDear
        names: list[list[Span]] = [[] for _ in segments]
        degraded = False
        if side.ner:
            wanted = [at for at, s in enumerate(segments) if s.use is not Use.LABEL and s.text and not _is_window(s)]
            try:
                if self.inspectors.ner is None:
                    raise InspectorUnavailable("no names detector is configured")
                found = await self.inspectors.ner.detect([segments[at].text for at in wanted], deadline_s) if wanted else []
                for at, spans in zip(wanted, found, strict=True):
                    names[at] = [s for s in spans if s.type in NER_TYPES]
            except InspectorUnavailable as error:
                if side.on_error is Action.BLOCK:
                    if isinstance(error, TooMuch):
                        raise TooDear from error
                    raise
                degraded = True
        pace = Pace(deadline_s)
        local = [await self._one(s, n, side, degraded, pace) for s, n in zip(segments, names, strict=True)]
        if side.second_opinion and (side.block_at or side.record_at):
            local = await self._reconsider(segments, local, side, deadline_s)
        if side.cloud is not None:
            local = await second_look(self.inspectors, segments, local, side, side.cloud, deadline_s)
        return [flagged(finding, side) for finding in local] if side.on_error is Action.RECORD else local

    async def _reconsider(
        self, segments: list[Segment], found: list[Finding], side: DirectionRules, deadline_s: float
    ) -> list[Finding]:
        """Return the findings with a second model's word on those the moderator left in doubt."""
        first = [dict(finding.scores) for finding in found]
        out = list(found)
        opinion, blend = self.inspectors.opinion, self.inspectors.blend
        if opinion is None or blend is None:
            if side.on_error is Action.BLOCK:
                raise InspectorUnavailable("no second opinion is configured")
            return [msgspec.structs.replace(finding, degraded=True) for finding in found]
        try:
            better = await second_scores(opinion, blend, self.inspectors.views, segments, first, deadline_s)
        except InspectorUnavailable:
            if side.on_error is Action.BLOCK:
                raise
            for at in doubtful(segments, first, blend):
                out[at] = msgspec.structs.replace(found[at], degraded=True)
            return out
        for at, scores in better.items():
            rounded = tuple((head, round(score, DIGITS)) for head, score in scores.items())
            noted, blocking = judged(found[at], scores, side, segments[at].role)
            out[at] = msgspec.structs.replace(found[at], scores=rounded, noted=noted, blocking=blocking)
        return out

    async def scan(self, scanner: SpanDetector, text: str, pace: Pace) -> list[Span]:
        """Scan a text of any length in steps, each exactly as the whole would be: the event loop is never held for long."""
        if len(text) <= STEP:
            await pace.breathe()
            return scanner.scan(text)
        spans: list[Span] = []
        at, end = 0, STEP
        while True:
            await pace.breathe()
            last = end >= len(text)
            begin = max(0, at - scanner.left_context)
            window = text[begin:end]
            found = scanner.scan(window, at - begin)
            upto = len(window) if last else scanner.viable_from(window, at - begin)
            for span in found:
                if span.start < upto < span.end:
                    upto = span.start
            spans += [Span(s.start + begin, s.end + begin, s.type, s.score, s.detector) for s in found if s.start < upto]
            if last:
                return spans
            at = max(at, begin + upto)
            end = max(end, at) + STEP

    async def _score(self, text: str, role: Role, pace: Pace) -> dict[str, float]:
        """Score a text of any length; pieces end at white space, so the sum is that of the whole."""
        if len(text) <= SCORED:
            await pace.breathe()
            return self.inspectors.moderator.score(text, role)
        session = self.inspectors.moderator.open(role)
        scores: dict[str, float] = {}
        at = 0
        while at < len(text):
            await pace.breathe()
            end = at + SCORED
            if end < len(text):
                blank = _BLANK.search(text, end - 1, end + STEP)
                end = blank.end() if blank is not None else end + STEP  # a longer word is none
            scores = session.feed(text[at:end])
            at = end
        return scores

    async def _hidden(self, text: str, pace: Pace) -> frozenset[str]:
        """Look for hidden characters in a text of any length."""
        if len(text) <= LONG or text.isascii():
            return self.inspectors.smuggling(text)
        traces: list[str] = []
        for at in range(0, len(text), LONG):
            await pace.breathe()
            traces.append(views.traces(text, at, min(len(text), at + LONG)))
        return self.inspectors.smuggling("".join(traces))

    async def _one(self, segment: Segment, names: list[Span], side: DirectionRules, degraded: bool, pace: Pace) -> Finding:
        text = prose = segment.text
        if _is_window(segment):
            prose = text.replace(SEPARATOR, " ")
            text = text.replace(SEPARATOR, "")
        scanned = await self.scan(self.inspectors.scanner, text, pace)
        if side.blocklist is not None:
            scanned += await self.scan(side.blocklist, text, pace)
        if segment.role is Role.USER and _is_window(segment) and not _is_run(segment):
            scanned += _announced(await self.scan(self.inspectors.scanner, prose, pace), segment.text)
        ours = placeholder_ranges(text)
        # SECURITY: what looks like a key alone; an account number is none. Windows hold no marks (`without_marks`).
        if segment.role is Role.SYSTEM and not _is_window(segment) and (own := marked(text)):
            scanned = [s for s in scanned if s.type != "SECRET" or not in_ranges(s, own)]
        spans = [s for s in united(sorted(scanned), names, text) if not side.passes(s, text)]
        spans = [s for s in spans if s.type == CANARY or not in_ranges(s, ours)]
        if _is_run(segment):
            return Finding(tuple(spans))
        scores: dict[str, float] = {}
        for begin, piece in _stretches(prose):
            await pace.breathe()
            for reading in self.inspectors.views(piece):
                whole = prose if reading is piece else reading  # the plain reading once, and as one text
                if reading is piece and begin:
                    continue
                for head, score in (await self._score(whole, segment.role, pace)).items():
                    if score > scores.get(head, 0.0):
                        scores[head] = score
                if side.blocklist is not None and whole != text:
                    end = begin + len(piece) if len(prose) > LONG else len(text)
                    spans += [Span(begin, end, s.type, s.score, s.detector) for s in side.blocklist.scan(reading)]
        hidden = await self._hidden(text, pace)
        unsupported = ""
        if segment.use is Use.CONTENT and not _is_window(segment):
            language = self.inspectors.language(text) if len(text) >= MIN_LANGUAGE_LETTERS else short_language(text)
            if language != "und" and language not in side.languages:
                unsupported = language
        rounded = tuple((head, round(score, DIGITS)) for head, score in scores.items())
        finding = Finding(tuple(spans), rounded, tuple(sorted(hidden)), unsupported, degraded)
        noted, blocking = judged(finding, scores, side, segment.role)
        return msgspec.structs.replace(finding, noted=noted, blocking=blocking)


def _announced(spans: Sequence[Span], window: str) -> list[Span]:
    """Return what stands in one text of a window behind another that may say what it is: "What is your SSN?", and the next one tells.

    `spans` are those of the window with a blank at each border; what is returned counts as if nothing stood there.
    """
    at = [index for index, char in enumerate(window) if char == SEPARATOR]
    cut = len(window) if at and len(window) - at[-1] <= BORDER else len(window) - 1  # a longer text goes on behind the window
    out: list[Span] = []
    for span in spans:
        before = bisect_left(at, span.start)
        if before and bisect_left(at, span.end) == before and span.end <= cut:
            out.append(Span(span.start - before, span.end - before, span.type, span.score, ANNOUNCED))
    return out


def _stretches(text: str) -> list[tuple[int, str]]:
    """Return a text in the stretches whose other readings are read, each with its beginning: none is too long to be read to its end."""
    if len(text) <= LONG:
        return [(0, text)]
    return [(max(0, at - LONG_OVERLAP), text[max(0, at - LONG_OVERLAP) : at + LONG]) for at in range(0, len(text), LONG)]


def judged(
    finding: Finding, scores: dict[str, float], side: DirectionRules, role: Role
) -> tuple[tuple[tuple[Action, str], ...], tuple[str, ...]]:
    """Return what to note and what asks for a block, entities aside: those depend on where they stand."""
    noted = [(Action.RECORD, head) for head in side.recorded_heads(scores)]
    blocking = side.blocked_heads(scores, role)
    if finding.rules and side.smuggling is not Action.ALLOW:
        noted += [(side.smuggling, rule) for rule in finding.rules]
        if side.smuggling >= Action.PSEUDONYMISE:
            blocking += finding.rules
    if finding.unsupported and side.unsupported_language is not Action.ALLOW:
        noted.append((side.unsupported_language, "unsupported_language"))
        if side.unsupported_language is Action.BLOCK:
            blocking.append("unsupported_language")
    return tuple(noted + [(Action.BLOCK, name) for name in blocking]), tuple(blocking)


def borders(segments: Sequence[Segment]) -> list[tuple[int, Segment]]:
    """Return (offset, window) for each border of neighbouring prose, in the concatenation of all prose of the request.

    SECURITY: an identifier or an instruction cut in pieces by message or part borders is whole for the model, so a window
    reaches over as many neighbours as fit. `SEPARATOR` stands at each border inside a window: patterns are matched without
    it, words with a blank in its place. Spans of a window count from `offset`.
    """
    prose = [s for s in segments if s.use is Use.CONTENT and s.text]
    if len(prose) < 2:
        return []
    marked = SEPARATOR.join(s.text.replace(SEPARATOR, "\ufffd") for s in prose)  # the same length, so that offsets hold
    windows: list[tuple[int, Segment]] = []
    plain = 0
    at = 0
    for index, (first, second) in enumerate(pairwise(prose)):
        plain += len(first.text)
        at += len(first.text) + 1
        begin = max(0, at - 1 - BORDER)
        window = marked[begin : at + BORDER]
        role = Role.USER if Role.USER in (first.role, second.role) else second.role
        before = marked[begin : at - 1]
        windows.append((plain - len(before) + before.count(SEPARATOR), Segment((READ_OVER, index), window, role, Use.CONTENT)))
    return windows


def runs(segments: Sequence[Segment]) -> list[tuple[int, Segment]]:
    """Return (offset, window) as `borders` does, of up to `RUN` neighbours by themselves where a window of `borders` reaches over others.

    SECURITY: what stands before or after a value that is cut by borders would make it another word; its pieces are not read for words.
    """
    prose = [s for s in segments if s.use is Use.CONTENT and s.text]
    windows: list[tuple[int, Segment]] = []
    plain = 0
    for first, begun in enumerate(prose):
        head = begun.text[-BORDER:]
        offset = plain + len(begun.text) - len(head)
        plain += len(begun.text)
        between = 0
        for last in range(first + 1, min(first + RUN, len(prose))):
            alone = (len(begun.text) >= BORDER or first == 0) and (len(prose[last].text) >= BORDER or last == len(prose) - 1)
            if last > first + 1:
                between += len(prose[last - 1].text)
                if between > RUN_BETWEEN:
                    break
            if not alone:
                parts = [head, *(s.text for s in prose[first + 1 : last]), prose[last].text[:BORDER]]
                said = SEPARATOR.join(part.replace(SEPARATOR, "\ufffd") for part in parts)
                role = Role.USER if any(s.role is Role.USER for s in prose[first : last + 1]) else prose[last].role
                windows.append((offset, Segment((READ_OVER, "run", first, last), said, role, Use.CONTENT)))
    return windows


def prose_offsets(segments: Sequence[Segment]) -> list[tuple[int, int]]:
    """Return (offset in the concatenation, index in `segments`) of each prose segment, in order."""
    offsets: list[tuple[int, int]] = []
    at = 0
    for index, segment in enumerate(segments):
        if segment.use is Use.CONTENT and segment.text:
            offsets.append((at, index))
            at += len(segment.text)
    return offsets
