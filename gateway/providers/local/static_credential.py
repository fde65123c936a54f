"""How is a backend's key shown to it? As one header, made once: the credential that needs nobody else.

It is also the plainest `BackendCredential`, by which the others are measured.
"""

from __future__ import annotations

from gateway.evidence import Subject
from gateway.ports import CallerHeaders


class StaticCredential:
    """A key in a header. `held` is what a synchronous caller takes; it does not print."""

    __slots__ = ("held",)
    personal = False

    def __init__(self, header: str, key: bytes) -> None:
        name = header.encode("ascii")
        self.held: tuple[tuple[bytes, bytes], ...] = ((name, b"Bearer " + key if name == b"authorization" else key),)

    async def headers(self, subject: Subject, caller: CallerHeaders | None, now_s: float) -> tuple[tuple[bytes, bytes], ...]:
        """Return the key's header. Never raises."""
        return self.held

    def rejected(self, subject: Subject, now_s: float) -> None:
        """There is no other key to be had."""

    async def ready(self, now_s: float) -> bool:
        return True

    async def aclose(self) -> None:
        """Nothing is under way."""
