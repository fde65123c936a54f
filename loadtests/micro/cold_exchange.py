"""What does a whole exchange cost when its texts were never seen? CPU of the gateway's processes, cold beside warm, interleaved.

usage: python -m loadtests.micro.cold_exchange --port 8080 --token .quickstart/tokens/loadtest.jwt [--rounds 5] [--count 1000]
With names on, ask `--model echo`: its profile looks for them, and records harm but never blocks.
The gateway must run with a backend that answers at once. Linux: reads scheduler time from /proc.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
from pathlib import Path

import psutil

from loadtests.micro.prose import text


def processes(port: int) -> list[int]:
    """Return the process that listens on a port and its children."""
    owners = {c.pid for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr.port == port and c.pid}
    return [p for owner in owners for p in (owner, *(c.pid for c in psutil.Process(owner).children(recursive=True)))]


def cpu_s(pids: list[int]) -> float:
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


WORDS = 130  # of one request


def body(seed: int, model: str) -> bytes:
    """Return a chat request of about 1 KB, to a model whose profile records and never blocks: random words may look like anything."""
    messages = [{"role": "system", "content": text(seed * 2, 30)}, {"role": "user", "content": text(seed * 2 + 1, 100)}]
    return json.dumps({"model": model, "messages": messages, "temperature": 0.2, "max_tokens": 256}).encode()


async def fire(port: int, token: str, bodies: list[bytes], connections: int) -> int:
    """Send every body over keep-alive connections; return how many were answered 200."""
    queue = list(reversed(bodies))
    good = 0

    async def one() -> None:
        nonlocal good
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while queue:
            data = queue.pop()
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n"
            writer.write(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
            answer = await reader.readuntil(b"\r\n\r\n")
            good += answer.startswith(b"HTTP/1.1 200")
            length = next(int(line[15:]) for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(length)
        writer.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--token", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--model", default="echo-open")
    arguments = parser.parse_args()
    token = arguments.token.read_text().strip()
    pids = processes(arguments.port)
    seen: dict[str, list[float]] = {"warm": [], "cold": []}
    for number in range(arguments.rounds):
        for kind in seen:
            seeds = range(number * arguments.count + 1_000_000, (number + 1) * arguments.count + 1_000_000)
            bodies = [body(s, arguments.model) for s in seeds] if kind == "cold" else [body(7, arguments.model)] * arguments.count
            begin = cpu_s(pids)
            good = asyncio.run(fire(arguments.port, token, bodies, arguments.connections))
            if good != len(bodies):
                raise SystemExit(f"{len(bodies) - good} of {len(bodies)} requests were not answered 200")
            seen[kind].append((cpu_s(pids) - begin) / len(bodies) * 1e6)
    for kind, values in seen.items():
        us = statistics.median(values)
        words = f"{WORDS / us * 1e6:8.0f} words a CPU-second" if kind == "cold" else ""
        print(f"{kind:5} {us:8.0f} us CPU a request   (rounds: {' '.join(f'{v:.0f}' for v in values)}) {words}")


if __name__ == "__main__":
    main()
