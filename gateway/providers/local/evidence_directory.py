"""Where do shipped records lie when there is no cloud? In segments of another directory: another disk, a share, a collector's inbox.

The local twin of append blobs: the same names, lines, rotation and checkpoints. Whoever may write to it may also change it: it is
a second place only as far as its volume is out of this host's reach.

A share whose server is gone keeps whoever touches it, for ever. So blocking work runs in one thread of its own, which nobody waits for
at the end of the process; while it has not come back, the sink is away. No thread of the event loop's is ever lent to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from gateway.audit import segments
from gateway.audit.segments import NotASegment, Segment
from gateway.audit.store import write_all
from gateway.audit.tree import leaf_hash
from gateway.ports import Held, Shipment, SinkRefused, SinkUnavailable

_A = TypeVar("_A")
_T = TypeVar("_T")
_TRIES = 3  # at a place another writer moved meanwhile


class _Place(NamedTuple):
    """The end of the last segment."""

    segment: Segment
    size: int
    held: Held


class _Lane:
    """Runs one blocking call at a time, in a thread that does not keep the process from ending. Belongs to one event loop."""

    def __init__(self) -> None:
        self._busy = False

    async def run(self, work: Callable[[], _T | SinkUnavailable | SinkRefused]) -> _T:
        """Return what `work` returns; raise the fault it returns. Raises `SinkUnavailable` while an earlier call has not come back."""
        if self._busy:
            raise SinkUnavailable("the directory hangs: an earlier call has not come back")
        loop = asyncio.get_running_loop()
        told: asyncio.Future[_T] = loop.create_future()
        self._busy = True
        threading.Thread(target=self._work, args=(work, loop, told), name="evidence", daemon=True).start()
        return await told

    def _work(
        self, work: Callable[[], _T | SinkUnavailable | SinkRefused], loop: asyncio.AbstractEventLoop, told: asyncio.Future[_T]
    ) -> None:
        outcome: _T | SinkUnavailable | SinkRefused = SinkUnavailable("the call ended by a fault of its own")
        try:
            outcome = work()
        finally:
            self._busy = False
            # The loop may be gone by the time a dead share lets go: then there is nobody to tell.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_tell, told, outcome)


def _tell(told: asyncio.Future[_T], outcome: _T | SinkUnavailable | SinkRefused) -> None:
    if told.done():  # whoever asked has left
        return
    if isinstance(outcome, SinkUnavailable | SinkRefused):
        told.set_exception(outcome)
    else:
        told.set_result(outcome)


class EvidenceDirectory:
    """`ports.EvidenceSink` over a directory. Two writers of one origin cannot interleave: each append checks its place under a lock."""

    def __init__(
        self,
        directory: Path,
        *,
        hourly: bool = False,
        max_bytes: int = 1 << 30,
        checkpoint_s: float = 60.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._hourly = hourly
        self._max_bytes = max_bytes
        self._checkpoint_s = checkpoint_s
        self._now = now
        self._place: _Place | None = None
        self._noted_s = float("-inf")
        self._lane = _Lane()

    async def held(self, origin: str) -> Held | None:
        return await self._lane.run(lambda: self._guarded(self._held, origin))

    async def ship(self, shipment: Shipment) -> None:
        await self._lane.run(lambda: self._guarded(self._ship, shipment))

    async def aclose(self) -> None:
        """Nothing is open between calls."""

    # --- in the lane's thread

    def _guarded(self, work: Callable[[_A], _T], argument: _A) -> _T | SinkUnavailable | SinkRefused:
        """Return what `work` returns, or what its fault means to whoever ships."""
        fault: SinkUnavailable | SinkRefused
        try:
            return work(argument)
        except (SinkUnavailable, SinkRefused) as error:
            fault = error
        except BlockingIOError:
            fault = SinkUnavailable("another writer holds the segment")
        except PermissionError as error:
            fault = SinkRefused(f"the directory may not be written: {error.strerror}")
        except OSError as error:
            fault = SinkUnavailable(f"the directory cannot be written: {error.strerror or 'input error'}")
        except NotASegment as error:
            fault = SinkRefused(str(error))
        self._place = None  # whatever went wrong, the end is looked for anew
        return fault

    def _held(self, origin: str) -> Held:
        self._place = None
        if not self._directory.is_dir():  # never made here: what an unmounted volume looks like must not be filled
            raise SinkUnavailable("the directory is not there")
        self._place = self._last(origin)
        return self._place.held if self._place is not None else Held(0)

    def _ship(self, shipment: Shipment) -> None:
        for _ in range(_TRIES):
            has = self._place.held if self._place is not None else self._held(shipment.origin)
            start = segments.rest(shipment, has)
            if start == shipment.end:
                return
            place = self._open_place(shipment.origin, start)
            if self._append(place, segments.lines(shipment, start), Held(shipment.end, leaf_hash(shipment.records[-1]))):
                self._note(shipment)
                return
            self._place = None
        raise SinkUnavailable("another writer moves the segment")

    def _open_place(self, origin: str, start: int) -> _Place:
        """Return where to append, in a new segment where one is due; the old one is sealed."""
        now = segments.period(self._now(), hourly=self._hourly)
        place = self._place
        if place is not None and not segments.due(place.segment, bytes_held=place.size, blocks=0, now=now, max_bytes=self._max_bytes):
            return place
        if place is not None:
            # CRASH: sealed and nothing new begun: the next start finds the sealed segment's end and begins the next there.
            (self._directory / place.segment.name).chmod(0o400)
            now = max(now, place.segment.period)
        return _Place(segments.segment(origin, now, start), 0, Held(start))

    def _append(self, place: _Place, data: bytes, after: Held) -> bool:
        """Append at the place and sync. Returns False when the segment's end is elsewhere."""
        path = self._directory / place.segment.name
        fresh = place.size == 0 and not path.exists()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_size != place.size:
                return False
            write_all(fd, data)
            # CRASH: a line cut in the middle is removed when the place is next looked for.
            os.fdatasync(fd)
        finally:
            os.close(fd)
        if fresh:
            self._sync_folders(path)
        self._place = _Place(place.segment, place.size + len(data), after)
        return True

    def _sync_folders(self, path: Path) -> None:
        while path != self._directory:
            path = path.parent
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def _note(self, shipment: Shipment) -> None:
        if self._now() - self._noted_s < self._checkpoint_s:
            return
        size = int(shipment.checkpoint.split(b"\n", 2)[1])
        path = self._directory / segments.note_name(shipment.origin, size)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError), path.open("xb") as file:
            file.write(shipment.checkpoint)
            file.flush()
            os.fsync(file.fileno())
        self._noted_s = self._now()

    def _last(self, origin: str) -> _Place | None:
        """Return the end of the newest segment, None when there is none. Raises `NotASegment`, `OSError`."""
        names = sorted((self._directory / segments.folder(origin)).glob("[0-9]*/[0-9]*/[0-9]*/*.jsonl"))
        if not names:
            return None
        found = names[-1]
        segment = segments.parse_name(origin, found.relative_to(self._directory).as_posix())
        fd = os.open(found, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            size = os.fstat(fd).st_size
            start = max(0, size - segments.TAIL_BYTES)
            tail = os.pread(fd, segments.TAIL_BYTES, start)
            whole = tail.rfind(b"\n") + 1
            if whole < len(tail):
                if stat.S_IMODE(os.fstat(fd).st_mode) & 0o200 == 0:
                    raise NotASegment("a sealed segment ends in an unfinished line")
                os.truncate(found, start + whole)
                size, tail = start + whole, tail[:whole]
        finally:
            os.close(fd)
        return _Place(segment, size, segments.held(segment, tail, whole=start == 0))
