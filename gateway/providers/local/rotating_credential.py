"""How is a backend's key shown to it while the key may be replaced? As one header, made anew for each new value, never for a request.

A backend that does not accept the key is a reason to ask the key's source whether there is a newer one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from gateway.evidence import Subject
from gateway.ports import CallerHeaders, Secret, SecretMissing
from gateway.providers.local.static_credential import StaticCredential

_USABLE: Final = re.compile(rb"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")

Headers = tuple[tuple[bytes, bytes], ...]


class RotatingCredential:
    """`BackendCredential` over a secret that lives elsewhere. `suspect` is called when the backend answers 401. Does not print."""

    __slots__ = ("_header", "_reference", "_suspect", "held")
    personal = False

    def __init__(self, reference: str, header: str, secret: Secret, suspect: Callable[[], None]) -> None:
        """Raises `SecretMissing` for a value that cannot be a header's."""
        self._reference = reference
        self._header = header
        self._suspect = suspect
        self.held: Headers = ()
        self.take(secret)

    def take(self, secret: Secret) -> None:
        """Use a new value from now on. Raises `SecretMissing` for one that cannot be a header's; the old one stays then."""
        key = secret.reveal()
        # SECURITY: a control character would end the header and begin another.
        if _USABLE.fullmatch(key) is None:
            raise SecretMissing(f"`{self._reference}`: holds a character that a header cannot")
        self.held = StaticCredential(self._header, key).held

    async def headers(self, subject: Subject, caller: CallerHeaders | None, now_s: float) -> Headers:
        """Return the key's header. Never raises."""
        return self.held

    def rejected(self, subject: Subject, now_s: float) -> None:
        """Ask whether there is a newer key."""
        self._suspect()

    async def ready(self, now_s: float) -> bool:
        return True

    async def aclose(self) -> None:
        """Nothing is under way."""
