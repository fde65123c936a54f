"""How is a request put to one backend? Built from nothing, written once, over a bounded keep-alive pool.

It follows no redirect, reads no environment, decodes no encoding and resolves no name while a connection is at hand.
It must not retry: that is for whoever knows what was already sent. Specification: RFC 9110, RFC 9112.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import ssl
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from gateway.ports import UpstreamError
from gateway.upstream.bounds import Limits, Timeouts
from gateway.upstream.pool import Pool
from gateway.upstream.response import Response

_TARGET = re.compile(r"/[!-~]*")  # visible ASCII alone: no blank, no control, nothing to split a request line with
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # token, RFC 9110 section 5.6.2
_OURS = frozenset(
    {b"host", b"content-length", b"transfer-encoding", b"connection", b"accept-encoding", b"te", b"trailer", b"upgrade", b"expect"}
)
# Names that the forwarder and its credentials use: checked here once, not with every request.
_GOOD_NAMES = frozenset({b"content-type", b"accept", b"user-agent", b"x-request-id", b"traceparent", b"authorization", b"api-key"})
_PATHS = 4_096


def tls_context() -> ssl.SSLContext:
    """Return a context that verifies certificates and names and offers HTTP/1.1 alone."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


class BackendClient:
    """A client for one backend. `base_url` is `http(s)://host[:port][/prefix]`, from settings only.

    Plaintext beyond loopback raises `ValueError` unless `unsafe_plaintext`; so does a TLS context that does not verify.
    """

    def __init__(
        self,
        base_url: str,
        *,
        tls: ssl.SSLContext | None = None,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        unsafe_plaintext: bool = False,
    ) -> None:
        url = urlsplit(base_url)
        host = url.hostname
        if url.scheme not in ("http", "https") or not host or url.username is not None or url.query or url.fragment:
            raise ValueError("a backend url is http(s)://host[:port][/prefix] and nothing else")
        prefix = url.path.rstrip("/")
        if prefix and not _TARGET.fullmatch(prefix):
            raise ValueError("a backend url's path must be visible ascii")
        secure = url.scheme == "https"
        if not secure and not unsafe_plaintext and not _names_loopback(host):
            raise ValueError("plaintext to a backend beyond loopback: use https")
        if secure:
            tls = tls or tls_context()
            if tls.verify_mode is not ssl.CERT_REQUIRED or not tls.check_hostname:
                raise ValueError("the tls context of a backend must verify certificate and name")
        port = url.port or (443 if secure else 80)
        shown = f"[{host}]" if ":" in host else host
        authority = shown if port == (443 if secure else 80) else f"{shown}:{port}"
        self.base_url = base_url
        self.limits = limits or Limits()
        self.timeouts = timeouts or Timeouts()
        self.pool = Pool(host, port, tls=tls if secure else None, limits=self.limits, loopback_only=not secure and not unsafe_plaintext)
        self._prefix = prefix
        self._lines: dict[str, bytes] = {}  # checked paths -> the lines every request to one begins with; paths come from settings
        self._fixed = f"host: {authority}\r\naccept-encoding: identity\r\n".encode("ascii")

    def __repr__(self) -> str:
        return f"<BackendClient {self.pool!r}>"

    async def post(
        self,
        path: str,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes,
        *,
        timeouts: Timeouts | None = None,
        deadline_s: float | None = None,
    ) -> Response:
        """Send one request and return its answer as soon as the head is there. Not idempotent; never repeated here.

        `deadline_s` (monotonic) can only shorten `timeouts.total_s`. The caller must `aclose` the answer on every path.
        Raises `UpstreamError`: `pool` and `connect` mean that nothing was sent, `timeout` names its phase in `detail`.
        Raises `ValueError` for a path or header that could not be written as one request.
        """
        bounds = timeouts or self.timeouts
        request = self._request(path, headers, body)
        now_s = time.monotonic()
        total_s = now_s + bounds.total_s
        if deadline_s is not None and deadline_s < total_s:
            total_s = deadline_s
            if total_s <= now_s:
                raise UpstreamError("timeout", "total")
        connection = self.pool.take()
        if connection is None:
            connection = await self.pool.acquire(bounds, total_s)
            now_s = time.monotonic()
        response = Response()
        connection.send(request, response, bounds, total_s, now_s)
        try:
            await response.head()
        except asyncio.CancelledError:
            response.close()
            raise
        return response

    async def warm(self) -> None:
        """Open one connection and keep it: shows that the backend can be reached. Raises `UpstreamError`."""
        connection = await self.pool.acquire(self.timeouts, time.monotonic() + self.timeouts.total_s)
        self.pool.freed(connection)

    async def aclose(self) -> None:
        await self.pool.aclose()

    def _request(self, path: str, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> bytes:
        line = self._lines.get(path)
        if line is None:
            if not _TARGET.fullmatch(path):
                raise ValueError("a request path must begin with / and hold visible ascii only")
            line = f"POST {self._prefix}{path} HTTP/1.1\r\n".encode("ascii") + self._fixed
            if len(self._lines) < _PATHS:
                self._lines[path] = line
        parts = [line]
        for name, value in headers:
            if name not in _GOOD_NAMES and (name.lower() in _OURS or not _NAME.fullmatch(name)):
                raise ValueError("a request header's name is reserved or malformed")
            parts += (name, b": ", value, b"\r\n")
        parts.append(b"content-length: %d\r\n\r\n" % len(body))
        head = b"".join(parts)
        # SECURITY: a line break inside a value would be a second header or a second request.
        lines = len(headers) + 5
        if head.count(b"\n") != lines or head.count(b"\r") != lines or b"\0" in head:
            raise ValueError("a request header's value holds a control character")
        return head + body


def _names_loopback(host: str) -> bool:
    if host == "localhost":
        return True  # what it resolved to is checked again once connected
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
