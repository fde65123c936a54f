"""Load shapes against a running gateway (use `gateway quickstart` or `gateway simulate` behind it): a ramp, long streams, a noisy tenant.

usage: locust -f loadtests/scenarios/locustfile.py --headless -u 20 -r 5 -t 30s --host http://127.0.0.1:8080 [--tags ramp|streams|noisy]
Bounded by -t and -u; loopback only. Tokens are read from GATEWAY_TOKENS (default .quickstart/tokens).
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from locust import FastHttpUser, between, events, tag, task

TOKENS = Path(os.environ.get("GATEWAY_TOKENS", ".quickstart/tokens"))


@events.test_start.add_listener
def loopback_only(environment, **_: object) -> None:  # type: ignore[no-untyped-def]
    host = urlsplit(environment.host or "").hostname
    if host not in ("127.0.0.1", "localhost", "::1"):
        environment.process_exit_code = 2
        environment.runner.quit()
        raise SystemExit("these scenarios are for a gateway on loopback")


def headers(who: str) -> dict[str, str]:
    return {"authorization": f"Bearer {(TOKENS / f'{who}.jwt').read_text().strip()}"}


class Steady(FastHttpUser):
    """Ordinary callers; raise -u to ramp."""

    wait_time = between(0.05, 0.2)
    weight = 6

    @tag("ramp", "noisy")
    @task
    def ask(self) -> None:
        body = {"model": "assistant", "messages": [{"role": "user", "content": "How do I plan a good week?"}]}
        self.client.post("/v1/chat/completions", json=body, headers=headers("loadtest"), name="chat")


class Streamer(FastHttpUser):
    """Long streams: ten seconds of tokens each."""

    wait_time = between(0.5, 1.0)
    weight = 2

    @tag("streams")
    @task
    def stream(self) -> None:
        body = {"model": "slow", "stream": True, "messages": [{"role": "user", "content": "Go on"}]}
        with self.client.post("/v1/chat/completions", json=body, headers=headers("loadtest"), name="stream", stream=True) as answer:
            for _ in answer.iter_lines():
                continue


class Noisy(FastHttpUser):
    """One caller far over its rate: refusals must be quick and nobody else's business."""

    wait_time = between(0, 0.01)
    weight = 1

    @tag("noisy")
    @task
    def flood(self) -> None:
        body = {"model": "assistant", "messages": [{"role": "user", "content": "again"}]}
        with self.client.post(
            "/v1/chat/completions", json=body, headers=headers("analyst"), name="flood", catch_response=True
        ) as answer:
            if answer.status_code in (200, 429):
                answer.success()
