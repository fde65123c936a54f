"""How does the gateway write what happened, so that nothing leaves before its record is durable and nothing changes after?

Must not decide what is recorded. Follows RFC 9162 (tree) and C2SP tlog-tiles, tlog-checkpoint and signed-note (layout).

Theory of operation
    `append` runs on the event loop: it gives the record the next index, puts it on a bounded queue and returns a ticket.
    One thread takes all that is queued, writes it as one frame with one signed checkpoint, syncs, and wakes the tickets with
    one call into the loop (group commit: while one batch is synced the next gathers). Between commits it publishes tiles and
    checkpoint, at most every `publish_interval_s`, and seals segments (`gateway.audit.writer`).
    A failed write or sync is final: the thread ends, every ticket fails, `healthy` stays False. A sync that failed once may
    report success the next time for data that is gone, so it is never tried again; a new process recovers from the disk.
    What a start finds is judged by `gateway.audit.recovery`; exchanges whose end nobody saw are closed as `unknown` before
    the `start` record, so that nothing is ever open at a start, and at a stop likewise before the `stop` record.
Key rotation is not part of this: one directory has one origin and one key; a new key begins a new directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.audit import record as records
from gateway.audit.recovery import Recovery, open_writer
from gateway.audit.store import Store, Sync
from gateway.audit.tree import MAX_ENTRY_BYTES, Signer
from gateway.audit.writer import Writer
from gateway.ports import LogUnavailable

CheckpointSink = Callable[[bytes], Awaitable[None]]
"""Takes a signed checkpoint away from this host. May raise `OSError`, which is counted; called at most once a second."""

_BATCH_RECORDS: Final = 1024
_BATCH_BYTES: Final = 4 << 20
# Under load commits keep a distance, so that more records share each sync: so much for each record of the last one, up to a
# most. Alone, a record waits for nothing worth mentioning; from about a thousand exchanges a second on the most is reached.
GATHER_EACH_S: Final = 0.0005
GATHER_MOST_S: Final = 0.004
_LINGER_S: Final = 0.01  # how long a record that nobody waits for may ride along before it causes a commit of its own
_SINK_INTERVAL_S: Final = 1.0


class LogTicket:
    """A place in the log: `gateway.ports.Ticket`. Belongs to the event loop the log was started on."""

    __slots__ = ("_futures", "_log", "index")

    def __init__(self, log: AuditLog, index: int) -> None:
        self._log = log
        self.index = index
        self._futures: list[asyncio.Future[None]] = []

    async def wait(self) -> int:
        """Return the index once the record and all before it are durable. Raises `LogUnavailable` if they never will be.

        A cancelled wait takes nothing back: the record stays in line.
        """
        log = self._log
        if self.index >= log.size:
            if log.failure:
                raise LogUnavailable(log.failure)
            log.ring()
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._futures.append(future)
            await future
        return self.index

    def settle(self, error: str) -> None:
        for future in self._futures:
            if future.done():
                continue
            if error:
                future.set_exception(LogUnavailable(error))
            else:
                future.set_result(None)


class AuditLog:
    """The log of one directory, for one process and one event loop: `gateway.ports.RecordLog`."""

    def __init__(
        self,
        writer: Writer,
        recovery: Recovery,
        *,
        now: Callable[[], float],
        instance: str,
        publish_interval_s: float,
        max_queue: int,
        max_queue_bytes: int,
        sinks: Sequence[CheckpointSink],
    ) -> None:
        self.recovery = recovery
        self.failure = ""  # why the log cannot promise durability any more
        self.size = writer.edge.size  # durable records
        self.checkpoint = writer.note  # signed, of `size`
        self.sink_failures = 0
        self._writer = writer  # owned by the writer thread from `start` on
        self._now = now
        self._instance = instance
        self._publish_interval_s = publish_interval_s
        self._max_queue = max_queue
        self._max_queue_bytes = max_queue_bytes
        self._committed_at_s = 0.0
        self._last_batch = 0  # records of the last commit
        self._queued: deque[bytes] = deque()  # appended on the loop, taken by the thread
        self._queued_bytes = 0  # loop only: of the tickets in `_line`
        self._line: deque[tuple[LogTicket, int]] = deque()  # loop only: tickets not yet durable, in order, with sizes
        self._next = self.size  # loop only
        # INVARIANT: `_rung` is True while a token is in `_bell`; the thread clears it before it empties the queue, so a record
        # appended after that rings again and none is overlooked.
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._rung = False
        self._lingering = False
        self._running = False
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Future[None] | None = None
        self._thread: threading.Thread | None = None
        self._sinks = tuple(sinks)
        self._sink_task: asyncio.Task[None] | None = None

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        origin: str,
        key: Ed25519PrivateKey,
        now: Callable[[], float],
        instance: str = "",
        publish_interval_s: float = 0.2,
        max_queue: int = 8192,
        max_queue_bytes: int = 64 << 20,
        segment_bytes: int = 16 << 20,
        create: bool = True,
        checkpoint_sinks: Sequence[CheckpointSink] = (),
        sync: Sync = os.fdatasync,
    ) -> Self:
        """Hold the directory and recover its log. `now` is wall time in seconds, for records alone.

        `create` False refuses a directory that holds no log, which is what an unmounted volume looks like. `sync` is for fault
        tests. Raises `LogRefused`, `DirectoryInUse`, `OSError`, and `TreeError` for an origin that cannot be one.
        """
        signer = Signer(origin, key)
        store = Store(directory, sync=sync)
        store.acquire()
        try:
            writer, recovery = open_writer(store, signer, segment_bytes=segment_bytes, create=create, now_s=time.monotonic())
        except BaseException:
            store.release()
            raise
        return cls(
            writer,
            recovery,
            now=now,
            instance=instance or origin,
            publish_interval_s=publish_interval_s,
            max_queue=max_queue,
            max_queue_bytes=max_queue_bytes,
            sinks=checkpoint_sinks,
        )

    # --- on the event loop

    @property
    def healthy(self) -> bool:
        return self._running and not self.failure

    @property
    def backlog(self) -> int:
        """Records taken and not yet durable."""
        return len(self._line)

    @property
    def origin(self) -> str:
        return self._writer.signer.origin

    async def start(self, extra: Mapping[str, Any] | None = None) -> int:
        """Close what the last run left open, record the start with `extra`, begin to serve. Returns the record's index.

        Raises `LogUnavailable`.
        """
        if self._thread is not None:
            raise LogUnavailable("the log was started before")
        loop = self._loop = asyncio.get_running_loop()
        started: asyncio.Future[None] = loop.create_future()
        self._ended = loop.create_future()
        self._thread = threading.Thread(target=self._run, args=(started, dict(extra or {})), name="audit-writer", daemon=True)
        self._thread.start()
        await started
        if self.failure:
            raise LogUnavailable(self.failure)
        self._next = self.size
        self._running = True
        if self._sinks:
            self._sink_task = loop.create_task(self._send_checkpoints())
        return self.size - 1

    def append(self, record: bytes, *, soon: bool = True) -> LogTicket:
        """Take one record in order. Returns at once; durable when the ticket was awaited.

        `soon` False lets it ride with the next commit, a hundredth of a second later at most: for records nothing waits for.
        Raises `LogUnavailable` when the log has failed, is not running, or its queue is full; `ValueError` over 65,535 bytes.
        """
        size = len(record)
        if size > MAX_ENTRY_BYTES:
            raise ValueError("the record is too long")
        if not self._running or self.failure:
            raise LogUnavailable(self.failure or "the log is not running")
        if len(self._line) >= self._max_queue or self._queued_bytes + size > self._max_queue_bytes:
            raise LogUnavailable("the audit queue is full")
        ticket = LogTicket(self, self._next)
        self._next += 1
        self._line.append((ticket, size))
        self._queued_bytes += size
        self._queued.append(record)
        if soon:
            self.ring()
        elif not self._lingering and self._loop is not None:
            self._lingering = True
            self._loop.call_later(_LINGER_S, self._linger_over)
        return ticket

    def ring(self) -> None:
        """Wake the writer."""
        if not self._rung:
            self._rung = True
            self._bell.put(None)

    def _linger_over(self) -> None:
        self._lingering = False
        if self._queued:
            self.ring()

    def _committed(self, size: int, note: bytes) -> None:
        self.size, self.checkpoint = size, note
        line = self._line
        while line and line[0][0].index < size:
            ticket, record_bytes = line.popleft()
            self._queued_bytes -= record_bytes
            ticket.settle("")

    def _failed(self, why: str) -> None:
        self.failure = self.failure or why
        while self._line:
            self._line.popleft()[0].settle(self.failure)
        self._queued_bytes = 0

    async def close(self) -> None:
        """Commit what is queued, close what is open as `unknown`, record the stop, publish, seal, let go. Idempotent."""
        self._running = False
        if self._sink_task is not None:
            self._sink_task.cancel()
            await asyncio.gather(self._sink_task, return_exceptions=True)
            self._sink_task = None
        if self._thread is not None and self._ended is not None:
            self._stopping = True
            self._bell.put(None)
            await asyncio.shield(self._ended)
            self._thread.join()
            self._thread = None
            if self._sinks:
                await self._send_once()
        self._writer.discard()
        self._writer.store.release()

    async def _send_checkpoints(self) -> None:
        sent = b""
        while True:
            if sent != self.checkpoint:
                sent = self.checkpoint
                await self._send_once()
            await asyncio.sleep(_SINK_INTERVAL_S)

    async def _send_once(self) -> None:
        note = self.checkpoint
        for sink in self._sinks:
            try:
                await sink(note)
            except OSError:
                self.sink_failures += 1

    # --- on the writer thread

    def _run(self, started: asyncio.Future[None], extra: Mapping[str, Any]) -> None:
        why = "the audit writer ended"
        try:
            self._open_run(extra)
            self._tell(self._committed, self._writer.edge.size, self._writer.note)
            self._tell(_resolve, started)
            self._serve()
            self._close_run()
            why = ""
        except OSError as error:
            why = f"the audit log cannot be written: {error.strerror or error}"
        finally:
            # Whatever ended this thread, nobody is left waiting for it, and nothing is accepted after it.
            if why:
                self._tell(self._failed, why)
            self._tell(_resolve, started)
            if self._ended is not None:
                self._tell(_resolve, self._ended)

    def _open_run(self, extra: Mapping[str, Any]) -> None:
        recovery = {name: getattr(self.recovery, name) for name in Recovery.__struct_fields__}
        start = records.start(now_s=self._now(), instance=self._instance, recovery=recovery, extra=extra)
        self._commit([*self._closings("crash"), start])

    def _close_run(self) -> None:
        self._commit([*self._closings("shutdown"), records.stop(now_s=self._now(), instance=self._instance)])
        self._writer.settle(time.monotonic(), segment_bytes=0)
        self._tell(self._committed, self._writer.edge.size, self._writer.note)

    def _closings(self, reason: str) -> list[bytes]:
        now_s = self._now()
        return [records.unknown(opened, index, now_s=now_s, instance=self._instance, reason=reason) for index, opened in self._writer.open]

    def _serve(self) -> None:
        """Commit what is queued and publish when it is due, until told to stop and nothing is left."""
        published_s = time.monotonic()
        while True:
            dirty = self._writer.published != self._writer.edge.size
            wait_s = max(0.0, published_s + self._publish_interval_s - time.monotonic()) if dirty else None
            with contextlib.suppress(queue.Empty):
                self._bell.get(timeout=wait_s)
            self._rung = False
            while self._queued:
                self._gather()
                batch = self._take()
                self._last_batch = len(batch)
                self._commit(batch)
                self._tell(self._committed, self._writer.edge.size, self._writer.note)
                if time.monotonic() - published_s >= self._publish_interval_s:
                    break
            now_s = time.monotonic()
            if now_s - published_s >= self._publish_interval_s:
                self._writer.publish(now_s)
                self._writer.reap()
                published_s = now_s
            if self._queued:
                self.ring()
            elif self._stopping:
                return

    def _gather(self) -> None:
        """Under load let a commit's worth of records come together: a sync is paid for by all of them."""
        early_s = self._committed_at_s + min(GATHER_MOST_S, GATHER_EACH_S * self._last_batch) - time.monotonic()
        if early_s > 0 and not self._stopping:
            time.sleep(early_s)
        self._committed_at_s = time.monotonic()

    def _take(self) -> list[bytes]:
        batch: list[bytes] = []
        taken, queued = 0, self._queued
        while queued and len(batch) < _BATCH_RECORDS and taken < _BATCH_BYTES:
            record = queued.popleft()
            taken += len(record)
            batch.append(record)
        return batch

    def _commit(self, batch: list[bytes]) -> None:
        now_s = time.monotonic()
        for at in range(0, len(batch), _BATCH_RECORDS):
            self._writer.commit(batch[at : at + _BATCH_RECORDS], now_s)

    def _tell(self, call: Callable[..., None], *args: object) -> None:
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(call, *args)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


# --- where checkpoints go


def file_sink(path: Path) -> CheckpointSink:
    """Keep the latest checkpoint in a file, whole at any time; `path` should lie on another host's volume."""

    def put(note: bytes) -> None:
        fresh = path.with_name(path.name + ".fresh")
        fresh.write_bytes(note)
        fresh.replace(path)

    async def send(note: bytes) -> None:
        await asyncio.to_thread(put, note)

    return send


def stdout_sink() -> CheckpointSink:
    """Print each checkpoint as one JSON line, for a collector to carry away."""

    def put(note: bytes) -> None:
        sys.stdout.buffer.write(records.encode({"type": "checkpoint", "checkpoint": note.decode()}) + b"\n")
        sys.stdout.buffer.flush()

    async def send(note: bytes) -> None:
        await asyncio.to_thread(put, note)

    return send
