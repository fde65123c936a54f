"""What do the texts of one streamed answer say together, where a client prints them one after the other?

Two readings besides that of each channel: in the order of arrival, where channels of one choice take turns (`gateway.content.seam`),
and the end of each text with the beginning of every other, as the borders of a whole answer are read. Neither releases anything; they
tell the channels' guards what to hold and what they found.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.content.inspect import SEPARATOR, Finding, Inspectors
from gateway.content.rules import READ_OVER, Action, DirectionRules
from gateway.content.seam import BORDER, Seam
from gateway.content.stream import Blocked, Findings, Readings
from gateway.evidence import Role, Segment, Use
from gateway.stream_events import Channel


class Spoken:
    """The channels of one choice that are read as prose."""

    __slots__ = ("channels", "last", "seam")

    def __init__(self) -> None:
        self.channels: dict[str, Channel] = {}
        self.last: Channel | None = None
        self.seam: Seam | None = None


class Together:
    """The joint readings of one stream. `open` says how many seams there are: 0 for nearly every event of nearly every stream."""

    def __init__(self, rules: DirectionRules, inspectors: Inspectors, readings: Readings, findings: Findings) -> None:
        self._rules = rules
        self._inspectors = inspectors
        self._readings = readings
        self._findings = findings
        self._spoken: dict[int, Spoken] = {}
        self.open = 0

    def add(self, choice: int, channel: Channel) -> None:
        """Take note of a channel that is read as prose."""
        spoken = self._spoken.setdefault(choice, Spoken())
        spoken.channels[channel.name] = channel
        channel.watched = spoken.last is not None
        spoken.last = spoken.last or channel

    def begun(self, choice: int) -> bool:
        """Return whether a choice has shown as much as is read together with the end of another."""
        spoken = self._spoken.get(choice)
        return spoken is not None and any(len(channel.head) >= BORDER for channel in spoken.channels.values())

    def speaks(self, choice: int, channel: Channel) -> bool:
        """Return whether the channel was the last of its choice to speak. If not: let all guards read what came, then `change`."""
        return self._spoken[choice].last is channel

    def change(self, choice: int, channel: Channel) -> None:
        """Another channel speaks. INVARIANT: the guards hold exactly what came before the change."""
        spoken = self._spoken[choice]
        before = spoken.last
        if before is None or before is channel:
            return
        if spoken.seam is None:
            session = self._inspectors.moderator.open(Role.ASSISTANT)
            spoken.seam = Seam(self._rules, [self._inspectors.scanner], session, self._readings)
            context, held = before.judge.recent(BORDER + self._inspectors.scanner.left_context)
            spoken.seam.begin(context, before.name, held, before.judge.received - len(held))
            self.open += 1
        spoken.seam.change()
        before.watched = channel.watched = True
        spoken.last = channel

    def take(self, choice: int, channel: Channel, text: str) -> None:
        """Let text that a channel is about to be given be read over the change, where one is near."""
        spoken = self._spoken[choice]
        if spoken.seam is not None:
            spoken.seam.take(channel.name, text, channel.judge.received + sum(map(len, channel.fresh)))

    def read(self, ended: int = -1) -> None:
        """Read what came near changes; tell the guards what to hold and what was found. `ended`: a choice that gets no more text.

        Raises `Blocked`.
        """
        for choice, spoken in self._spoken.items():
            seam = spoken.seam
            if seam is None:
                continue
            try:
                marks = seam.advance(final=choice == ended)
            finally:
                seam.report(self._findings)
            for mark in marks:
                spoken.channels[mark.part.channel].judge.force(mark.part.begin, mark.part.end, mark.type)
            over = seam.over or choice == ended
            holds = {} if over else seam.holds()
            for channel in spoken.channels.values():
                channel.judge.hold(holds.get(channel.name, -1))
                channel.stirred = True
            if over:
                spoken.seam = None
                self.open -= 1
                if spoken.last is not None:
                    spoken.last.watched = False

    def borders(self, choice: int) -> list[tuple[Channel, int, Segment]]:
        """Return (channel, length of its part, window) for the end of each text of a choice before the beginning of every other."""
        others = [channel for spoken in self._spoken.values() for channel in spoken.channels.values()]
        if len(others) < 2 or choice not in self._spoken:
            return []
        out: list[tuple[Channel, int, Segment]] = []
        for channel in self._spoken[choice].channels.values():
            context, held = channel.judge.recent(BORDER)
            end = (context + held)[-BORDER:]
            for other in others:
                if other is not channel and end and other.head:
                    text = end + SEPARATOR + other.head
                    out.append((channel, len(end), Segment((READ_OVER, len(out)), text, Role.ASSISTANT, Use.CONTENT)))
        return out

    def judge(self, borders: Sequence[tuple[Channel, int, Segment]], found: Sequence[Finding]) -> None:
        """Redact what another text would complete: its beginning may have left, what the first one holds has not. Raises `Blocked`."""
        for (channel, size, _), finding in zip(borders, found, strict=True):
            crossing = [span for span in finding.spans if span.start < size < span.end]
            blocking = [*finding.blocking, *(span.type for span in crossing if self._rules.action_for(span) is Action.BLOCK)]
            if blocking:
                for name in blocking:
                    self._findings.note(Action.BLOCK, name)
                raise Blocked(blocking)
            for span in crossing:
                if self._rules.action_for(span) >= Action.PSEUDONYMISE:
                    at = channel.judge.received - size
                    channel.judge.force(at + span.start, at + size, span.type)
