"""Which received events wait for which texts, and when is each written? Shared by all that a stream does with text.

An event keeps its place: it leaves when every text in it has been committed by its channel's guard, so indices and sizes stay as the
backend made them. Decides nothing about text.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from gateway.content.stream import Piece, StreamGuard
from gateway.ports import UpstreamError
from gateway.schema import chunks

MAX_EVENTS_HELD = 100_000
SPLIT_AT = 64  # code points: a larger event whose head is committed is not kept waiting for its last word


class Held:
    """A received event that waits for its texts: per slot the code points still uncommitted and what stands in their place."""

    __slots__ = ("chunk", "left", "out", "slots", "took")

    def __init__(self, chunk: chunks.Chunk) -> None:
        self.chunk = chunk
        self.slots = [(text.choice, text.channel) for text in chunk.texts]
        self.left = [len(text.text) for text in chunk.texts]
        self.out: list[list[str]] = [[] for _ in chunk.texts]
        self.took = 0

    def take_text(self) -> list[chunks.ChannelText]:
        """Hand over what has been committed so far."""
        given = [chunks.ChannelText(*slot, "".join(parts)) for slot, parts in zip(self.slots, self.out, strict=True) if any(parts)]
        for parts in self.out:
            parts.clear()
        self.took = 0
        return given


class Slot:
    """One text of a received event that holds more than a piece of content."""

    __slots__ = ("at", "held")

    def __init__(self, held: Held, at: int) -> None:
        self.held = held
        self.at = at


class Plain:
    """A received event that holds a piece of content and nothing else, as nearly all do: what is written is known but for the text."""

    __slots__ = ("given", "left", "mould", "took")

    def __init__(self, mould: chunks.Mould, length: int) -> None:
        self.mould = mould
        self.left = length  # code points still uncommitted
        self.given = ""  # what stands in place of those that are
        self.took = 0


class Channel:
    """One guarded text of the stream with the events that wait on it, in order."""

    __slots__ = ("asked", "behind", "fresh", "guard", "head", "mould", "name", "queue", "stirred", "watched")

    def __init__(self, name: str, guard: StreamGuard, behind: StreamGuard | None) -> None:
        self.name = name
        self.guard = guard
        self.behind = behind  # where text leaves at once, the guard that judges it
        self.asked: deque[tuple[asyncio.Task[Any], Callable[[Any], object]]] = deque()  # what is looked for behind, and who takes it
        self.fresh: list[str] = []
        self.queue: deque[Plain | Slot] = deque()
        self.mould: chunks.Mould | None = None
        self.head = ""  # its first `BORDER` code points, as received
        self.watched = False  # another channel of its choice spoke before its next text, or a seam is open
        self.stirred = False  # something may leave though nothing came

    def forget(self) -> None:
        """Nobody waits for answers any more."""
        for task, _ in self.asked:
            task.cancel()
            if task.done() and not task.cancelled():
                task.exception()  # it has been seen: nothing is logged

    @property
    def judge(self) -> StreamGuard:
        return self.behind or self.guard


class Waiting:
    """The events of one stream that wait for their texts."""

    _held = 0
    _include_usage = False

    def _note_held(self) -> None:
        self._held += 1
        if self._held > MAX_EVENTS_HELD:
            raise UpstreamError("protocol", "too many events held")

    def _event(self, chunk: chunks.Chunk) -> bytes:
        return b"data: " + chunks.render(chunk, include_usage=self._include_usage) + b"\n\n"

    def _place(self, channel: Channel, pieces: Sequence[Piece], out: list[bytes]) -> None:
        """Give committed text to the events it came from; let go every event that is complete."""
        queue = channel.queue
        for piece in pieces:
            length, text = piece.length, piece.text
            verbatim = len(text) == length  # else a replacement, which the first of its events bears whole
            at = 0
            while length and queue:
                event = queue[0]
                left = event.left if isinstance(event, Plain) else event.held.left[event.at]
                take = left if left < length else length
                if verbatim:
                    given = text[at : at + take]
                else:
                    given, text = text, ""
                at += take
                length -= take
                self._give(event, take, given, out)
                if take == left:
                    queue.popleft()
        if queue:
            self._split(queue[0], out)

    def _give(self, event: Plain | Slot, take: int, given: str, out: list[bytes]) -> None:
        """Note that `take` code points of an event are committed and become `given`; write it once it is whole."""
        if isinstance(event, Plain):
            event.left -= take
            event.took += take
            if event.given:
                given = event.given + given
            if event.left:
                event.given = given
                return
            self._held -= 1
            if given:
                out.append(event.mould.event(given))
            return
        held = event.held
        held.out[event.at].append(given)
        held.left[event.at] -= take
        held.took += take
        if not any(held.left):
            self._release(held, out)

    def _split(self, event: Plain | Slot, out: list[bytes]) -> None:
        """Write the committed head of a large event."""
        if isinstance(event, Plain):
            if event.took >= SPLIT_AT and event.given:
                out.append(event.mould.event(event.given))
                event.given = ""
                event.took = 0
            return
        held = event.held
        if held.took >= SPLIT_AT and len(held.left) == 1:
            chunks.substitute(held.chunk, held.take_text())
            out.append(self._event(held.chunk))

    def _release(self, held: Held, out: list[bytes]) -> None:
        self._held -= 1
        chunks.substitute(held.chunk, held.take_text())
        if not held.chunk.is_idle:
            out.append(self._event(held.chunk))
