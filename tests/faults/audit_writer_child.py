"""A small gateway's worth of audit log, to be killed: acknowledges each durable record on standard output."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.audit import record
from gateway.audit.log import AuditLog


async def main(directory: Path, origin: str, key: str, run: str) -> None:
    private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(key))
    log = AuditLog.open(directory, origin=origin, key=private, now=time.time, publish_interval_s=0.005, segment_bytes=128 << 10)
    await log.start()
    os.write(1, b"ready\n")

    async def client(number: int) -> None:
        for i in range(10**6):
            name = f"{run}-{number}-{i}"
            index = await log.append(record.encode({"type": "opened", "request_id": name, "padding": "x" * (i % 300)})).wait()
            os.write(1, f"{index} {name}\n".encode())
            log.append(record.encode({"type": "closed", "request_id": name, "outcome": "finished"}), soon=False)

    await asyncio.gather(*map(client, range(16)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), *sys.argv[2:5]))
