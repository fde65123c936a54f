"""Where are the names of persons, places and organizations? Two small models in worker processes, off the event loop.

Best effort: no exactness over chunkings is claimed. The models hold the interpreter's lock for a part of the time they think, so they
live in processes, spawned (never forked) before serving; a bounded number of requests may wait for them, each up to its deadline. A
worker that dies or hangs is replaced. Nothing is ever downloaded. `ner_names` says what is found, `ner_model` how.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import multiprocessing
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

import msgspec

from gateway.content.language import COVERED
from gateway.evidence import Span
from gateway.ports import InspectorUnavailable
from gateway.providers.local.ner_model import CARD, LABELS
from gateway.providers.local.ner_names import NamesFinder
from gateway.providers.local.ner_weights import PACKAGE

MAX_CHARS = 400_000  # of one request; more is refused rather than half read
PIECE = 12_000  # characters asked of a worker at once, about half a second; the deadline is looked at in between
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
        self.start()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, *self._reads), daemon=True, name="ner")
        process.start()
        theirs.close()
        self._process, self._connection, self._ready = process, ours, False

    def ask(self, payload: bytes, hang_s: float) -> bytes:
        """Send one batch and wait for its answer. Raises `InspectorUnavailable` after replacing the worker."""
        try:
            if self._connection is None:
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
        self._idle = list(self._workers)
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="ner")
        self._pending = 0
        self._closed = False

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

        Passages in a language the model does not know yield none: it would take every noun for a name.
        """
        spans: list[list[Span]] = [[] for _ in texts]
        chosen = [at for at, text in enumerate(texts) if text and not text.isspace()]
        if not chosen:
            return spans
        if self._closed or self._pending >= self._limit:
            raise InspectorUnavailable("ner queue is full")
        if sum(len(texts[at]) for at in chosen) > MAX_CHARS:
            raise InspectorUnavailable("too much text for ner")
        remaining = deadline_s - time.monotonic()
        if remaining <= 0:
            raise InspectorUnavailable("ner deadline")
        self._pending += 1
        job: Future[list[list[Span]]] = self._threads.submit(self._run, [texts[at] for at in chosen], deadline_s)
        loop = asyncio.get_running_loop()
        job.add_done_callback(lambda _: loop.call_soon_threadsafe(self._done) if not loop.is_closed() else None)
        try:
            answer = await asyncio.wait_for(asyncio.wrap_future(job), remaining)
        except TimeoutError:
            raise InspectorUnavailable("ner deadline") from None
        for at, found in zip(chosen, answer, strict=True):
            spans[at] = found
        return spans

    def _done(self) -> None:
        self._pending -= 1

    def _run(self, texts: list[str], deadline_s: float) -> list[list[Span]]:
        """Ask a worker piece by piece. INVARIANT: a request that passed its deadline keeps a worker for one more piece at most."""
        with self._lock:
            worker = self._idle.pop()
        try:
            spans: list[list[Span]] = [[] for _ in texts]
            for batch in _batches(texts):
                if time.monotonic() >= deadline_s:
                    raise InspectorUnavailable("ner deadline")
                asked = [texts[at][begin:end].encode("utf-8", "replace").decode() for at, begin, end in batch]
                answer = msgspec.msgpack.decode(worker.ask(msgspec.msgpack.encode(asked), self._hang_s), type=_Answer)
                for (at, begin, _), found in zip(batch, answer, strict=True):
                    spans[at] += [Span(begin + start, begin + end, kind, score, self.name) for start, end, kind, score in found]
            return spans
        finally:
            with self._lock:
                self._idle.append(worker)

    def close(self) -> None:
        """Stop the workers. Idempotent; requests in flight fail."""
        if self._closed:
            return
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.stop()
