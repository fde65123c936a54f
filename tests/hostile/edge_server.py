"""A process with nothing but the edge in it: a small ASGI application under `GuardedProtocol`, for attacks over a real socket.

Run as `python edge_server.py LOOP LIMITS_JSON`; prints its port. `/stats` tells what the application and the edge saw.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from gateway.http.protocol import Limits
from gateway.http.server import make_server

MAX_BODY = 1_000_000


class EchoApp:
    def __init__(self) -> None:
        self.faults: Counter[str] = Counter()
        self.paths: Counter[str] = Counter()
        self.disconnects = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        self.paths[path] += 1
        if path == "/stats":
            told = {"faults": self.faults, "paths": self.paths, "rss_kib": rss_kib(), "gone": self.disconnects}
            await self._json(send, 200, told)
        elif path == "/flood":
            await self._flood(send)
        elif path == "/early":
            await self._json(send, 401, {"early": True})
        elif path == "/crash":
            raise ValueError("a secret prompt")
        elif path == "/silent":
            return
        elif path == "/wait":
            while (await receive())["type"] != "http.disconnect":
                continue
            self.disconnects += 1
        else:
            await self._echo(scope, receive, send)

    async def _echo(self, scope: Any, receive: Any, send: Any) -> None:
        size, first = 0, b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.disconnects += 1
                return
            size += len(message["body"])
            first = (first + message["body"])[:200]
            if size > MAX_BODY:
                await self._json(send, 413, {"error": {"code": "request_too_large"}})
                return
            if not message["more_body"]:
                break
        headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
        told = {name: scope[name] for name in ("method", "path", "http_version")}
        told |= {"query": scope["query_string"].decode(), "size": size, "first": first.decode("latin-1")}
        await self._json(send, 200, told | {"headers": headers, "kind": type(scope["headers"]).__name__})

    async def _flood(self, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/octet-stream")]})
        for _ in range(20_000):
            await send({"type": "http.response.body", "body": b"x" * 16_384, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _json(self, send: Any, status: int, told: Any) -> None:
        body = json.dumps(told).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def rss_kib() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    return 0


def main() -> None:
    app = EchoApp()
    limits = msgspec.convert(json.loads(sys.argv[2]), Limits)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        count = lambda fault: app.faults.update([fault.value])  # noqa: E731
        server = make_server(app, sock=sock, limits=limits, on_malformed=count, loop=sys.argv[1], drain_s=1)
        sys.stdout.write(f"{sock.getsockname()[1]}\n")
        sys.stdout.flush()
        server.run()


if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())
    main()
