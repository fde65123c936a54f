"""What do the channels of one streamed choice say when they are read one after the other, in the order in which their text arrived?

A client may print content, reasoning and refusal as they come. Each channel has its guard; a `Seam` is a further reading over the place
where one channel takes turns with another: from what the first still held, through `BORDER` code points past the last change. It tells
the guards what to hold until it has decided, and what to treat as a finding of their own; it releases nothing itself. Patterns are matched
as if nothing stood between the channels, words and listed phrases with a blank there, as at the borders of whole texts.

INVARIANT: what the first channel had released before the change cannot begin a match that reaches over it: its guard said so. Sans-I/O.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec

from gateway.content.rules import Action, DirectionRules
from gateway.content.stream import Blocked, Findings, Piece, Readings, StreamGuard, judge_scores
from gateway.evidence import Role, StreamMode
from gateway.ports import ModerationSession, SpanDetector

BORDER = 160  # code points past a change of channel that are read together with what stands before it


class Part(msgspec.Struct, frozen=True):
    """A stretch of one channel, in positions of the channel."""

    channel: str
    begin: int
    end: int


class Mark(msgspec.Struct, frozen=True):
    """A stretch of one channel that a finding over several of them covers."""

    part: Part
    type: str


class Seam:
    """The joint reading of the channels of one choice, from one change of channel until it no longer matters."""

    def __init__(
        self, rules: DirectionRules, detectors: Sequence[SpanDetector], session: ModerationSession | None, readings: Readings | None
    ) -> None:
        own = msgspec.structs.replace(rules, ner=False, unsupported_language=Action.ALLOW)
        self._rules = own
        self._detectors = tuple(detectors)
        self._session = session
        self._findings = Findings()
        self._guard = StreamGuard(own, detectors, None, None, self._findings, mode=StreamMode.WINDOW, readings=readings)
        self._words = ""  # the reading with blanks at the changes; its end may be half a word
        self._judged = 0  # words[:judged] were scored
        self._text = ""  # received and undecided
        self._parts: deque[Part] = deque()  # of `_text`, in order
        self._fresh: list[str] = []
        self._changed = 0  # code points of this reading after which the channel changed last

    def begin(self, context: str, channel: str, text: str, position: int) -> None:
        """Start with what the first channel released last and with all it holds, the first of it at `position`.

        What stands further before the change than `BORDER` was judged where it stands, or will be, by both models.
        """
        self._guard.after(context, len(context) + len(text) - BORDER)
        if text:
            self.take(channel, text, position)
        self._words = (context + text)[-BORDER:]

    def change(self) -> None:
        """Note that from here on another channel speaks."""
        self._changed = self._guard.received + sum(map(len, self._fresh))
        self._words += " "

    def take(self, channel: str, text: str, position: int) -> None:
        """Add the text that arrived for a channel, beginning at its `position`."""
        last = self._parts[-1] if self._parts else None
        if last is not None and last.channel == channel and last.end == position:
            self._parts[-1] = Part(channel, last.begin, position + len(text))
        else:
            self._parts.append(Part(channel, position, position + len(text)))
        self._fresh.append(text)
        self._words += text

    @property
    def over(self) -> bool:
        """Return whether only one channel's text is undecided or near: its own guard suffices from here on."""
        return not self._fresh and self._guard.released >= self._changed + BORDER

    def advance(self, *, final: bool = False) -> list[Mark]:
        """Read what arrived; return what was found. Raises `Blocked`."""
        fresh = "".join(self._fresh)
        self._fresh.clear()
        self._text += fresh
        self._judge(final=final)
        pieces = self._guard.feed(fresh)
        if final:
            pieces += self._guard.finish()
        return self._settle(pieces)

    def _judge(self, *, final: bool) -> None:
        """Judge words and listed phrases up to the last blank. Raises `Blocked`."""
        end = len(self._words)
        while not final and end > self._judged and not self._words[end - 1].isspace():
            end -= 1
        if end <= self._judged:
            return
        if self._session is not None:
            judge_scores(self._session.feed(self._words[self._judged : end]), self._rules, Role.ASSISTANT, self._findings)
        if self._rules.blocklist is not None:
            for span in self._rules.blocklist.scan(self._words[:end]):
                if self._rules.action_for(span) is Action.BLOCK:
                    self._findings.note(Action.BLOCK, span.type)
                    raise Blocked([span.type])
        cut = max(0, end - 2 * BORDER)
        self._words = self._words[cut:]
        self._judged = end - cut

    def report(self, findings: Findings) -> None:
        """Enter heads and rules; entities are counted by the channels' guards."""
        findings.merge(self._findings.scores, self._findings.flagged, self._findings.action)

    def holds(self) -> dict[str, int]:
        """Return, for each channel with undecided text, where that begins."""
        first: dict[str, int] = {}
        for part in self._parts:
            first.setdefault(part.channel, part.begin)
        return first

    def _settle(self, pieces: Sequence[Piece]) -> list[Mark]:
        marks: list[Mark] = []
        at = 0
        for piece in pieces:
            decided = self._decided(piece.length)
            said = self._text[at : at + piece.length]
            if piece.text != said:
                last = said[len(said) - (decided[-1].end - decided[-1].begin) :]
                marks += [Mark(part, piece.text[1:-1]) for part in (decided[-1:] if self._whole(last) else decided)]
            at += piece.length
        self._text = self._text[at:]
        return marks

    def _whole(self, text: str) -> bool:
        """Tell whether the later channel's part is a finding by itself: then what stands before the change is none of it."""
        return any(s.start == 0 and s.end == len(text) for d in self._detectors for s in d.scan(text))

    def _decided(self, length: int) -> list[Part]:
        out: list[Part] = []
        while length:
            part = self._parts[0]
            size = part.end - part.begin
            if size > length:
                out.append(Part(part.channel, part.begin, part.begin + length))
                self._parts[0] = Part(part.channel, part.begin + length, part.end)
                break
            out.append(part)
            self._parts.popleft()
            length -= size
        return out
