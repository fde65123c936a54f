"""How do records reach a second place while the gateway serves? One task a sink: read, prove, ship, remember, wait.

Must not hold up serving: files are read in a thread, nothing waits for a sink, and memory holds one batch a sink at most.

Theory of operation
    The local log is the source of truth. A step reads the next batch the published checkpoint covers (`tail`), hands it to the sink
    with that checkpoint, then writes the cursor. At the first step, and after anything went wrong, the sink is asked what it holds.
    CRASH between ship and cursor: the sink knows better, or the batch goes once more; records are told apart by (origin, index).
    A log that contradicts what was shipped is a finding: shipping stops, `differs` stands until somebody has looked, and the sink
    keeps what it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from gateway.audit import shipping
from gateway.audit.shipping import Bounds, Cursor, LogDiffers, Standing
from gateway.audit.store import read_file, write_all
from gateway.audit.tail import Batch, LogTail
from gateway.audit.tree import Edge, leaf_hash
from gateway.ports import EvidenceSink, Held, SinkRefused, SinkUnavailable

logger = logging.getLogger("gateway")

FOLDER: Final = "shipping"  # in the log's directory, so that it lies on the same volume
_MAX_CURSOR_BYTES: Final = 4096
_CATCH_UP_S: Final = 0.1  # between full batches: a long backlog is shipped at a tenth of a core, not at all of one
REFUSED_S: Final = 60.0  # between looks at what a person has to see to


class CursorFile:
    """One sink's cursor on disk, whole at any time. Blocking."""

    def __init__(self, directory: Path, name: str) -> None:
        self._path = directory / FOLDER / f"{name}.cursor"

    def read(self) -> Cursor | None:
        try:
            return shipping.decode(read_file(self._path, _MAX_CURSOR_BYTES))
        except FileNotFoundError:
            return None

    def write(self, cursor: Cursor) -> None:
        """Make the cursor durable. Raises `OSError`."""
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        fresh = self._path.with_suffix(".fresh")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            write_all(fd, shipping.encode(cursor))
            os.fdatasync(fd)
        finally:
            os.close(fd)
        # CRASH: before the rename the old cursor stands, and the sink is asked. The name itself need not be synced for that.
        fresh.replace(self._path)


class Shipper:
    """Ships one log to one sink. `interval_s`: between looks at the log; `timeout_s`: for one answer of the sink."""

    def __init__(
        self,
        name: str,
        sink: EvidenceSink,
        directory: Path,
        verifier_key: str,
        *,
        interval_s: float = 1.0,
        timeout_s: float = 30.0,
        refused_s: float = REFUSED_S,
        bounds: Bounds | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self.standing = Standing()
        self._sink = sink
        self._tail = LogTail(directory, verifier_key)
        self._cursor = CursorFile(directory, name)
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._refused_s = refused_s
        self._bounds = bounds or Bounds()
        self._draw = draw
        self._edge: Edge | None = None  # of what the sink holds; None: not known, ask
        self._pending: Batch | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to ship, in a task of its own."""
        self._launch(0.0)

    def _launch(self, delay_s: float) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(delay_s), name=f"ship-{self.name}")
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A fault nobody foresaw, in an SDK say, ends a task: it is counted and begun again, never silent."""
        if task.cancelled() or task is not self._task:
            return
        fault = task.exception()
        self._edge = self._pending = None
        self._fail(f"ended by {type(fault).__name__}")
        self._launch(self._refused_s)

    async def stop(self, grace_s: float) -> None:
        """End the task, ship what is left within the grace, let go of the sink. Idempotent."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                while await self.step() == _CATCH_UP_S:
                    pass
        await self._sink.aclose()

    async def _run(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        while True:
            pause_s = await self.step()
            await asyncio.sleep(pause_s)

    async def step(self) -> float:
        """Ship one batch, if there is one. Returns the seconds to wait before the next step. Raises nothing but cancellation."""
        standing = self.standing
        try:
            if self._edge is None:
                self._edge = await self._locate()
            if self._pending is None:
                self._pending = await asyncio.to_thread(self._tail.batch, self._edge, self._bounds)
            if self._pending is None:
                standing.oldest_s = None
                return self._interval_s
            return await self._send(self._pending)
        except SinkUnavailable as fault:
            self._fail(fault.why)
            pause_s = shipping.backoff_s(standing.in_a_row, fault.retry_after_s, self._draw())
        except TimeoutError:
            self._fail(f"no answer within {self._timeout_s:g} s")
            pause_s = shipping.backoff_s(standing.in_a_row, 0.0, self._draw())
        except OSError as fault:
            self._fail(f"the log or the cursor cannot be read or written: {fault.strerror or 'input error'}")
            pause_s = shipping.backoff_s(standing.in_a_row, 0.0, self._draw())
        except (SinkRefused, LogDiffers) as fault:
            self._fail(str(fault), differs=isinstance(fault, LogDiffers))
            pause_s = self._refused_s
        self._edge = self._pending = None  # whatever went wrong, the sink is asked anew what it holds
        return pause_s

    def _fail(self, why: str, *, differs: bool = False) -> None:
        standing = self.standing
        standing.failed(why, differs=differs)
        if standing.oldest_s is None:
            standing.oldest_s = time.time()
        if standing.in_a_row in (1, 10) or standing.in_a_row % 100 == 0:
            logger.error("evidence not shipped", extra={"sink": self.name, "reason": standing.why, "in_a_row": standing.in_a_row})

    async def _locate(self) -> Edge:
        """Ask sink and cursor where to go on, and hold the local log against both. Raises as `step` catches."""
        if not self.standing.end and (cursor := await asyncio.to_thread(self._cursor.read)) is not None:
            self.standing.end = cursor.end  # as far as is known while the sink does not answer
        async with asyncio.timeout(self._timeout_s):
            held = await self._sink.held(self._tail.origin)
        leaf = held.leaf if held is not None else None
        edge = await asyncio.to_thread(self._agree, held.end if held is not None else None, leaf)
        self.standing.end = edge.size
        return edge

    def _agree(self, end: int | None, leaf: bytes | None) -> Edge:
        held = None if end is None else Held(end, leaf)
        cursor = self._cursor.read()
        if cursor is not None and cursor.origin != self._tail.origin:
            cursor = None
        checkpoint, _ = self._tail.published()
        at = shipping.start(cursor, held, checkpoint.size)
        if cursor is not None and cursor.end and self._tail.edge(cursor.end).root().hex() != cursor.root:
            raise LogDiffers(f"the first {cursor.end} records are not those that were shipped: the log was changed or rolled back")
        # SECURITY: the sink's last record is the one thing an attacker on this host cannot rewrite; a fork shows here.
        if leaf is not None and at and leaf_hash(self._tail.record(at - 1)) != leaf:
            raise LogDiffers(f"record {at - 1} is not the one the sink holds: the log was changed, or two logs share an origin")
        return self._tail.edge(at)

    async def _send(self, batch: Batch) -> float:
        shipment = batch.shipment
        if self.standing.oldest_s is None:
            self.standing.oldest_s = shipping.recorded_at_s(shipment.records[0]) or time.time()
        async with asyncio.timeout(self._timeout_s):
            await self._sink.ship(shipment)
        # CRASH: here the sink holds the batch and the cursor does not know; see above.
        self._edge, self._pending = batch.edge, None
        self.standing.sent(shipment.end, len(shipment.records))
        await asyncio.to_thread(self._cursor.write, Cursor(shipment.origin, shipment.end, batch.edge.root().hex()))
        return _CATCH_UP_S if batch.more else self._interval_s
