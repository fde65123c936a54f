"""How harmful is a text by a model that reads sentences, not words? A six-layer encoder in eight-bit weights, off the event loop.

Theory of operation
- A text is cut into windows of `WINDOW` tokens, at most `MAX_WINDOWS`: all of it while it fits, else its beginning, its end and two
  between. Its score is the highest over them; `whole` says whether everything was read.
- Windows of all requests wait in one queue, bounded in tokens. A single thread takes what waits, in turn and up to `BATCH_TOKENS`;
  ONNX lets go of the interpreter's lock. What arrives meanwhile is the next batch. Long texts are cut into tokens on a thread of
  their own, so that nobody's batch waits for it and the event loop never does. A window's score depends on nothing but the window.
- The weights stay on disk until somebody asks, or `load` is called: a gateway whose profiles do not ask pays for a small file.
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
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
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
QUEUE = 48_000  # tokens that may wait: some seconds of one core, longer than any deadline of a request
INLINE = 1_500  # code points that are cut into tokens in well under a millisecond
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


def card_of(folder: Path = WEIGHTS) -> Card:
    """Return the card of the weights in `folder`. Raises `ModelInvalid`."""
    try:
        card = msgspec.json.decode((folder / "encoder.json").read_bytes(), type=Card)
    except (OSError, msgspec.MsgspecError) as fault:
        raise ModelInvalid("the encoder's card cannot be read") from fault
    if card.heads != HEADS:
        raise ModelInvalid("the encoder's heads are not the moderation model's")
    return card


def _check(path: Path, card: Card) -> None:
    """Raise `ModelInvalid` when a file is not the card's. Reads it in small pieces: what is taken at once is never given back."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as fault:
        raise ModelInvalid("encoder weights cannot be read") from fault
    if digest != card.sha256.get(path.name):
        raise ModelInvalid("encoder weights do not match their card")


def available() -> bool:
    """Tell whether the packages of the extra `encoder` are installed, and the weights."""
    packages = all(importlib.util.find_spec(name) is not None for name in ("onnxruntime", "tokenizers"))
    return packages and (WEIGHTS / "encoder.json").is_file()


class Network:
    """The network and its tokenizer. Used by one thread at a time."""

    def __init__(self, folder: Path = WEIGHTS) -> None:
        self.card = card_of(folder)
        model, table = folder / "encoder.onnx", folder / "encoder.tokenizer.json"
        for path in (model, table):
            _check(path, self.card)
        runtime: Any = importlib.import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False  # a little slower; the arena never shrinks
        options.log_severity_level = 3
        options.add_session_config_entry("session.disable_prepacking", "1")  # a tenth slower; the weights are held once and not twice
        # By path: given bytes, the session keeps them for good. The files are checked before and after they are read.
        self._session = runtime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._tokenizer = importlib.import_module("tokenizers").Tokenizer.from_file(str(table))
        for path in (model, table):
            _check(path, self.card)
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
        """Return [rows, heads]. Raises `InspectorUnavailable` when the runtime refuses a row.

        SECURITY: each row is run by itself. Activations are quantised by the range of all that runs together, so that in one table a text's
        score would depend on whose texts stand beside it. On one thread a table is no faster.
        """
        try:
            found = [self._session.run(None, {"ids": np.array([row], dtype=np.int64)})[0][0] for row in rows]
        except self._faults as error:
            raise InspectorUnavailable(f"encoder failed: {type(error).__name__}") from error
        return np.asarray(found, dtype=np.float64)

    def calibrated(self, logits: Float64s, role: Role) -> dict[str, float]:
        """Return scores in which 0.5 is the one per cent point of ordinary texts of the role."""
        distance = (logits - np.array(self.card.points[reading_of(role)])) * np.array(self.card.slope)
        return dict(zip(HEADS, (_sigmoid(value) for value in distance.tolist()), strict=True))


