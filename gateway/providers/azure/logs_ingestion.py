"""How do records reach a workspace where the security team asks its questions? Rows of Sentinel's ASIM AgentEvent 0.1.0 through a
data collection rule.

The rows are for reading, not for proof: a workspace cannot be asked what it holds, and a row may come twice (after a lost answer or a
crash). `EventOriginalUid` is `<origin>/<index>`, so a query can tell a repeated row; a row of type `checkpoint` follows each batch, and its
`AdditionalFields.Checkpoint` is the signed note.

Rows are made and compressed in a thread and handed to the SDK as they are to be sent: its own splitting would serialise them twice on
the event loop. The SDK's retries are off: the shipper's are the only ones.
"""

from __future__ import annotations

import asyncio
import gzip
import importlib
import io
from typing import Any, Final

import msgspec

from gateway.audit.export import to_asim
from gateway.audit.record import escape, parse
from gateway.ports import Held, Shipment, UpstreamError
from gateway.providers.azure.sdk_faults import CLOSED, Rejected, judge

MAX_CALL_BYTES: Final = 1_000_000  # of JSON before compression: the service takes 1 MB a call
_LEVEL: Final = 3  # of compression: six times smaller at a third of the time of the default
SCOPE: Final = "https://monitor.azure.com/.default"


def row(origin: str, index: int, record: bytes) -> bytes:
    """Return one record as a row of the stream, in JSON; one that does not parse is named by its hash alone."""
    made = to_asim(index, record, _fields(record))
    made["TimeGenerated"] = made.get("EventStartTime")
    made["EventOriginalUid"] = f"{origin}/{index}"
    return _json(made)


def checkpoint_row(shipment: Shipment) -> bytes:
    """Return the row that carries a shipment's checkpoint away."""
    size = int(shipment.checkpoint.split(b"\n", 2)[1])
    time = _fields(shipment.records[-1]).get("time")
    return _json(
        {
            "TimeGenerated": time,
            "EventSchema": "AgentEvent",
            "EventSchemaVersion": "0.1.0",
            "EventType": "checkpoint",
            "EventCount": 1,
            "EventStartTime": time,
            "EventEndTime": time,
            "EventResult": "Success",
            "EventOriginalUid": f"{shipment.origin}/checkpoint/{size}",
            "AdditionalFields": {"Checkpoint": shipment.checkpoint.decode(), "TreeSize": size},
        }
    )


def _fields(record: bytes) -> dict[str, Any]:
    try:
        return parse(record)
    except ValueError:
        return {"type": "unreadable"}


def _json(value: dict[str, Any]) -> bytes:
    return escape(msgspec.json.encode(value))


class LogsIngestion:
    """`ports.EvidenceSink` over one data collection rule and stream. Belongs to one event loop; one call at a time."""

    def __init__(
        self, *, endpoint: str, rule: str, stream: str, credential: Any, rejected: Rejected | None = None, scope: str = SCOPE, **sdk: Any
    ) -> None:
        """`endpoint`: of the rule or of its data collection endpoint; `rejected`: forgets the credential's token.

        Asks nobody. Raises `ImportError` without the `azure` extra.
        """
        ingestion: Any = importlib.import_module("azure.monitor.ingestion.aio")
        self._errors: Any = importlib.import_module("azure.core.exceptions")
        options = {"connection_timeout": 10, "read_timeout": 30, "credential_scopes": [scope], **CLOSED, **sdk}
        self._client: Any = ingestion.LogsIngestionClient(endpoint, credential, **options)
        self._credential = credential
        self._rejected = rejected
        self._rule = rule
        self._stream = stream
        self._taken: dict[str, int] = {}  # origin -> end of what this process has had accepted

    async def held(self, origin: str) -> Held | None:
        """Return None: a workspace only takes."""
        return None

    async def ship(self, shipment: Shipment) -> None:
        start = max(shipment.first, min(self._taken.get(shipment.origin, 0), shipment.end))
        if start == shipment.end:
            return
        rows = await asyncio.to_thread(_rows, shipment, start)
        try:
            await self._upload(shipment, rows, start)
        except (self._errors.AzureError, UpstreamError, OSError) as error:
            # SECURITY: `from None`: the fault may hold the request.
            raise judge(error, self._rejected) from None

    async def aclose(self) -> None:
        """Close the client and its credential."""
        await self._client.close()
        await self._credential.close()

    async def _upload(self, shipment: Shipment, rows: list[bytes], start: int) -> None:
        """Send rows in calls that fit, in order; what was accepted is not sent again by this process."""
        limit, at = MAX_CALL_BYTES, 0
        while at < len(rows):
            count = _fitting(rows, at, limit)
            body = await asyncio.to_thread(_compress, rows[at : at + count])
            try:
                await self._client.upload(self._rule, self._stream, io.BytesIO(body))
            except self._errors.HttpResponseError as error:
                if error.status_code != 413 or count == 1:
                    raise
                limit = max(1, sum(map(len, rows[at : at + count])) // 2)
                continue
            at += count
            self._taken[shipment.origin] = min(start + at, shipment.end)


def _rows(shipment: Shipment, start: int) -> list[bytes]:
    rows = [row(shipment.origin, index, record) for index, record in enumerate(shipment.records[start - shipment.first :], start)]
    return [*rows, checkpoint_row(shipment)]


def _fitting(rows: list[bytes], at: int, limit: int) -> int:
    """Return how many rows from `at` on fit into a call: at least one."""
    count, total = 0, 2
    for one in rows[at:]:
        total += len(one) + 1
        if count and total > limit:
            break
        count += 1
    return count


def _compress(rows: list[bytes]) -> bytes:
    return gzip.compress(b"[" + b",".join(rows) + b"]", _LEVEL, mtime=0)
