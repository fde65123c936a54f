"""A TLS server on loopback for real SDKs: threads of its own, a certificate authority of its own, and answers a subclass writes.

It holds connections on request (`hold`) and lets them go when it stops. Requests are kept in `seen`.
"""

from __future__ import annotations

import json
import ssl
import tempfile
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import trustme


class Request:
    def __init__(self, method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        parts = urlsplit(target)
        self.method = method
        self.path = parts.path
        self.query = {k: v[0] for k, v in parse_qs(parts.query).items()}
        self.headers = headers
        self.body = body

    def json(self) -> Any:
        return json.loads(self.body)


class Reply:
    def __init__(self, status: int, body: Any = b"", headers: Sequence[tuple[str, str]] = ()) -> None:
        self.status = status
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.headers = tuple(headers)


class TlsEmulator:
    """Subclasses answer in `reply`; None drops the connection without a word."""

    hosts: tuple[str, ...] = ("localhost", "127.0.0.1")

    def __init__(self) -> None:
        self.fault = ""  # what every request meets
        self.faults: list[str] = []  # what the next ones meet, before `fault`
        self.seen: list[Request] = []
        self.active = 0
        self.most_active = 0
        self.lock = threading.Lock()
        self.stopping = threading.Event()

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory()
        ca = trustme.CA()
        self.ca_file = str(Path(self._folder.name) / "ca.pem")
        ca.cert_pem.write_to_path(self.ca_file)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert(*self.hosts).configure_cert(context)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # a client that hangs up is what some tests are about
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.port = self._server.server_port
        self.url = f"https://127.0.0.1:{self.port}"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._folder.cleanup()

    def take_fault(self) -> str:
        with self.lock:
            return self.faults.pop(0) if self.faults else self.fault

    def hold(self, seconds: float) -> None:
        self.stopping.wait(seconds)

    def reply(self, request: Request) -> Reply | None:
        raise NotImplementedError


def _handler(emulator: TlsEmulator) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def log_message(self, *_: Any) -> None: ...

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            request = Request(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body)
            with emulator.lock:
                emulator.seen.append(request)
                emulator.active += 1
                emulator.most_active = max(emulator.active, emulator.most_active)
            try:
                reply = emulator.reply(request)
            finally:
                with emulator.lock:
                    emulator.active -= 1
            if reply is None:
                self.close_connection = True
                return
            self.send_response(reply.status)
            for name, value in (("content-type", "application/json"), *reply.headers, ("content-length", str(len(reply.body)))):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)

        do_GET = do_POST = _answer

    return Handler
