"""How much of everything a backend connection may use: sizes, counts, times. Every limit carries its reason."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds on one backend's pool and on each of its answers."""

    max_connections: int = 128  # the bulkhead: one slow backend can hold no more than this
    max_waiting: int = 64  # callers waiting for a connection; beyond it the answer is "overloaded" at once
    head_bytes: int = 32_768  # nginx allows 4 x 8 KiB
    head_fields: int = 100  # Apache's LimitRequestFields default
    informational: int = 8  # 1xx heads before the final one
    body_bytes: int = 32 * 1024 * 1024  # a 2,048 x 3,072 embeddings answer in decimal text fits
    buffer_bytes: int = 65_536  # unread body at which the socket is paused; one read (at most 256 KiB) may exceed it


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds for each phase of an exchange. Precise to the pool's tick, 50 ms."""

    pool_s: float = 1.0  # waiting for a free connection
    connect_s: float = 3.0  # name resolution, TCP and TLS together
    send_s: float = 15.0  # until the kernel has taken the whole request
    head_s: float = 60.0  # from there to the response head; a model may think that long
    first_byte_s: float = 60.0  # from the head to the first body byte
    idle_s: float = 30.0  # between reads of a body: the inter-token timeout
    total_s: float = 300.0  # the whole exchange, whatever trickles
    keep_alive_s: float = 30.0  # an unused connection; model servers commonly keep theirs 5 to 75 s
