"""Where does a secret reference lead on this machine? `env:NAME` and `file:/path`; other schemes are other providers' business.

A file may be replaced while the gateway runs, as Kubernetes and the Secrets Store CSI driver do by swapping a link: it is read
again every few seconds. A secret's value never enters an error, a log or a `repr`.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from gateway.ports import Secret, SecretMissing

__all__ = ["MAX_SECRET_BYTES", "EnvSecrets", "FileSecrets", "Secret", "SecretMissing", "resolve"]

MAX_SECRET_BYTES: Final = 65_536
FILE_S: Final = 5.0


def resolve(reference: str) -> Secret:
    """Return the secret that an `env:` or `file:` reference names. Raises `SecretMissing`."""
    scheme, _, rest = reference.partition(":")
    if scheme == "env":
        return _of_environment(reference, rest, os.environ)
    if scheme == "file":
        return _of_file(reference, Path(rest))
    raise SecretMissing(f"`{reference}`: no provider for `{scheme}:` is configured")


def _of_environment(reference: str, name: str, environ: Mapping[str, str]) -> Secret:
    value = environ.get(name)
    if not value:
        raise SecretMissing(f"`{reference}`: the environment variable is not set")
    return Secret(value.encode("utf-8", "surrogateescape"))


def _of_file(reference: str, path: Path) -> Secret:
    try:
        # What is not a regular file could block for ever, and have no end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise SecretMissing(f"`{reference}`: is not a regular file")
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            data = file.read(MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise SecretMissing(f"`{reference}`: {error.strerror or 'cannot be read'}") from None
    value = data.strip()
    if not value or len(data) > MAX_SECRET_BYTES:
        raise SecretMissing(f"`{reference}`: the file is empty or larger than 64 KiB")
    return Secret(value, version=f"{status.st_mtime_ns:x}-{status.st_ino:x}")


class EnvSecrets:
    """`SecretSource` for `env:NAME`. The environment of a process does not change from outside."""

    refresh_s: Final = 0.0

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._environ = environ

    async def fetch(self, reference: str) -> Secret:
        """Return the variable's value. Raises `SecretMissing`."""
        return _of_environment(reference, reference.removeprefix("env:"), self._environ)

    async def aclose(self) -> None:
        """Nothing is under way."""


class FileSecrets:
    """`SecretSource` for `file:/path`. A file that is empty for a moment, while someone writes it, is no new value."""

    def __init__(self, refresh_s: float = FILE_S) -> None:
        self.refresh_s: Final = refresh_s

    async def fetch(self, reference: str) -> Secret:
        """Return the file's content without surrounding white space. Raises `SecretMissing`."""
        return await asyncio.to_thread(_of_file, reference, Path(reference.removeprefix("file:")))

    async def aclose(self) -> None:
        """Nothing is under way."""
