"""How does a record become durable, and how does the public log follow? The single writer's state and its three steps.

Must not know of event loops or queues. Used by one thread at a time.

Theory of operation
    commit   apply records to the tree in memory, sign a checkpoint, write one frame to the write-ahead segment, sync it.
             Only this makes a record durable; it costs one write and one sync for a whole batch.
    publish  put the tiles and bundles that changed, then the checkpoint. No sync: the write-ahead segments still hold
             everything since their base, so what a power cut takes from here is put again at the next start.
    seal     sync what was published up to a base, then drop the segments before it.
Recovery is the same code: load the edge at the base of the oldest segment, apply its frames, publish, seal.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import Final

from gateway.audit.record import OpenExchanges, base_frame, batch_frame
from gateway.audit.store import Store, write_all
from gateway.audit.tree import TILE_WIDTH, Edge, Signer, Tile, leaf_hash, tile_path

_FRAME_ROOM: Final = 4096  # header, count and signed checkpoint of a frame, amply
_PRUNE_AFTER_S: Final = 10.0  # a reader may still be following an older checkpoint


class Writer:
    """The tree, the open segment and what is yet to be published.

    INVARIANT: published size <= durable size <= `edge.size`; every index from the base of the oldest segment on is in a
    segment; every tile below that base is synced.
    """

    def __init__(self, store: Store, signer: Signer, *, edge: Edge, bundle: bytes, segment_bytes: int) -> None:
        self.store = store
        self.signer = signer
        self.edge = edge
        self.open = OpenExchanges()
        self.note = signer.sign(edge.size, edge.root())
        self.published = -1  # size of the last checkpoint put; -1: none yet
        self._bundle = bytearray(bundle)
        self._full_bundles: list[tuple[int, bytes]] = []
        self._segment_bytes = segment_bytes
        self._fd = -1
        self._at = self._end = 0
        self._unsynced: set[str] = set()
        self._partials: list[str] = []  # of the last checkpoint put
        self._bases: dict[int, list[str]] = {}  # segment -> the partial tiles its base is restored from
        self._prunable: deque[tuple[float, str]] = deque()
        self._sealing: threading.Thread | None = None
        self._sealed = -1
        self._seal_error: OSError | None = None

    # --- commit

    def apply(self, records: Sequence[bytes]) -> None:
        bundle, append, see = self._bundle, self.edge.append, self.open.see
        for index, record in enumerate(records, start=self.edge.size):
            append(leaf_hash(record))
            bundle += len(record).to_bytes(2, "big")
            bundle += record
            see(index, record)
            if index % TILE_WIDTH == TILE_WIDTH - 1:
                self._full_bundles.append((index // TILE_WIDTH, bytes(bundle)))
                bundle.clear()

    def commit(self, records: Sequence[bytes], now_s: float) -> None:
        """Make `records` durable. Raises `OSError`; after that nothing more may be asked of this writer."""
        need = sum(map(len, records)) + 2 * len(records) + _FRAME_ROOM
        if self._at + need > self._end:
            self.rotate(need, now_s)
        first = self.edge.size
        self.apply(records)
        note = self.signer.sign(self.edge.size, self.edge.root())
        frame = batch_frame(first, records, note)
        write_all(self._fd, frame)
        # CRASH: before the sync returns nobody was told; the next start takes the frame if it is whole and cuts it if not.
        self.store.fdatasync(self._fd)
        self._at += len(frame)
        self.note = note

    # --- publish

    def publish(self, now_s: float) -> None:
        """Put tiles, then the checkpoint that needs them. Raises `OSError`."""
        if self.published == self.edge.size:
            return
        for number, entries in self._full_bundles:
            self._put_full(tile_path(None, number), entries, now_s)
        for tile in self.edge.full:
            self._put_full(tile_path(tile.level, tile.number), tile.hashes, now_s)
        self._full_bundles.clear()
        self.edge.full.clear()
        partials = self._partial_tiles()
        for name, data in partials:
            self.store.put(name, data)
        self._partials = [name for name, _ in partials]
        # CRASH: here the tiles run ahead of the checkpoint; the segments hold the same records, so nothing is unaccounted for.
        self.store.put("checkpoint", self.note)
        self.published = self.edge.size
        self._prune(now_s)

    def _put_full(self, name: str, data: bytes, now_s: float) -> None:
        self.store.put(name, data)
        self._unsynced.add(name)
        self._prunable.append((now_s, name))

    def _partial_tiles(self) -> list[tuple[str, bytes]]:
        tiles: list[Tile] = self.edge.partial()
        partials = [(tile_path(tile.level, tile.number, tile.width), tile.hashes) for tile in tiles]
        if self._bundle:
            width = self.edge.size % TILE_WIDTH
            partials.append((tile_path(None, self.edge.size // TILE_WIDTH, width), bytes(self._bundle)))
        return partials

    def _prune(self, now_s: float) -> None:
        """Remove partial tiles whose full tile has long been there (C2SP tlog-tiles allows that and nothing earlier)."""
        keep = [name for names in self._bases.values() for name in names]
        while self._prunable and self._prunable[0][0] + _PRUNE_AFTER_S < now_s:
            _, name = self._prunable.popleft()
            if not self.store.remove_partials(name, keep):
                self._prunable.append((now_s, name))

    def catch_up(self) -> None:
        """Sign for what was applied without a commit."""
        self.note = self.signer.sign(self.edge.size, self.edge.root())

    def requeue(self, now_s: float) -> None:
        """Remember, after a start, the full tiles whose partial ones the run before may have left."""
        for level in (None, 0, 1, 2):
            full = self.edge.size >> (8 * ((level or 0) + 1))
            self._prunable.extend((now_s, tile_path(level, number)) for number in range(max(0, full - 64), full))

    # --- seal

    def rotate(self, need: int, now_s: float) -> None:
        """Begin a new segment at the present size; what is before it is sealed by a thread of its own, then dropped."""
        self.publish(now_s)
        self._begin(max(self._segment_bytes, need + _FRAME_ROOM))
        if self._sealing is None:
            base, names = self.edge.size, self._to_seal()
            self._sealing = threading.Thread(target=self._seal, args=(base, names), name="audit-seal", daemon=True)
            self._sealing.start()

    def begin(self) -> None:
        """Make the first segment of a new log."""
        self._begin(self._segment_bytes)

    def _begin(self, size: int) -> None:
        base = self.edge.size
        frame = base_frame(base, self.open.low_water(base), self.note)
        old = self._fd
        # CRASH: before the rename the old segment is the last one; after it the old one ends where the new one begins.
        self._fd, self._at = self.store.begin_segment(base, frame, size)
        self._end = size
        self._bases[base] = self._partials
        if old >= 0:
            self.store.close(old)

    def _to_seal(self) -> list[str]:
        names = [*self._unsynced, *self._partials, "checkpoint"]
        self._unsynced = set()
        return names

    def _seal(self, base: int, names: list[str]) -> None:
        try:
            self.store.sync(names)
        except OSError as error:
            self._seal_error = error
        else:
            self._sealed = base
            self._prepare()

    def _prepare(self) -> None:
        try:
            self.store.prepare(self._segment_bytes)
        except OSError:
            # A spare only saves time: the next segment is made without, and says itself when there is no room.
            self.store.discard_spare()

    def reap(self) -> None:
        """Finish a seal that ran beside us. Raises its `OSError`."""
        if self._sealing is None or self._sealing.is_alive():
            return
        self._sealing = None
        if self._seal_error is not None:
            raise self._seal_error
        self._drop(self._sealed)

    def _drop(self, base: int) -> None:
        # CRASH: some of them gone is as good as none: each that is left begins where an older one ended.
        self.store.drop_segments(base)
        for old in [first for first in self._bases if first < base]:
            del self._bases[old]

    def settle(self, now_s: float, segment_bytes: int | None = None) -> None:
        """Publish and seal all there is and begin an empty segment: the state right after a start and after a close."""
        if self._sealing is not None:
            self._sealing.join()
            self.reap()
        self.publish(now_s)
        self.store.sync(self._to_seal())
        if segment_bytes is None:
            self._prepare()
        self._begin(self._segment_bytes if segment_bytes is None else segment_bytes)
        self._drop(self.edge.size)

    def discard(self) -> None:
        """Let go of the descriptor; the files stay as they are."""
        if self._sealing is not None:
            self._sealing.join()
        if self._fd >= 0:
            self.store.close(self._fd)
            self._fd = -1
