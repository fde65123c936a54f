"""How do shipped records get into a container where nothing can be changed afterwards? One append blob an origin and period.

Every append states the position it belongs at, so two writers, or one that comes back after a crash, can neither interleave nor
double a record: the second one is told 412, looks where the blob ends, and goes on there or is refused. A full or past blob is
sealed. Checkpoints ride in each block and are written beside as small blobs of their own; nothing is ever overwritten, so a container
whose time-based immutability policy allows protected append writes takes all of it.

The SDK's own retries are off: the shipper's are the only ones.
"""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from gateway.audit import segments
from gateway.audit.segments import NotASegment, Segment
from gateway.audit.tree import leaf_hash
from gateway.ports import Held, Shipment, SinkRefused, SinkUnavailable, UpstreamError
from gateway.providers.azure.sdk_faults import CLOSED, Rejected, judge

_TRIES: Final = 3  # at a place another writer moved meanwhile
MAX_BLOB_BYTES: Final = 100 << 30  # half of what an append blob takes with blocks of 4 MiB
_MOVED: Final = frozenset(("BlobIsSealed", "BlobAlreadyExists"))


class _Place(NamedTuple):
    """The end of the newest blob."""

    segment: Segment
    size: int
    blocks: int
    sealed: bool
    held: Held


class AppendBlobs:
    """`ports.EvidenceSink` over one container. Belongs to one event loop; one call at a time."""

    def __init__(
        self,
        *,
        container: str,
        endpoint: str = "",
        credential: Any = None,
        rejected: Rejected | None = None,
        connection: str = "",
        hourly: bool = False,
        checkpoint_s: float = 60.0,
        max_bytes: int = MAX_BLOB_BYTES,
        now: Callable[[], float] = time.time,
        **sdk: Any,
    ) -> None:
        """Either `endpoint` (the account's blob URL) with a token `credential`, whose token `rejected` forgets, or a `connection` string.

        Asks nobody. Raises `ImportError` without the `azure` extra, `ValueError` for a connection string that is none.
        """
        blob: Any = importlib.import_module("azure.storage.blob.aio")
        self._errors: Any = importlib.import_module("azure.core.exceptions")
        self._missing: Any = importlib.import_module("azure.core").MatchConditions.IfMissing
        options = {"connection_timeout": 10, "read_timeout": 30, **CLOSED, **sdk}
        if connection:
            self._container: Any = blob.ContainerClient.from_connection_string(connection, container, **options)
        else:
            self._container = blob.ContainerClient(endpoint, container, credential=credential, **options)
        self._credential = credential
        self._rejected = rejected
        self._hourly = hourly
        self._checkpoint_s = checkpoint_s
        self._max_bytes = max_bytes
        self._now = now
        self._place: _Place | None = None  # None: not known, look
        self._noted_s = float("-inf")

    async def held(self, origin: str) -> Held | None:
        self._place = None
        try:
            self._place = await self._look(origin)
        except NotASegment as error:
            raise SinkRefused(str(error)) from error
        except (self._errors.AzureError, UpstreamError, OSError) as error:
            # SECURITY: `from None`: the fault may hold the request.
            raise judge(error, self._rejected) from None
        return self._place.held if self._place is not None else Held(0)

    async def ship(self, shipment: Shipment) -> None:
        # INVARIANT: whatever ends this call early, a cancellation too, the place is looked for anew before the next append.
        place, self._place = self._place, None
        try:
            self._place = await self._ship(shipment, place)
        except NotASegment as error:
            raise SinkRefused(str(error)) from error
        except (self._errors.AzureError, UpstreamError, OSError) as error:
            # SECURITY: `from None`: the fault may hold the request.
            raise judge(error, self._rejected) from None

    async def aclose(self) -> None:
        """Close the client and its credential."""
        await self._container.close()
        if self._credential is not None:
            await self._credential.close()

    # --- one shipment

    async def _ship(self, shipment: Shipment, place: _Place | None) -> _Place | None:
        for _ in range(_TRIES):
            try:
                place = place or await self._look(shipment.origin)
                start = segments.rest(shipment, place.held if place is not None else Held(0))
                if start == shipment.end:
                    return place
                place = await self._append(await self._open(shipment.origin, place, start), shipment, start)
            except self._errors.HttpResponseError as error:
                # A condition not met (412) has no code where the answer has no body.
                if error.status_code != 412 and str(getattr(error, "error_code", "") or "") not in _MOVED:
                    raise
                place = None  # another writer was there, or our own append whose answer was lost
                continue
            await self._note(shipment)
            return place
        raise SinkUnavailable("another writer moves the blob")

    async def _append(self, place: _Place, shipment: Shipment, start: int) -> _Place:
        data = segments.lines(shipment, start)
        blob = self._container.get_blob_client(place.segment.name)
        await blob.append_block(data, length=len(data), appendpos_condition=place.size)
        # CRASH: appended and nobody knows: the next look finds the blob's end, and the records are not sent again.
        after = Held(shipment.end, leaf_hash(shipment.records[-1]))
        return place._replace(size=place.size + len(data), blocks=place.blocks + 1, held=after)

    async def _open(self, origin: str, place: _Place | None, start: int) -> _Place:
        """Return where to append, with its blob made; a blob that is full or of a past period is sealed first."""
        now = segments.period(self._now(), hourly=self._hourly)
        if place is not None:
            full = segments.due(place.segment, bytes_held=place.size, blocks=place.blocks, now=now, max_bytes=self._max_bytes)
            if not place.sealed and not full:
                return place
            if not place.sealed:
                # CRASH: sealed and nothing new begun: the next look finds the sealed blob's end and begins the next there.
                await self._container.get_blob_client(place.segment.name).seal_append_blob(appendpos_condition=place.size)
            now = max(now, place.segment.period)
        segment = segments.segment(origin, now, start)
        blob = self._container.get_blob_client(segment.name)
        await blob.create_append_blob(match_condition=self._missing)
        return _Place(segment, 0, 0, False, Held(start))

    async def _note(self, shipment: Shipment) -> None:
        """Put the checkpoint beside, now and then. One that is there already says the same."""
        if self._now() - self._noted_s < self._checkpoint_s:
            return
        size = int(shipment.checkpoint.split(b"\n", 2)[1])
        with contextlib.suppress(self._errors.ResourceExistsError):
            await self._container.upload_blob(segments.note_name(shipment.origin, size), shipment.checkpoint, overwrite=False)
        self._noted_s = self._now()

    # --- where the newest blob ends

    async def _look(self, origin: str) -> _Place | None:
        segment = await self._newest(origin)
        if segment is None:
            return None
        blob = self._container.get_blob_client(segment.name)
        properties = await blob.get_blob_properties()
        size = int(properties.size)
        start = max(0, size - segments.TAIL_BYTES)
        tail = b""
        if size:
            reader = await blob.download_blob(offset=start, length=size - start, max_concurrency=1)
            tail = await reader.readall()
            if len(tail) != size - start:
                raise SinkUnavailable("the blob's end came incomplete")
        held = segments.held(segment, tail, whole=start == 0)
        blocks = int(properties.append_blob_committed_block_count or 0)
        return _Place(segment, size, blocks, bool(properties.is_append_blob_sealed), held)

    async def _newest(self, origin: str) -> Segment | None:
        """Return the last segment by name, walking down from the year: a list of every blob ever written is never asked for."""
        root = f"{segments.folder(origin)}/"
        years = [item.name async for item in self._container.walk_blobs(root) if item.name != f"{root}checkpoints/"]
        return await self._last_below(origin, years, 3)

    async def _last_below(self, origin: str, names: list[str], depth: int) -> Segment | None:
        for name in sorted(names, reverse=True):
            if depth == 0:
                return segments.parse_name(origin, name)
            below = [item.name async for item in self._container.walk_blobs(name)]
            found = await self._last_below(origin, below, depth - 1)
            if found is not None:
                return found
        return None
