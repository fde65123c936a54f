"""A Logs Ingestion endpoint of our own on loopback, over TLS, for the real SDK.

with LogsIngestionEmulator() as service:   # a thread of its own
    service.faults.append("throttled")     # what the next upload meets; `service.fault` meets them all

It checks what the service would: the path, a bearer token, gzip, a JSON array, the size before compression, the columns of a stream.
"""

from __future__ import annotations

import gzip
import json
import re
import ssl
import tempfile
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import trustme

RULE = "dcr-0123456789abcdef0123456789abcdef"
STREAM = "Custom-GatewayAgentEvent"
MAX_BYTES = 1 << 20
TOKEN = "emulator-token"
_PATH = re.compile(r"/dataCollectionRules/([^/]+)/streams/([^/?]+)\?api-version=[0-9-]+")


class LogsIngestionEmulator:
    def __init__(self) -> None:
        self.fault = ""
        self.faults: list[str] = []
        self.max_bytes = MAX_BYTES
        self.tokens: list[str] | None = [TOKEN]  # None: any is taken, and remembered below
        self.seen: set[str] = set()
        self.rows: list[dict[str, Any]] = []
        self.calls: list[tuple[int, int]] = []  # (status, bytes before compression)
        self.elsewhere = ""  # where the fault "redirect" sends a caller
        self.released = threading.Event()  # lets hanging calls go

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory()
        ca = trustme.CA()
        self.ca_file = str(Path(self._folder.name) / "ca.pem")
        ca.cert_pem.write_to_path(self.ca_file)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert("localhost", "127.0.0.1").configure_cert(context)
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                service.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.url = f"https://localhost:{self._server.server_address[1]}"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
        self._folder.cleanup()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        data = request.rfile.read(int(request.headers.get("content-length", "0")))
        if request.headers.get("transfer-encoding", "") == "chunked":
            data = self._chunks(request)
        fault = self.faults.pop(0) if self.faults else self.fault
        try:
            plain = gzip.decompress(data) if request.headers.get("content-encoding") == "gzip" else data
        except (OSError, EOFError, zlib.error):
            plain = b""
        status, headers, body = self._judge(request, plain, fault)
        self.calls.append((status, len(plain)))
        if fault == "hang":
            self.released.wait(30)
        if fault == "cut":
            request.close_connection = True
            request.connection.close()
            return
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("content-length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def _judge(self, request: BaseHTTPRequestHandler, plain: bytes, fault: str) -> tuple[int, dict[str, str], bytes]:
        known = {
            "throttled": (429, {"retry-after": "7"}),
            "throttled_silently": (429, {}),
            "unavailable": (503, {}),
            "forbidden": (403, {}),
            "garbage": (200, {"content-type": "application/json"}),
        }
        if fault == "redirect":
            return 307, {"location": f"{self.elsewhere}{request.path}"}, b""
        if fault in known:
            status, headers = known[fault]
            return status, headers, b'{"error": {"code": ' if fault == "garbage" else b"<html>busy</html>"
        path = _PATH.fullmatch(request.path)
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        self.seen.add(token)
        if scheme != "Bearer" or not token or (self.tokens is not None and token not in self.tokens):
            return 401, {}, b""
        if path is None or path[1] != RULE or path[2] != STREAM:
            return 404, {}, b""
        if len(plain) > self.max_bytes:
            return 413, {}, b""
        rows = json.loads(plain)
        if not isinstance(rows, list) or not all(isinstance(row, dict) and isinstance(row.get("TimeGenerated"), str) for row in rows):
            return 400, {}, b""
        self.rows += rows
        return 204, {}, b""  # with fault "cut" the rows are kept and the answer is lost

    @staticmethod
    def _chunks(request: BaseHTTPRequestHandler) -> bytes:
        data = b""
        while size := int(request.rfile.readline().split(b";")[0], 16):
            data += request.rfile.read(size)
            request.rfile.readline()
        request.rfile.readline()
        return data


class EmulatorCredential:
    """What the SDK asks for a token."""

    def __init__(self) -> None:
        self.scopes: list[str] = []

    async def get_token_info(self, *scopes: str, options: Any = None) -> Any:
        from azure.core.credentials import AccessTokenInfo

        self.scopes += scopes
        return AccessTokenInfo(TOKEN, int(time.time()) + 3600)

    async def close(self) -> None:
        pass
