"""How is a listener served? One function that makes a uvicorn server with every choice made, so that none is left to a default.

Must not bind sockets that the caller did not name, nor read the environment.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any

import httptools
import uvicorn
from uvicorn.config import Config

from gateway.http.head import Fault
from gateway.http.protocol import GuardedProtocol, Limits, guarded

TLS_HANDSHAKE_S = 5.0  # as long as a head may take: a handshake is no place to hide a slow client
_HTTPTOOLS_FLOOR = (0, 9)


class UnsafeServer(Exception):
    """The installed server stack, or its configuration, is not one this gateway may listen with."""


def require_httptools() -> None:
    """Check that llhttp is the parser in use. Raises `UnsafeServer`.

    SECURITY: h11 parsed smuggled requests out of 25 of 1,703 obfuscated Transfer-Encoding fields; this class refuses all, and
    only on top of httptools.
    """
    version = tuple(int(part) for part in httptools.__version__.split(".")[:2])
    if version < _HTTPTOOLS_FLOOR:
        raise UnsafeServer(f"httptools {httptools.__version__} is below 0.9: install the locked requirements")
    if getattr(GuardedProtocol.__mro__[1], "__module__", "") != "uvicorn.protocols.http.httptools_impl":
        raise UnsafeServer("the protocol class does not stand on httptools")


class GuardedServer(uvicorn.Server):
    """uvicorn's server on sockets given once, with a deadline for TLS handshakes."""

    def __init__(self, config: Config, sockets: Sequence[socket.socket] | None) -> None:
        super().__init__(config)
        self._given = list(sockets) if sockets else None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        await super().serve(sockets=sockets or self._given)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening; with TLS, bound how long a handshake may take (asyncio's default is 60 s)."""
        if self.config.ssl is None:
            await super().startup(sockets=sockets)
            return
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            raise UnsafeServer("the application did not start")
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {"ssl": self.config.ssl, "backlog": self.config.backlog, "ssl_handshake_timeout": TLS_HANDSHAKE_S}
        if sockets is None:
            self.servers = [await loop.create_server(self._connection, host=self.config.host, port=self.config.port, **options)]
        else:
            self.servers = [await loop.create_server(self._connection, sock=sock, **options) for sock in sockets]
        self.started = True

    def _connection(self) -> asyncio.Protocol:
        make: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)


def make_server(
    app: Any,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    sock: socket.socket | None = None,
    limits: Limits | None = None,
    on_malformed: Callable[[Fault], None] | None = None,
    request_id: Callable[[], str] | None = None,
    tls: ssl.SSLContext | None = None,
    lifespan: bool = False,
    loop: str = "auto",
    drain_s: float | None = 30.0,
    backlog: int = 2048,
) -> GuardedServer:
    """Return a server for `app` on `sock` (bound by the caller) or on `host` and `port`. Await `serve()` or call `run()`.

    `drain_s`: how long exchanges may go on after a stop is asked for; None waits without end. `loop`: auto, uvloop, asyncio.
    """
    require_httptools()
    config = Config(
        app,
        host=host,
        port=port,
        http=guarded(limits or Limits(), on_malformed=on_malformed, request_id=request_id),
        ws="none",
        loop=loop,
        lifespan="on" if lifespan else "off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # SECURITY: X-Forwarded-* is a claim of the client's; a terminator is believed elsewhere, by peer
        server_header=False,
        date_header=True,
        workers=1,
        backlog=backlog,
        limit_concurrency=None,
        timeout_graceful_shutdown=None if drain_s is None else max(1, round(drain_s)),
        ssl_context_factory=None if tls is None else (lambda _config, _default: tls),
    )
    return GuardedServer(config, None if sock is None else [sock])
