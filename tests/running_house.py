"""A whole gateway in a process of its own, for tests that may know nothing but its ports, its folder and what it printed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class House:
    """A running gateway: base ports and the state folder."""

    offset: int
    state: Path
    process: subprocess.Popen[bytes]

    @property
    def data(self) -> int:
        return 8080 + self.offset

    @property
    def control(self) -> int:
        return 8081 + self.offset

    @property
    def ops(self) -> int:
        return 9090 + self.offset

    @property
    def simulator(self) -> int:
        return 8500 + self.offset

    @property
    def audit(self) -> Path:
        return self.state / "audit"

    @property
    def log(self) -> Path:
        return self.state.parent / f"{self.state.name}.log"

    def token(self, name: str) -> str:
        return (self.state / "tokens" / f"{name}.jwt").read_text()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.data}"


def free_offset() -> int:
    start = 1000 + (os.getpid() % 200) * 150
    for offset in range(start, start + 20_000, 53):
        ports = [p + offset for p in (8080, 8081, 9090, 8400, 8500)]
        try:
            for port in ports:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return offset
    raise RuntimeError("no free ports")


def launch(state: Path, *more: str, offset: int | None = None) -> House:
    offset = free_offset() if offset is None else offset
    command = [sys.executable, "-m", "gateway", "quickstart", "--state", str(state), "--port-offset", str(offset), *more]
    with (state.parent / f"{state.name}.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    return House(offset, state, process)


def wait_ready(house: House, limit_s: float = 60.0, starts: int = 1) -> None:
    """Return when the text to paste was printed for the `starts`-th time in this folder."""
    end_s = time.monotonic() + limit_s
    while time.monotonic() < end_s:
        if house.log.read_bytes().count(b"Ctrl-C ends it") >= starts:
            return
        if house.process.poll() is not None:
            break
        time.sleep(0.1)
    raise AssertionError(f"quickstart did not become ready: {house.log.read_text()[-2000:]}")


def end(house: House, how: int = signal.SIGINT) -> int:
    if house.process.poll() is None:
        house.process.send_signal(how)
    try:
        return house.process.wait(20)
    except subprocess.TimeoutExpired:
        house.process.kill()
        return house.process.wait(5)
