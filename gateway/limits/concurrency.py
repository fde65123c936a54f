"""How many exchanges are under way? Slots held by name until they are freed or expire.

Sans-I/O. An expired slot belonged to a process that died or an exchange that overran its lease; it no longer counts. What
else was reserved with it stays charged: usage nobody reported is never zero.
"""

from __future__ import annotations

import msgspec


class Held(msgspec.Struct, frozen=True):
    """One lease as an account remembers it: what settling needs and the caller cannot be asked for."""

    expires_us: int
    mark_us: int  # of the token bucket
    tokens: int
    tokens_per_minute: int
    day: int


class Slots:
    """The leases of one account."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: dict[str, Held] = {}

    def __len__(self) -> int:
        return len(self._held)

    def full(self, cap: int, now_us: int) -> bool:
        """Return whether no slot is free, after letting go of those that expired."""
        if len(self._held) >= cap:
            self.reap(now_us)
        return len(self._held) >= cap

    def hold(self, lease_id: str, held: Held) -> None:
        self._held[lease_id] = held

    def free(self, lease_id: str, now_us: int) -> Held | None:
        """Let go of a lease. None when it is not held: settled before, expired, or never granted."""
        held = self._held.pop(lease_id, None)
        return None if held is None or held.expires_us <= now_us else held

    def reap(self, now_us: int) -> None:
        """Let go of every lease that expired."""
        for lease_id in [lease_id for lease_id, held in self._held.items() if held.expires_us <= now_us]:
            del self._held[lease_id]
