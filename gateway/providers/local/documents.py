"""How are the small public documents of an issuer fetched? One bounded GET, no redirect, no proxy, no cookie, no retry.

https with the system's trust (or a given one), http to loopback alone. Anything but a plain 200 within its size and time is
an `OSError`. The parser is the strict one the gateway's own listener uses, on a connection that serves one request.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import ssl
from typing import Final
from urllib.parse import SplitResult, urlsplit

import httptools

_MAX_HEAD: Final = 32 * 1024
_READ: Final = 16 * 1024
_URL: Final = re.compile(r"[!-~]{1,2048}")


class HttpsDocuments:
    """`DocumentSource` over asyncio streams. Holds no connection between calls."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls or ssl.create_default_context()
        self._tls.minimum_version = max(self._tls.minimum_version, ssl.TLSVersion.TLSv1_2)

    async def fetch(self, url: str, *, max_bytes: int, timeout_s: float) -> bytes:
        """Return the body of a GET on `url`. Idempotent. Raises `OSError`, `TimeoutError` among its kinds."""
        parts, host, port = _target(url)
        async with asyncio.timeout(timeout_s):
            reader, writer = await self._connect(parts, host, port)
            try:
                writer.write(_request(parts))
                await writer.drain()
                return await _read(reader, max_bytes)
            finally:
                writer.transport.abort()  # one request a connection; nobody waits for a polite end

    async def _connect(self, parts: SplitResult, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if parts.scheme == "http":
            return await asyncio.open_connection(host, port, limit=_READ)
        try:
            return await asyncio.open_connection(host, port, ssl=self._tls, server_hostname=host, limit=_READ)
        except ssl.CertificateError as fault:
            raise OSError(f"the certificate is not trusted: {fault.reason or 'name'}") from None


class _Answer:
    """What httptools calls back into."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.body = bytearray()
        self.complete = False
        self.fault = ""

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-encoding" and value.strip().lower() != b"identity":
            self.fault = "an encoded body"
        if name.lower() == b"content-length" and (not value.isdigit() or len(value) > 12 or int(value) > self.max_bytes):
            self.fault = "a body over the limit"

    def on_body(self, data: bytes) -> None:
        if len(self.body) + len(data) > self.max_bytes:
            self.fault = "a body over the limit"
        else:
            self.body += data

    def on_message_complete(self) -> None:
        self.complete = True


def _target(url: str) -> tuple[SplitResult, str, int]:
    if _URL.fullmatch(url) is None:
        raise OSError("not a plain URL")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise OSError("not a plain URL") from None
    host = parts.hostname
    if not host or parts.username is not None or parts.password is not None or parts.scheme not in ("http", "https"):
        raise OSError("only https URLs, and http to loopback, are fetched")
    if parts.scheme == "http":
        # SECURITY: the literal address, so that no resolver can send a plain-text fetch elsewhere.
        host = "127.0.0.1" if host == "localhost" else host
        if not _is_loopback(host):
            raise OSError("http is for loopback alone")
    return parts, host, port or (443 if parts.scheme == "https" else 80)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _request(parts: SplitResult) -> bytes:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    head = (f"GET {target} HTTP/1.1", f"host: {parts.netloc}")
    fixed = ("accept: application/json", "accept-encoding: identity", "connection: close", "", "")
    return "\r\n".join((*head, *fixed)).encode("ascii")


async def _read(reader: asyncio.StreamReader, max_bytes: int) -> bytes:
    answer = _Answer(max_bytes)
    parser = httptools.HttpResponseParser(answer)
    received = 0
    while not answer.complete:
        data = await reader.read(_READ)
        received += len(data)
        if not data:
            # SECURITY: a body that only the connection's end ends cannot be told from one that was cut short; both are refused.
            raise OSError("the answer was cut off, or has no length")
        try:
            parser.feed_data(data)
        except httptools.HttpParserError:
            raise OSError("the answer is not well-formed HTTP") from None
        if parser.get_status_code() not in (0, 200):
            raise OSError(f"the answer is {parser.get_status_code()}, not 200")
        if answer.fault or received > max_bytes + _MAX_HEAD:
            raise OSError(f"the answer has {answer.fault or 'too much of everything'}")
    return bytes(answer.body)
