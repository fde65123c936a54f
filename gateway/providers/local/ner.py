"""Where are the names of persons, places and organizations? Two small models in worker processes, off the event loop.

Best effort: no exactness over chunkings is claimed. The models hold the interpreter's lock for a part of the time they think, so they
live in processes, spawned (never forked) before serving; a bounded number of requests may wait for them, each up to its deadline. A worker
reads one piece at a time, of whoever has the least left: a long text waits for the short ones, never they for it. A worker that dies or
hangs is replaced. Nothing is ever downloaded. `ner_names` says what is found, `ner_model` how.
"""

from __future__ import annotations

import asyncio
import heapq
import importlib
import importlib.util
import json
import multiprocessing
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

import msgspec

from gateway.content.language import COVERED
from gateway.evidence import Span
from gateway.memory import give_large_blocks_back
from gateway.ports import InspectorUnavailable, TooMuch
from gateway.providers.local.ner_model import CARD, LABELS
from gateway.providers.local.ner_names import NamesFinder
from gateway.providers.local.ner_weights import PACKAGE

MAX_CHARS = 1_000_000  # of one request; more is refused unread. How much less is read the deadline and the worker say
PIECE = 12_000  # characters asked of a worker at once, less than half a second; deadlines and others are looked at in between
DEAR_CHARS = 4 * PIECE  # from here on it can be the text's own fault that it is not read by its deadline
HOPE = 2.0  # how much faster than so far a text may have to be read before it is given up
HANG_S = 30.0  # a worker that is silent for so long is replaced
START_S = 60.0
_Answer = list[list[tuple[int, int, str, float]]]


class NerRecognizer(Protocol):
    """The part of Presidio's `EntityRecognizer` that a customer's own recognizer brings."""

    supported_entities: list[str]

    def analyze(self, text: str, entities: list[str], nlp_artifacts: Any) -> list[Any]: ...


def custom_spans(recognizer: NerRecognizer, text: str) -> list[Span]:
    """Run a Presidio recognizer and return its findings as spans. It gets no NLP artifacts: only the text."""
    name = type(recognizer).__name__
    results = recognizer.analyze(text, recognizer.supported_entities, None) or []
    return sorted(Span(r.start, r.end, r.entity_type, float(r.score), name) for r in results if 0 <= r.start < r.end <= len(text))


def load_recognizer(reference: str) -> NerRecognizer:
    """Import and build the recognizer named `package.module:Class`. Raises `ImportError` or `AttributeError`."""
    module, _, name = reference.partition(":")
    recognizer: NerRecognizer = getattr(importlib.import_module(module), name)()
    return recognizer


def _serve(connection: Connection, languages: list[str], kinds: list[str]) -> None:
    """The worker: answer batches until the parent goes away."""
    give_large_blocks_back()
    finder = NamesFinder(languages, kinds)
    finder.find(["Warm up, Ann Lee."])
    connection.send_bytes(b"ready")
    decoder = msgspec.msgpack.Decoder(list[str])
    encoder = msgspec.msgpack.Encoder()
    with suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            found = finder.find(decoder.decode(connection.recv_bytes()))
            connection.send_bytes(encoder.encode([[(s.start, s.end, s.type, s.score) for s in spans] for spans in found]))


