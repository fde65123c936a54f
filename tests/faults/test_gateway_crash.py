"""Does the whole gateway keep its promise when it is killed? kill -9 under load, again and again, in one state folder."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from backend_thread import BackendThread
from running_house import House, end, launch, wait_ready
from wire import CHAT, Line, chat, records

from gateway.audit.verify import verify

KILLS = 3


def load(house: House, stop: threading.Event, answered: list[str], number: int) -> None:
    """Ask until the gateway is gone."""
    line, token = Line(house.data, timeout_s=5), house.token("loadtest")
    while not stop.is_set():
        try:
            reply = line.ask(CHAT, chat("echo-open", f"Hello from {number}", stream=number % 2 == 0), token)
        except (OSError, http.client.HTTPException):
            return
        if reply.status == 200:
            answered.append(reply.request_id)


def checked(house: House) -> None:
    """The command an auditor runs, on the folder as the crash left it."""
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "audit", "verify", str(house.audit)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_kill_9_under_load_loses_no_record_and_sends_nothing_unrecorded(tmp_path: Path) -> None:
    answered: list[str] = []
    with BackendThread() as backend:
        house = launch(tmp_path / "state", "--no-ner", "--backend", backend.url)
        try:
            for turn in range(KILLS):
                wait_ready(house, starts=turn + 1)
                stop = threading.Event()
                clients = [threading.Thread(target=load, args=(house, stop, answered, n)) for n in range(8)]
                for client in clients:
                    client.start()
                time.sleep(1.0 + 0.3 * turn)
                house.process.send_signal(signal.SIGKILL)
                house.process.wait(5)
                stop.set()
                for client in clients:
                    client.join(10)
                checked(house)
                house = launch(house.state, "--no-ner", "--backend", backend.url, offset=house.offset)
            wait_ready(house, starts=KILLS + 1)
            checked(house)
        finally:
            end(house)
        seen = set(backend.asked)
    assert len(answered) > 100
    report = verify(house.audit, (house.audit / "key.pub").read_text().strip())
    assert report.ok, report.findings
    assert (report.runs, report.in_flight) == (KILLS + 1, 0)
    kept = [(at, fields) for at, fields in records(house.audit)]
    opened = {fields["request_id"]: at for at, fields in kept if fields["type"] == "opened"}
    closed = Counter(fields["opened"] for _, fields in kept if fields["type"] == "closed")
    assert seen - set(opened) == set(), "something was sent without a durable record"
    assert set(answered) <= set(opened)
    assert closed == Counter(opened.values()), "each exchange is closed, once"
    unknown = [fields for _, fields in kept if fields.get("outcome") == "unknown"]
    assert 0 < len(unknown) <= 8 * KILLS + 8
    assert json.dumps(unknown).count('"type": "closed"') == len(unknown)
