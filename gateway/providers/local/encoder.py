"""How harmful is a text by a model that reads sentences, not words? A six-layer encoder in eight-bit weights, off the event loop.

Theory of operation
- A text is cut into windows of `WINDOW` tokens, at most `MAX_WINDOWS`: all of it while it fits, else its beginning, its end and two
  between. Its score is the highest over them; `whole` says whether everything was read.
- Windows of all requests wait in one bounded queue. A single thread takes what waits, in turn and up to `BATCH_TOKENS`, and runs it as
  one batch; ONNX lets go of the interpreter's lock. What arrives meanwhile is the next batch.
- It reads Latin script. Of a text that is mostly pieces it has no entry for it has no opinion, which leaves the first model's word.
- Each request has one absolute deadline. Windows past it are dropped unread; nothing that was not read counts as clean.

The weights are checked against a digest before they are parsed; nothing is unpickled, nothing is downloaded. onnxruntime and
tokenizers come with the extra `encoder`.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import importlib.util
import math
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from gateway.content.second_opinion import Blend, Opinion, reading_of
from gateway.evidence import Role
from gateway.ports import InspectorUnavailable
from gateway.providers.local.moderation import HEADS, ModelInvalid

WINDOW = 96  # tokens, the two that frame each window among them
MAX_WINDOWS = 4
MAX_CHARS = 60_000  # of one text that are looked at: its beginning and its end
BATCH_TOKENS = 768  # of one run, about 50 ms: how long a later request waits at most before its turn
UNREADABLE = 0.2  # share of pieces without an entry from which a text counts as not read
QUEUE = 512  # windows that may wait
WEIGHTS = Path(__file__).parent / "weights"

Float64s = NDArray[np.float64]


class Card(msgspec.Struct, frozen=True):
    """What `encoder.json` says of the weights beside it."""

    layout: str
    version: str
    heads: tuple[str, ...]
    sha256: dict[str, str]
    points: dict[str, list[float]]  # reading -> logits at the one per cent point
    slope: list[float]
    blend: Blend
    trained_on: dict[str, Any] = {}
    base: str = ""  # digest of the published weights training started from


class _Waiting(msgspec.Struct, eq=False):
    """One window and who waits for it."""

    ids: list[int]
    deadline_s: float
    answer: asyncio.Future[list[float]]


def _checked(folder: Path) -> tuple[Card, bytes, bytes]:
    try:
        card = msgspec.json.decode((folder / "encoder.json").read_bytes(), type=Card)
        held = {name: (folder / name).read_bytes() for name in ("encoder.onnx", "encoder.tokenizer.json")}
    except (OSError, msgspec.MsgspecError) as fault:
        raise ModelInvalid("encoder weights cannot be read") from fault
    if card.heads != HEADS or any(hashlib.sha256(raw).hexdigest() != card.sha256.get(name) for name, raw in held.items()):
        raise ModelInvalid("encoder weights do not match their card")
    return card, held["encoder.onnx"], held["encoder.tokenizer.json"]


def available() -> bool:
    """Tell whether the packages of the extra `encoder` are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("onnxruntime", "tokenizers"))