class _Worker:
    """One process and our end of its pipe. Used by one thread at a time."""

    def __init__(self, languages: Sequence[str], kinds: Sequence[str]) -> None:
        self._reads = (list(languages), list(kinds))
        self._context = multiprocessing.get_context("spawn")
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None
        self._ready = False
        self._closed = False
        self.start()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    @property
    def ready(self) -> bool:
        return self._ready

    def start(self) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, *self._reads), daemon=True, name="ner")
        process.start()
        theirs.close()
        self._process, self._connection, self._ready = process, ours, False

    def ask(self, payload: bytes, hang_s: float) -> bytes:
        """Send one batch and wait for its answer. Raises `InspectorUnavailable` after replacing the worker."""
        try:
            if self._connection is None and not self._closed:
                self.start()
            connection = self._connection
            if connection is None:
                raise InspectorUnavailable("ner worker closed")
            if not self._ready:
                self._receive(connection, START_S)
                self._ready = True
            connection.send_bytes(payload)
            return self._receive(connection, hang_s)
        except (EOFError, OSError) as error:
            # CRASH: the worker died or hangs; its request fails, the next one finds a fresh process.
            self.stop()
            if not self._closed:
                self.start()
            raise InspectorUnavailable("ner worker lost") from error

    def wait_ready(self) -> None:
        connection = self._connection
        if connection is not None and not self._ready:
            try:
                self._receive(connection, START_S)
            except (EOFError, OSError) as error:
                raise InspectorUnavailable("ner worker did not start") from error
            self._ready = True

    def _receive(self, connection: Connection, timeout_s: float) -> bytes:
        if not connection.poll(timeout_s):
            raise TimeoutError("ner worker is silent")
        return connection.recv_bytes()

    def close(self) -> None:
        """Stop for good: nothing is started any more."""
        self._closed = True
        self.stop()

    def stop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        process = self._process
        if process is not None:
            process.terminate()
            process.join(2.0)
            if process.is_alive():
                process.kill()
                process.join(2.0)
            process.close()
            self._process = None


def _batches(texts: Sequence[str]) -> Iterator[list[tuple[int, int, int]]]:
    """Yield lists of (index, start, end), each of about `PIECE` characters; long texts are cut after a line or at a blank."""
    batch: list[tuple[int, int, int]] = []
    size = 0
    for at, text in enumerate(texts):
        begin = 0
        while begin < len(text):
            end = len(text) if len(text) - begin <= PIECE else _cut(text, begin)
            if batch and size + end - begin > PIECE:
                yield batch
                batch, size = [], 0
            batch.append((at, begin, end))
            size += end - begin
            begin = end
    if batch:
        yield batch


