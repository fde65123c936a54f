"""What a stranger can do to a running gateway: send requests, read answers, and read its log with the auditor's own tools."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.audit.query import LogReader
from gateway.audit.tree import Verifier

CHAT = "/v1/chat/completions"


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        return json.loads(self.body)["error"]

    @property
    def code(self) -> str:
        return str(self.error["code"])

    @property
    def request_id(self) -> str:
        return self.headers["x-request-id"]

    @property
    def index(self) -> int:
        return int(self.headers["x-audit-index"])


def chat(model: str, text: Any, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


class Line:
    """One keep-alive connection to a port; opened again when the other side has closed it."""

    def __init__(self, port: int, timeout_s: float = 20.0) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)

    def ask(
        self, path: str = CHAT, body: bytes | Mapping[str, Any] | None = None, token: str | None = None, method: str = "", **fields: str
    ) -> Reply:
        """Send one request. `fields` name header fields with `_` for `-`; a mapping is sent as JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {} if data is None else {"content-type": "application/json"}
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        headers |= {name.replace("_", "-"): value for name, value in fields.items()}
        try:
            self._connection.request(method or ("GET" if data is None else "POST"), path, data, headers)
            response = self._connection.getresponse()
            return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        self._connection.close()


def ask(port: int, path: str = CHAT, body: bytes | Mapping[str, Any] | None = None, token: str | None = None, **more: Any) -> Reply:
    """Send one request on a connection of its own."""
    line = Line(port)
    try:
        return line.ask(path, body, token, **more)
    finally:
        line.close()


def events(body: bytes) -> list[str]:
    """Return the data of each event."""
    return [part[6:].decode() for part in body.split(b"\n\n") if part.startswith(b"data: ")]


def open_stream(port: int, token: str, body: Mapping[str, Any]) -> socket.socket:
    """Ask for a stream on a bare socket and return it once the first event was seen."""
    data = json.dumps({**body, "stream": True}).encode()
    sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    sock.sendall(
        b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
        % (CHAT.encode(), token.encode(), len(data), data)
    )
    seen = b""
    while b"data:" not in seen:
        part = sock.recv(65536)
        if not part or b"HTTP/1.1 200" not in seen + part:
            raise AssertionError(seen + part)
        seen += part
    return sock


def records(audit: Path, **asked: Any) -> list[tuple[int, dict[str, Any]]]:
    """Return (index, fields) of the records in a log whose fields are `asked`, in order."""
    reader = LogReader(audit, Verifier((audit / "key.pub").read_text().strip()))
    found = ((at, json.loads(record)) for at, record in reader.records())
    return [(at, fields) for at, fields in found if all(fields.get(name) == value for name, value in asked.items())]


def eventually(what: Callable[[], Any], limit_s: float = 5.0) -> Any:
    """Return the first true value of `what`, else its last."""
    end_s = time.monotonic() + limit_s
    while True:
        value = what()
        if value or time.monotonic() > end_s:
            return value
        time.sleep(0.03)


def exchange_of(audit: Path, request_id: str, closed: bool = True) -> list[tuple[int, dict[str, Any]]]:
    """Return the records of one exchange; waits for the closing one, which is durable a little later than the answer."""
    want = 2 if closed else 1
    return eventually(lambda: found if len(found := records(audit, request_id=request_id)) >= want else [], 5.0) or records(
        audit, request_id=request_id
    )
