"""Builds audit logs for tests: by the real writer, into a directory of the test's own."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.audit import record
from gateway.audit.log import AuditLog

ORIGIN = "gateway.example/audit"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))


def clock() -> Callable[[], float]:
    ticks = itertools.count(1_790_000_000)
    return lambda: float(next(ticks))


def opened(request_id: str, **more: Any) -> bytes:
    return record.encode({"type": "opened", "request_id": request_id, "tenant": "acme", "subject": "5" * 32, "route": "assistant", **more})


def closed(request_id: str, **more: Any) -> bytes:
    return record.encode({"type": "closed", "request_id": request_id, "tenant": "acme", "outcome": "finished", **more})


def open_log(directory: Path, **options: Any) -> AuditLog:
    return AuditLog.open(directory, **{"origin": ORIGIN, "key": KEY, "now": clock(), "publish_interval_s": 0.01, **options})


async def fill(log: AuditLog, exchanges: int, *, prefix: str = "r", unclosed: int = 0) -> list[int]:
    """Append `exchanges` whole exchanges, then `unclosed` ones, and wait for all. Returns the indices."""
    tickets = []
    for i in range(exchanges):
        tickets.append(log.append(opened(f"{prefix}{i}")))
        tickets.append(log.append(closed(f"{prefix}{i}")))
        if i % 32 == 31:
            await tickets[-1].wait()
    tickets += [log.append(opened(f"{prefix}open{i}")) for i in range(unclosed)]
    return [await ticket.wait() for ticket in tickets]


def verifier_key(directory: Path) -> str:
    return (directory / "key.pub").read_text().strip()
