"""Does memory stay flat, and does every lease come back? Minutes of mixed load on a quickstart gateway started for it.

usage: python -m loadtests.soak [--minutes 10] [--rate 20] [--no-ner] [--gateway-cpu 0] [--every 10] [--json]
A fifth of the clients leave: in the middle of their body, before the answer, or while it streams. Inputs of 500 KB come in between, never
seen before; the profiles' deadlines are raised to `DEADLINE_MS`, so that they are read to their end. Other texts come from a pool but for
a share that is new, so that the cache of findings is no growth of its own. Resident memory is summed over the gateway's processes.
Exit 1 when its mean over the last third is more than 5 % above the first third (what comes before the warm-up's end is left out), when a
lease or an exchange is still counted after the load has ended, or when nothing was answered, or no large input.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from loadtests.micro.prose import text

GROWTH = 0.05
WARM_UP = 0.2  # of the run
LEAVING = 0.2  # of the clients
FRESH = 0.1  # of the small texts
POOL = 200
LARGE_CHARS = 500_000
MAX_OPEN = 64
START_S = 90.0
DRAIN_S = 30.0
ANSWER_S = 60.0
DEADLINE_MS = 45_000
_PORTS = (8080, 8081, 9090, 8400, 8500)
_CODE = re.compile(rb'"code": ?"([a-z_]{1,40})"')
_GAUGE = re.compile(rb"^(gateway_active_leases|gateway_active_exchanges) ([0-9.e+-]+)$", re.MULTILINE)


class Gateway:
    """A quickstart in a folder of its own. Ended by its own process id."""

    def __init__(self, state: Path, *, ner: bool, cpu: int | None) -> None:
        self.offset = _free_offset()
        self.state = state
        self.log = state.with_suffix(".log")
        command = [sys.executable, "-m", "gateway", "quickstart", "--state", str(state), "--port-offset", str(self.offset)]
        command += ["--policies", str(_patient_policies(state.with_name("policies")))]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([*command, *([] if ner else ["--no-ner"])], stdout=log, stderr=subprocess.STDOUT)
        if cpu is not None:
            os.sched_setaffinity(self.process.pid, {cpu})  # its children inherit it

    def wait_ready(self) -> None:
        end_s = time.monotonic() + START_S
        while b"Ctrl-C ends it" not in self.log.read_bytes():
            if self.process.poll() is not None or time.monotonic() > end_s:
                raise SystemExit(f"the gateway did not start: see `{self.log}`")
            time.sleep(0.1)

    def rss_bytes(self) -> int:
        total = 0
        own = psutil.Process(self.process.pid)
        for process in (own, *own.children(recursive=True)):
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total

    def end(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()


def _patient_policies(folder: Path) -> Path:
    """Return a copy of the starter policies whose inspection may take long."""
    shutil.copytree(Path(__file__).parent.parent / "policies", folder)
    content = folder / "content.toml"
    said = content.read_text(encoding="utf-8")
    if "deadline_ms = 2000" not in said:
        raise SystemExit("the starter profiles have other deadlines than this test knows")
    content.write_text(said.replace("deadline_ms = 2000", f"deadline_ms = {DEADLINE_MS}"), encoding="utf-8")
    return folder


def _free_offset() -> int:
    for offset in range(11_000, 30_000, 101):
        try:
            for port in _PORTS:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port + offset))
        except OSError:
            continue
        return offset
    raise SystemExit("no free ports")


class Clients:
    """Makes requests, some of which are left. Everything is drawn from one seed."""

    def __init__(self, gateway: Gateway, seed: int) -> None:
        self._port = 8080 + gateway.offset
        self._token = (gateway.state / "tokens" / "loadtest.jwt").read_text().strip()
        self._draw = random.Random(seed)
        self._fresh = 7_000_000
        self.seen: Counter[str] = Counter()

    def body(self, *, large: bool) -> tuple[bytes, bool]:
        """Return a chat and whether it streams."""
        stream = self._draw.random() < 0.5
        if large:
            self._fresh += 1
            content = text(self._fresh, LARGE_CHARS // 4)[:LARGE_CHARS]
            messages = [{"role": "user", "content": "Summarise this, please."}, {"role": "user", "content": content}]
            return json.dumps({"model": "echo-open", "messages": messages, "max_tokens": 64}).encode(), False
        if self._draw.random() < FRESH:
            self._fresh += 1
            seed = self._fresh
        else:
            seed = self._draw.randrange(POOL)
        messages = [{"role": "system", "content": text(seed * 2, 30)}, {"role": "user", "content": text(seed * 2 + 1, 100)}]
        asked = {"model": "echo-open", "messages": messages, "max_tokens": 256, "stream": stream}
        return json.dumps(asked).encode(), stream

    async def one(self, *, large: bool) -> None:
        body, _ = self.body(large=large)
        leaves = self._draw.choice(["in its body", "before the answer", "in the answer"]) if self._draw.random() < LEAVING else ""
        kind = "large" if large else "small"
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(ANSWER_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                status = await self._ask(reader, writer, body, leaves)
            self.seen[f"{kind}, left {leaves}" if leaves else f"{kind}, {status}"] += 1
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as fault:
            self.seen[f"{kind}, {type(fault).__name__}"] += 1
        finally:
            if writer is not None:
                writer.transport.abort() if leaves else writer.close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes, leaves: str) -> str:
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {self._token}\r\n"
            f"content-type: application/json\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode())
        if leaves == "in its body":
            writer.write(body[: len(body) // 2])
            await writer.drain()
            return ""
        writer.write(body)
        await writer.drain()
        if leaves == "before the answer":
            await asyncio.sleep(self._draw.random() * 0.05)
            return ""
        status = await reader.readuntil(b"\r\n")
        if leaves:
            await reader.read(200)
            return ""
        code = status.split()[1].decode()
        rest = b""
        while data := await reader.read(65_536):
            rest = rest or data
        said = _CODE.search(rest) if code != "200" else None
        return f"{code} {said.group(1).decode()}" if said else code


async def standing(gateway: Gateway) -> dict[str, float]:
    """Return the two gauges that must come back to 0."""
    reader, writer = await asyncio.open_connection("127.0.0.1", 9090 + gateway.offset)
    writer.write(b"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
    raw = b""
    while data := await reader.read(65_536):
        raw += data
    writer.close()
    return {name.decode(): float(value) for name, value in _GAUGE.findall(raw)}


async def soak(gateway: Gateway, arguments: argparse.Namespace) -> tuple[list[tuple[float, int]], Counter[str], dict[str, float]]:
    clients = Clients(gateway, arguments.seed)
    begin = time.monotonic()
    seconds = arguments.minutes * 60
    samples: list[tuple[float, int]] = []
    open_now: set[asyncio.Task[None]] = set()
    sent = 0
    next_sample = next_large = 0.0
    while (now := time.monotonic() - begin) < seconds:
        if now >= next_sample:
            samples.append((now, gateway.rss_bytes()))
            next_sample += arguments.every
            if not arguments.json:
                print(f"{now:7.0f} s  {samples[-1][1] / 1e6:8.1f} MB  {sent} requests", flush=True)
        large = now >= next_large
        if large:
            next_large += arguments.large_every
        if len(open_now) < MAX_OPEN:
            task = asyncio.create_task(clients.one(large=large))
            open_now.add(task)
            task.add_done_callback(open_now.discard)
            sent += 1
        await asyncio.sleep(max(0.0, begin + sent / arguments.rate - time.monotonic()) or 0.01)
    await asyncio.gather(*open_now)
    samples.append((time.monotonic() - begin, gateway.rss_bytes()))
    end_s = time.monotonic() + DRAIN_S
    left = await standing(gateway)
    while any(left.values()) and time.monotonic() < end_s:
        await asyncio.sleep(0.5)
        left = await standing(gateway)
    return samples, clients.seen, left


def growth(samples: list[tuple[float, int]]) -> tuple[float, float, float]:
    """Return the mean of the first and of the last third after warm-up, and the share it grew by."""
    end = samples[-1][0]
    kept = [rss for at, rss in samples if at >= WARM_UP * end]
    third = max(1, len(kept) // 3)
    first, last = statistics.fmean(kept[:third]), statistics.fmean(kept[-third:])
    return first, last, last / first - 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=20.0, metavar="N", help="requests a second")
    parser.add_argument("--large-every", type=float, default=25.0, metavar="S", help="seconds between inputs of 500 KB")
    parser.add_argument("--every", type=float, default=10.0, metavar="S", help="seconds between looks at memory")
    parser.add_argument("--gateway-cpu", type=int, metavar="N", help="put the gateway and its workers on this core")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-ner", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        gateway = Gateway(Path(folder) / "state", ner=not arguments.no_ner, cpu=arguments.gateway_cpu)
        try:
            gateway.wait_ready()
            samples, seen, left = asyncio.run(soak(gateway, arguments))
        finally:
            gateway.end()
    first, last, grew = growth(samples)
    answered = seen["small, 200"] + seen["large, 200"]
    faults = [
        *([f"memory grew by {grew:.1%}"] if grew > GROWTH else []),
        *([f"still counted after the load: {left}"] if any(left.values()) or len(left) < 2 else []),
        *(["nothing was answered"] if not answered else []),
        *(["no large input was answered"] if not seen["large, 200"] else []),
    ]
    if arguments.json:
        print(
            json.dumps(
                {"rss_mb": [round(r / 1e6, 1) for _, r in samples], "grew": round(grew, 4), "seen": seen, "left": left, "faults": faults}
            )
        )
        return 1 if faults else 0
    print(f"\nfirst third {first / 1e6:.1f} MB, last third {last / 1e6:.1f} MB: {grew:+.1%}; in progress after the load: {left}")
    for name, number in sorted(seen.items()):
        print(f"  {number:6} {name}")
    print("; ".join(faults) if faults else "ok")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