class Network:
    """The network and its tokenizer. Used by one thread at a time."""

    def __init__(self, folder: Path = WEIGHTS) -> None:
        self.card, model, table = _checked(folder)
        runtime: Any = importlib.import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False  # a little slower; the arena never shrinks
        options.log_severity_level = 3
        self._session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._tokenizer = importlib.import_module("tokenizers").Tokenizer.from_buffer(table)
        self._frame = self._tokenizer.encode("").ids
        self._unknown = self._tokenizer.token_to_id("[UNK]")
        faults: Any = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
        self._faults: tuple[type[Exception], ...] = (faults.Fail, faults.InvalidArgument, faults.RuntimeException, RuntimeError)

    def windows(self, text: str) -> tuple[list[list[int]], bool]:
        """Return the windows of a text and whether they cover it."""
        cut = len(text) > MAX_CHARS
        if cut:
            text = text[: MAX_CHARS // 2] + " " + text[-MAX_CHARS // 2 :]
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        if ids.count(self._unknown) > UNREADABLE * len(ids):
            return [], False
        size = WINDOW - 2
        count = max(1, -(-len(ids) // size))
        kept = min(count, MAX_WINDOWS)
        starts = [0] if count == 1 else [round(at * (len(ids) - size) / (kept - 1)) for at in range(kept)]
        first, last = self._frame
        return [[first, *ids[at : at + size], last] for at in starts], count <= MAX_WINDOWS and not cut

    def logits(self, rows: list[list[int]]) -> Float64s:
        """Return [rows, heads] in one run. Raises `InspectorUnavailable` when the runtime refuses it."""
        table = np.zeros((len(rows), max(len(row) for row in rows)), dtype=np.int64)
        for at, row in enumerate(rows):
            table[at, : len(row)] = row
        try:
            found: Float64s = np.asarray(self._session.run(None, {"ids": table})[0], dtype=np.float64)
        except self._faults as error:
            raise InspectorUnavailable(f"encoder failed: {type(error).__name__}") from error
        return found

    def calibrated(self, logits: Float64s, role: Role) -> dict[str, float]:
        """Return scores in which 0.5 is the one per cent point of ordinary texts of the role."""
        distance = (logits - np.array(self.card.points[reading_of(role)])) * np.array(self.card.slope)
        return dict(zip(HEADS, (_sigmoid(value) for value in distance.tolist()), strict=True))


class Encoder:
    """Implements `ports.SecondOpinion`. One a process."""

    name = "encoder"

    def __init__(self, folder: Path = WEIGHTS, *, queue: int = QUEUE) -> None:
        self._network = Network(folder)
        self.version = self._network.card.version
        self.blend = self._network.card.blend
        self._limit = queue
        self._waiting: deque[_Waiting] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encoder")
        self._running: asyncio.Task[None] | None = None
        self._closed = False

    def opinions(self, texts: Sequence[str], role: Role) -> list[Opinion]:
        """Return an opinion for each text, on the calling thread. For evaluation; serving awaits `judge`."""
        found = []
        for text in texts:
            windows, whole = self._network.windows(text)
            if windows:
                logits = np.concatenate([self._network.logits([window]) for window in windows]).max(axis=0)
                found.append(Opinion(self._network.calibrated(logits, role), whole))
        return found

    async def judge(self, texts: Sequence[str], roles: Sequence[Role], deadline_s: float) -> list[tuple[dict[str, float], bool]]:
        """Return scores and whether all was read, for each text. See `ports.SecondOpinion`."""
        cut = [self._network.windows(text) for text in texts]
        if self._closed:
            raise InspectorUnavailable("the encoder is closed")
        if len(self._waiting) + sum(len(windows) for windows, _ in cut) > self._limit:
            raise InspectorUnavailable("encoder queue is full")
        loop = asyncio.get_running_loop()
        waiting = [[_Waiting(ids, deadline_s, loop.create_future()) for ids in windows] for windows, _ in cut]
        flat = [one for row in waiting for one in row]
        self._waiting.extend(flat)
        if self._running is None or self._running.done():
            self._running = loop.create_task(self._run(), name="encoder")
        try:
            async with asyncio.timeout(max(0.0, deadline_s - time.monotonic())):
                await asyncio.gather(*(one.answer for one in flat))
        except TimeoutError:
            raise InspectorUnavailable("encoder deadline") from None
        finally:
            for one in flat:
                one.answer.cancel()
        found: list[tuple[dict[str, float], bool]] = []
        for row, (_, whole), role in zip(waiting, cut, roles, strict=True):
            if not row:
                found.append(({}, False))
                continue
            logits = np.array([one.answer.result() for one in row]).max(axis=0)
            found.append((self._network.calibrated(logits, role), whole))
        return found

    async def _run(self) -> None:
        """Run what waits, batch by batch, until nothing does."""
        loop = asyncio.get_running_loop()
        while batch := self._next(time.monotonic()):
            try:
                logits = await loop.run_in_executor(self._thread, self._network.logits, [one.ids for one in batch])
            except (InspectorUnavailable, RuntimeError) as error:
                # CRASH: the runtime refused this batch, or the thread is gone: who waits is told, the others go on.
                for one in batch:
                    if not one.answer.done():
                        one.answer.set_exception(InspectorUnavailable(str(error)))
                continue
            for one, row in zip(batch, logits.tolist(), strict=True):
                if not one.answer.done():
                    one.answer.set_result(row)

    def _next(self, now_s: float) -> list[_Waiting]:
        """Take the next batch: the first in line and those after it while the padded size stays in bounds. Drops what nobody awaits."""
        batch: list[_Waiting] = []
        widest = 0
        while self._waiting:
            one = self._waiting[0]
            if one.answer.done() or one.deadline_s <= now_s:
                self._waiting.popleft()
                continue
            widest = max(widest, len(one.ids))
            if batch and widest * (len(batch) + 1) > BATCH_TOKENS:
                break
            batch.append(self._waiting.popleft())
        return batch

    def close(self) -> None:
        """Stop the thread. Idempotent; requests in flight fail."""
        self._closed = True
        self._thread.shutdown(wait=False, cancel_futures=True)


def _sigmoid(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-max(-40.0, min(40.0, value))))
