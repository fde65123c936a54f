"""Can one dear request hold everyone else? Bodies within every limit, made to be slow to inspect, beside a client that only knocks."""

from __future__ import annotations

import json
import threading
import time

import pytest
from running_house import House
from wire import CHAT, Line, ask, chat

WAIT_S = 0.5  # what a stranger's request may hold another's; the loop itself is meant to be held 20 ms at most
DEAR = {
    "digits": "4111 " * 200_000,
    "addresses": "a.b@" * 300_000,
    "words": "lorem ipsum dolor " * 100_000,
    "base64": "QUJD" * 300_000,
    "nul": "\0" * 300_000,
    "dots": "1.2.3." * 200_000,
    "keys": "sk-proj-" * 150_000,
    "hex": "deadbeef " * 150_000,
    "letters": "ａｂ\u0301" * 60_000,
    "urls": "http://a.b/c?d=" * 80_000,
}


@pytest.mark.parametrize("name", [*DEAR, "a thousand messages"])
def test_one_dear_request_does_not_hold_the_others(house: House, name: str) -> None:
    body = chat("echo-open", DEAR.get(name, ""))
    if name not in DEAR:
        body["messages"] = [{"role": "user", "content": f"message {n} about the weather in the north"} for n in range(1000)]
    token = house.token("loadtest")
    waits: list[float] = []
    stop = threading.Event()

    def knock() -> None:
        line = Line(house.data, timeout_s=60)
        while not stop.is_set():
            started_s = time.monotonic()
            line.ask("/nowhere")
            waits.append(time.monotonic() - started_s)
            time.sleep(0.005)
        line.close()

    knocker = threading.Thread(target=knock)
    knocker.start()
    try:
        time.sleep(0.05)
        reply = ask(house.data, CHAT, json.dumps(body).encode(), token)
    finally:
        stop.set()
        knocker.join(60)
    assert reply.status < 500, reply.body
    assert max(waits) < WAIT_S
