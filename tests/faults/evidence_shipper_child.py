"""A process that ships a log and dies where it is told to: `DIRECTORY LOG CONTAINER|- when` (CONNECTION in the environment)."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

from gateway.audit.shipper import Shipper
from gateway.audit.shipping import Bounds
from gateway.ports import Held, Shipment
from gateway.providers.azure.append_blobs import AppendBlobs
from gateway.providers.local.evidence_directory import EvidenceDirectory


class Deadly:
    """Kills the process with the signal no handler sees, before or after the second shipment reached the sink."""

    def __init__(self, sink: Any, when: str) -> None:
        self._sink = sink
        self._when = when
        self._seen = 0

    async def held(self, origin: str) -> Held | None:
        return await self._sink.held(origin)

    async def ship(self, shipment: Shipment) -> None:
        self._seen += 1
        if self._when == "during" and self._seen == 2:
            task = asyncio.ensure_future(self._sink.ship(shipment))
            await asyncio.sleep(0.002)
            os.kill(os.getpid(), signal.SIGKILL)
            await task
        await self._sink.ship(shipment)
        if self._when == "after" and self._seen == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    async def aclose(self) -> None:
        await self._sink.aclose()


async def main(directory: str, log: str, container: str, when: str, key: str) -> None:
    sink: Any = EvidenceDirectory(Path(directory))
    if container != "-":
        sink = AppendBlobs(container=container, connection=os.environ["CONNECTION"])
    made = Shipper("second", Deadly(sink, when), Path(log), key, bounds=Bounds(40, 1 << 20))
    while await made.step() == 0.1:
        pass
    await sink.aclose()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