def _cut(text: str, begin: int) -> int:
    for mark in ("\n", ". ", " "):
        found = text.rfind(mark, begin + PIECE // 2, begin + PIECE)
        if found > 0:
            return found + len(mark)
    return begin + PIECE


class _Job:
    """One request's texts and how much of them is left to read."""

    def __init__(self, texts: list[str], deadline_s: float) -> None:
        self.texts = texts
        self.deadline_s = deadline_s
        self.left = self.size = sum(map(len, texts))
        self.came_s = time.monotonic()
        self.began_s = self.busy_s = 0.0
        self.batches = list(_batches(texts))[::-1]
        self.spans: list[list[Span]] = [[] for _ in texts]
        self.answer: Future[list[list[Span]]] = Future()

    def late(self) -> InspectorUnavailable:
        """Return why it is not read by its deadline: `TooMuch` where a worker of its own would not have read it either."""
        read = self.size - self.left
        if self.size > DEAR_CHARS and read and self.busy_s * self.size > read * (self.deadline_s - self.came_s):
            return TooMuch("too much text for ner")
        return InspectorUnavailable("ner deadline")

    def read(self, worker: _Worker, hang_s: float) -> None:
        """Have the next piece read. Raises `InspectorUnavailable`."""
        now_s = time.monotonic()
        if now_s >= self.deadline_s:
            raise self.late()
        read = self.size - self.left
        if read and self.left * (now_s - self.began_s) > HOPE * read * (self.deadline_s - now_s):
            raise self.late()  # it will not be read in time: the worker is for those that will
        self.began_s = self.began_s or now_s
        batch = self.batches.pop()
        asked = [self.texts[at][begin:end].encode("utf-8", "replace").decode() for at, begin, end in batch]
        started = worker.ready
        answer = msgspec.msgpack.decode(worker.ask(msgspec.msgpack.encode(asked), hang_s), type=_Answer)
        if started:  # the time that a worker takes to start is not the text's
            self.busy_s += time.monotonic() - now_s
        for (at, begin, end), found in zip(batch, answer, strict=True):
            self.spans[at] += [Span(begin + start, begin + stop, kind, score, NerPool.name) for start, stop, kind, score in found]
            self.left -= end - begin


class NerPool:
    """Implements `ports.NerDetector`. Processes start in the constructor; `wait_ready` blocks until they have loaded the model."""

    name = "ner"

    def __init__(
        self,
        workers: int = 1,
        *,
        organizations: bool = True,
        languages: Sequence[str] = COVERED,
        queue: int = 64,
        hang_s: float = HANG_S,
    ) -> None:
        if importlib.util.find_spec(PACKAGE) is None:
            raise InspectorUnavailable("the names model is not installed: run `make setup`, or set `ner = false`")
        self.version = json.loads(CARD.read_bytes())["version"]
        kinds = LABELS if organizations else [label for label in LABELS if label != "ORGANIZATION"]
        self._limit = queue
        self._hang_s = hang_s
        self._workers = [_Worker(languages, kinds) for _ in range(workers)]
        self._waiting: list[tuple[int, int, _Job]] = []  # a heap: the least left first, then the first come
        self._changed = threading.Condition()
        self._number = 0
        self._pending = 0
        self._closed = False
        for worker in self._workers:
            threading.Thread(target=self._drive, args=(worker,), name="ner", daemon=True).start()

    @property
    def pids(self) -> list[int]:
        return [worker.pid for worker in self._workers if worker.pid is not None]

    def wait_ready(self) -> None:
        """Block until every worker has loaded its model. Raises `InspectorUnavailable`."""
        for worker in self._workers:
            worker.wait_ready()

    @property
    def pending(self) -> int:
        """How many texts wait or are being read."""
        return self._pending

    async def detect(self, texts: Sequence[str], deadline_s: float) -> list[list[Span]]:
        """Return spans for each text. Raises `InspectorUnavailable` past the deadline, when the queue is full or the worker is lost.

        `TooMuch` where a worker of its own could not have read the texts by the deadline.

        Passages in a language the model does not know yield none: it would take every noun for a name.
        """
        spans: list[list[Span]] = [[] for _ in texts]
        chosen = [at for at, text in enumerate(texts) if text and not text.isspace()]
        if not chosen:
            return spans
        if self._closed or self._pending >= self._limit:
            raise InspectorUnavailable("ner queue is full")
        if sum(len(texts[at]) for at in chosen) > MAX_CHARS:
            raise TooMuch("too much text for ner")
        remaining = deadline_s - time.monotonic()
        if remaining <= 0:
            raise InspectorUnavailable("ner deadline")
        job = _Job([texts[at] for at in chosen], deadline_s)
        self._pending += 1
        loop = asyncio.get_running_loop()
        job.answer.add_done_callback(lambda _: loop.call_soon_threadsafe(self._done) if not loop.is_closed() else None)
        self._put(job)
        try:
            answer = await asyncio.wait_for(asyncio.wrap_future(job.answer), remaining)
        except TimeoutError:
            raise job.late() from None
        for at, found in zip(chosen, answer, strict=True):
            spans[at] = found
        return spans

    def _done(self) -> None:
        self._pending -= 1

    def _put(self, job: _Job) -> None:
        with self._changed:
            self._number += 1
            heapq.heappush(self._waiting, (job.left, self._number, job))
            self._changed.notify()

    def _take(self) -> _Job | None:
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            return None if self._closed else heapq.heappop(self._waiting)[2]

    def _drive(self, worker: _Worker) -> None:
        """Ask a worker piece by piece. INVARIANT: a request that nobody awaits any more keeps a worker for one more piece at most."""
        while (job := self._take()) is not None:
            if job.answer.cancelled():
                continue
            with suppress(InvalidStateError):  # cancelled while it was read
                try:
                    job.read(worker, self._hang_s)
                except (InspectorUnavailable, msgspec.MsgspecError, ValueError, OSError) as error:
                    job.answer.set_exception(error if isinstance(error, InspectorUnavailable) else InspectorUnavailable("ner worker lost"))
                    continue
                if not job.batches:
                    job.answer.set_result(job.spans)
                elif not job.answer.cancelled():
                    self._put(job)

    def close(self) -> None:
        """Stop the workers. Idempotent; requests in flight fail."""
        if self._closed:
            return
        with self._changed:
            self._closed = True
            waiting, self._waiting = self._waiting, []
            self._changed.notify_all()
        for _, _, job in waiting:
            job.answer.cancel()
        for worker in self._workers:
            worker.close()
