"""Does anything a client sends end up where it must not? 200 planted texts, then a search of all that the gateway keeps and says."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator

import pytest
from running_house import House
from wire import CHAT, Line, Reply, ask, chat

from gateway.quickstart.demonstration import INJECTION


def plant(number: int) -> str:
    """Return one of the planted texts: a word, a key, an address, a token; none occurs elsewhere by chance."""
    unique = hashlib.sha256(b"planted %d" % number).hexdigest()
    shapes = ["Zq{0}", "AK" + "IA{1}", "p.{0}@planted.example", "gh" + "p_{0}abcdefabcdefabcd", "sk-proj-{0}", "hunter2{0}"]
    return shapes[number % len(shapes)].format(
        unique[:20], unique[:16].upper().replace("0", "Q").replace("1", "R").replace("8", "S").replace("9", "T")
    )


Send = Callable[[Line, str, str], Reply]


def with_body(make: Callable[[str], object], path: str = CHAT) -> Send:
    def send(line: Line, token: str, text: str) -> Reply:
        body = make(text)
        return line.ask(path, body if isinstance(body, bytes) else json.dumps(body).encode(), token)

    return send


# How a text gets in: name, and whether a permitted answer may rightly hold it.
WAYS: dict[str, tuple[Send, bool]] = {
    "prompt": (with_body(lambda t: chat("assistant", f"Please keep {t} in mind")), False),
    "prompt, streamed": (with_body(lambda t: chat("assistant", f"Please keep {t} in mind", stream=True)), False),
    "echoed": (with_body(lambda t: chat("echo-open", f"Please keep {t} in mind")), True),
    "restored": (with_body(lambda t: chat("echo-restore", f"Please write to {t} today", stream=True)), True),
    "blocked prompt": (with_body(lambda t: chat("assistant", f"{INJECTION} {t}")), False),
    "refused model": (with_body(lambda t: chat("restricted", t)), False),
    "unknown model": (with_body(lambda t: chat(t, "Hello")), False),
    "unknown key": (with_body(lambda t: {**chat("assistant", "Hello"), t: 1}), False),
    "value of an unknown key": (with_body(lambda t: {**chat("assistant", "Hello"), "x": t}), False),
    "nested unknown key": (with_body(lambda t: {"model": "assistant", "messages": [{"role": "user", "content": "a", t: t}]}), False),
    "role": (with_body(lambda t: {"model": "assistant", "messages": [{"role": t, "content": "a"}]}), False),
    "wrong type": (with_body(lambda t: {**chat("assistant", t), "temperature": t}), False),
    "duplicate key": (with_body(lambda t: json.dumps({t: 1}).encode()[:-1] + b"," + json.dumps({t: 2}).encode()[1:]), False),
    "not JSON": (with_body(lambda t: b'{"model": "assistant", ' + t.encode()), False),
    "not UTF-8": (with_body(lambda t: b'{"model": "' + t.encode() + b'\xff"}'), False),
    "body on an unknown path": (with_body(lambda t: chat("assistant", t), "/v1/nowhere"), False),
    "metadata and user": (with_body(lambda t: {**chat("assistant", "Hello"), "user": t, "metadata": {"a": t}}), False),
    "tool": (
        with_body(lambda t: chat("assistant", "Hello", tools=[{"type": "function", "function": {"name": "f", "description": t}}])),
        False,
    ),
    "plain route": (with_body(lambda t: {"text": t, "inputs": t}, "/models/score/score"), False),
    "embedding": (with_body(lambda t: {"model": "embed", "input": [t]}, "/v1/embeddings"), False),
    "moderation": (with_body(lambda t: {"input": t}, "/v1/moderations"), False),
    "bearer token": (lambda line, _, t: line.ask("/v1/models", token=t), False),
    "gateway key": (lambda line, _, t: line.ask("/v1/models", api_key=t), False),
    "path": (lambda line, token, t: line.ask("/v1/" + t.replace("@", "-"), token=token), False),
    "path with a bad character": (lambda line, token, t: line.ask("/v1/%41" + t, token=token), False),
    "query": (lambda line, token, t: line.ask("/v1/models?key=" + t, token=token), False),
    "header": (lambda line, token, t: line.ask("/v1/models", token=token, x_planted=t, user_agent=t, x_request_id=t, cookie=t), False),
    "trace": (lambda line, token, t: line.ask("/v1/models", token=token, traceparent=t, tracestate=t, baggage=t), False),
    "media type": (lambda line, token, t: line.ask(CHAT, b"{}", token, content_type=t), False),
    "deployment": (
        lambda line, token, t: line.ask(f"/openai/deployments/{t.replace('@', '-')}/chat/completions", chat("a", "b"), token),
        False,
    ),
}


@pytest.fixture(scope="module")
def planted(house: House) -> Iterator[list[tuple[str, str, Reply]]]:
    """Every way, with several texts each: 200 in all, then long enough for what is written later to be written."""
    line = Line(house.data)
    token = house.token("loadtest")
    names = list(WAYS)
    sent = [(name, plant(number)) for number in range(200) for name in (names[number % len(names)],)]
    replies = [(name, text, WAYS[name][0](line, token, text)) for name, text in sent]
    line.close()
    time.sleep(1.3)
    yield replies


def needles(planted: list[tuple[str, str, Reply]]) -> list[bytes]:
    return [form.encode() for _, text, _ in planted for form in (text, text.replace("@", "-"), text.lower()) if len(form) >= 16]


def test_every_way_in_was_taken_and_none_was_our_fault(planted: list[tuple[str, str, Reply]]) -> None:
    assert len(planted) == len({text for _, text, _ in planted}) == 200
    assert {name for name, _, _ in planted} == set(WAYS)
    assert {r.status for _, _, r in planted} >= {200, 400, 401, 403, 404, 415}
    assert max(r.status for _, _, r in planted) < 500


def test_no_answer_holds_what_it_must_not(planted: list[tuple[str, str, Reply]]) -> None:
    for name, text, reply in planted:
        if reply.status == 200 and WAYS[name][1]:
            continue
        said = reply.body + json.dumps(dict(reply.headers)).encode()
        assert text.encode() not in said and text.replace("@", "-").encode() not in said, (name, reply)


def test_no_log_holds_any(house: House, planted: list[tuple[str, str, Reply]]) -> None:
    kept = house.log.read_bytes()
    assert kept
    assert [n for n in needles(planted) if n in kept] == []


def test_the_audit_log_holds_none(house: House, planted: list[tuple[str, str, Reply]]) -> None:
    files = [path for path in house.audit.rglob("*") if path.is_file()]
    kept = b"".join(path.read_bytes() for path in files)
    ids = [r.request_id.encode() for _, _, r in planted if "x-audit-index" in r.headers]
    assert len(ids) > 120 and all(i in kept for i in ids)  # the search would have found what is there
    assert [n for n in needles(planted) if n in kept] == []
    for who in ("loadtest", "developer"):
        for part in house.token(who).split("."):
            assert part.encode() not in kept


def test_the_metrics_hold_none(house: House, planted: list[tuple[str, str, Reply]]) -> None:
    page = ask(house.ops, "/metrics")
    assert page.status == 200 and len(page.body) > 1000
    assert [n for n in needles(planted) if n in page.body] == []
    for path in ("/healthz", "/readyz"):
        assert [n for n in needles(planted) if n in ask(house.ops, path).body] == []


def test_the_state_folder_is_private(house: House) -> None:
    assert house.state.stat().st_mode & 0o077 == 0
    assert [p.name for p in (house.state / "tokens").iterdir() if p.stat().st_mode & 0o077] == []