class Encoder:
    """Implements `ports.SecondOpinion`. One a process."""

    name = "encoder"

    def __init__(self, folder: Path = WEIGHTS, *, queue: int = QUEUE, read: Callable[[Path], Network] = Network) -> None:
        """Read the card alone; `read` gives the network when it is wanted. Raises `ModelInvalid`."""
        card = card_of(folder)
        self.version = card.version
        self.blend = card.blend
        self._folder, self._read = folder, read
        self._limit = queue
        self._network: Network | None = None
        self._loading = threading.Lock()
        self._waiting: deque[_Waiting] = deque()
        self._runner = ThreadPoolExecutor(1, thread_name_prefix="encoder")
        self._cutter = ThreadPoolExecutor(1, thread_name_prefix="encoder-cut")
        self._running: asyncio.Task[None] | None = None
        self._closed = False

    def load(self) -> Network:
        """Return the network, read from disk the first time. Any thread. Raises `ModelInvalid`."""
        with self._loading:
            if self._network is None:
                read = self._read(self._folder)
                if read.card.version != self.version:
                    # SECURITY: findings are cached and recorded under the version of the card that was read at the start.
                    raise ModelInvalid("the encoder's weights were replaced while it ran")
                self._network = read
            return self._network

    @property
    def loaded(self) -> bool:
        """Tell whether the weights are in memory."""
        return self._network is not None

    def opinions(self, texts: Sequence[str], role: Role) -> list[Opinion]:
        """Return an opinion for each text that can be read, on the calling thread. For calibration and timing; serving awaits `judge`."""
        network = self.load()
        found = []
        for text in texts:
            windows, whole = network.windows(text)
            if windows:
                logits = np.concatenate([network.logits([window]) for window in windows]).max(axis=0)
                found.append(Opinion(network.calibrated(logits, role), whole))
        return found

    async def judge(self, texts: Sequence[str], roles: Sequence[Role], deadline_s: float) -> list[tuple[dict[str, float], bool]]:
        """Return scores and whether all was read, for each text. See `ports.SecondOpinion`."""
        if self._closed:
            raise InspectorUnavailable("the encoder is closed")
        flat: list[_Waiting] = []
        try:
            async with asyncio.timeout(max(0.0, deadline_s - time.monotonic())):
                network, cut = await self._cut(texts)
                waiting = self._enqueue([windows for windows, _ in cut], deadline_s)
                flat += (one for row in waiting for one in row)
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
            found.append((network.calibrated(logits, role), whole))
        return found

    async def _cut(self, texts: Sequence[str]) -> tuple[Network, list[tuple[list[list[int]], bool]]]:
        """Return the network and the windows of each text, cut where it holds up nobody."""
        network = self._network
        if network is not None and sum(map(len, texts)) <= INLINE:
            return network, [network.windows(text) for text in texts]

        def apart() -> tuple[Network, list[tuple[list[list[int]], bool]]]:
            loaded = self.load()
            return loaded, [loaded.windows(text) for text in texts]

        try:
            return await asyncio.get_running_loop().run_in_executor(self._cutter, apart)
        except (ModelInvalid, ImportError, OSError, RuntimeError) as fault:
            # CRASH: weights that are not what their card says, a package that is missing, or a pool that has been shut down.
            raise InspectorUnavailable(f"the encoder cannot be used: {type(fault).__name__}") from fault

    def _enqueue(self, rows: list[list[list[int]]], deadline_s: float) -> list[list[_Waiting]]:
        if self._closed:
            raise InspectorUnavailable("the encoder is closed")
        ahead = sum(len(one.ids) for one in self._waiting if not one.answer.done())
        if ahead + sum(len(ids) for windows in rows for ids in windows) > self._limit:
            raise InspectorUnavailable("encoder queue is full")
        loop = asyncio.get_running_loop()
        waiting = [[_Waiting(ids, deadline_s, loop.create_future()) for ids in windows] for windows in rows]
        self._waiting.extend(one for row in waiting for one in row)
        if self._running is None or self._running.done():
            self._running = loop.create_task(self._run(), name="encoder")
        return waiting

    async def _run(self) -> None:
        """Run what waits, batch by batch, until nothing does."""
        loop = asyncio.get_running_loop()
        network = self.load()  # loaded: nothing waits that it has not cut
        while batch := self._next(time.monotonic()):
            try:
                logits = await loop.run_in_executor(self._runner, network.logits, [one.ids for one in batch])
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
        """Take the next batch: the first in line and those after it while the size stays in bounds. Drops what nobody awaits."""
        batch: list[_Waiting] = []
        tokens = 0
        while self._waiting:
            one = self._waiting[0]
            if one.answer.done() or one.deadline_s <= now_s:
                self._waiting.popleft()
                continue
            tokens += len(one.ids)
            if batch and tokens > BATCH_TOKENS:
                break
            batch.append(self._waiting.popleft())
        return batch

    def close(self) -> None:
        """Stop the threads. Idempotent; requests in flight fail."""
        self._closed = True
        for pool in (self._cutter, self._runner):
            pool.shutdown(wait=False, cancel_futures=True)


def _sigmoid(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-max(-40.0, min(40.0, value))))
