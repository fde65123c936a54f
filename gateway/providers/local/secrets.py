"""Where does a secret reference lead? `env:NAME` and `file:/path`; other schemes are other providers' business.

A secret's value never enters an error, a log or a `repr`.
"""

from __future__ import annotations

import os
from pathlib import Path

MAX_SECRET_BYTES = 65_536


class SecretMissing(Exception):
    """A reference leads nowhere. The message names the reference, never a value."""


class Secret:
    """Bytes that do not print."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        return self._value

    def __repr__(self) -> str:
        return "Secret(...)"


def resolve(reference: str) -> Secret:
    """Return the secret a reference names. Raises `SecretMissing`."""
    scheme, _, rest = reference.partition(":")
    if scheme == "env":
        value = os.environ.get(rest)
        if not value:
            raise SecretMissing(f"`{reference}`: the environment variable is not set")
        return Secret(value.encode())
    if scheme == "file":
        try:
            data = Path(rest).read_bytes()
        except OSError as error:
            raise SecretMissing(f"`{reference}`: {error.strerror or 'cannot be read'}") from error
        if not data or len(data) > MAX_SECRET_BYTES:
            raise SecretMissing(f"`{reference}`: the file is empty or larger than 64 KiB")
        return Secret(data.strip())
    raise SecretMissing(f"`{reference}`: no provider for `{scheme}:` is configured")
