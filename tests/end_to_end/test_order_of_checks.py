"""Which check speaks first? Requests with two faults each, one from each of two neighbouring steps, on the wire.

The order: malformed HTTP, credential, path, method, body (413, 415, JSON), model, permission, schema, limits, content, upstream.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Callable
from typing import Any

import pytest
from running_house import House
from wire import CHAT, Line, Reply, ask, chat

from gateway.quickstart.demonstration import INJECTION

BAD_JSON = b'{"model": "assistant", "model": "restricted"}'
LIMITS = [f"x-ratelimit-{what}-{unit}" for what in ("limit", "remaining", "reset") for unit in ("requests", "tokens")]
REQUEST_ID = re.compile(r"[0-9a-f-]{32,36}")
Ask = Callable[[House, Line], Reply]


def developer(path: str = CHAT, body: Any = None, **more: Any) -> Ask:
    return lambda house, line: line.ask(path, body, house.token("developer"), **more)


def nobody(path: str = CHAT, body: Any = None, **more: Any) -> Ask:
    return lambda house, line: line.ask(path, body, **more)


UNKNOWN = chat("no-such-model", "Hello", nonsense=1)

# name: the request, the status that wins, its code, whether it is on the record
PAIRS: dict[str, tuple[Ask, int, str, bool]] = {
    "malformed before 401": (nobody("/v1/%6dodels"), 400, "bad_request", False),
    "too many fields before 401": (nobody("/v1/models", **{f"x_{n}": "a" for n in range(80)}), 431, "headers_too_large", False),
    "401 before 404": (nobody("/nowhere"), 401, "invalid_token", False),
    "401 before 405": (nobody("/v1/models", b"{}", method="POST"), 401, "invalid_token", False),
    "401 before 415": (nobody(CHAT, b"x", content_type="text/plain"), 401, "invalid_token", False),
    "401 before JSON": (nobody(CHAT, BAD_JSON), 401, "invalid_token", False),
    "401 before unknown model": (nobody(CHAT, UNKNOWN), 401, "invalid_token", False),
    "two credentials": (developer("/v1/models", api_key="abc"), 401, "invalid_token", False),
    "404 before 405": (developer("/v1/nowhere", b"{}", method="DELETE"), 404, "not_found", True),
    "404 before 415": (developer("/v1/nowhere", b"x", content_type="text/plain"), 404, "not_found", True),
    "404 before JSON": (developer("/v1/nowhere", BAD_JSON), 404, "not_found", True),
    "405 before 415": (developer(CHAT, b"x", method="PUT", content_type="text/plain"), 405, "method_not_allowed", True),
    "405 before JSON": (developer(CHAT, BAD_JSON, method="PATCH"), 405, "method_not_allowed", True),
    "415 before JSON": (developer(CHAT, BAD_JSON, content_type="text/plain"), 415, "unsupported_media_type", True),
    "415 for an encoding": (developer(CHAT, BAD_JSON, content_encoding="gzip"), 415, "unsupported_media_type", True),
    "JSON before unknown model": (developer(CHAT, b'{"model": "no-such-model", "a": NaN}'), 400, "invalid_json", True),
    "duplicate key before 403": (developer(CHAT, b'{"model": "restricted", "model": "restricted"}'), 400, "invalid_json", True),
    "404 before schema": (developer(CHAT, UNKNOWN), 404, "DeploymentNotFound", True),
    "403 before schema": (developer(CHAT, chat("restricted", "Hello", nonsense=1)), 403, "policy_denied", True),
    "schema before content": (developer(CHAT, chat("assistant", INJECTION, nonsense=1)), 400, "invalid_request_error", True),
    "content before upstream": (developer(CHAT, chat("assistant", INJECTION)), 400, "content_filter", True),
}


@pytest.mark.parametrize("name", PAIRS)
def test_of_two_faults_the_earlier_speaks(house: House, name: str) -> None:
    request, status, code, recorded = PAIRS[name]
    line = Line(house.data)
    reply = request(house, line)
    line.close()
    assert (reply.status, reply.code) == (status, code)
    assert REQUEST_ID.fullmatch(reply.request_id)
    assert reply.headers["content-type"] == "application/json"
    assert {"message", "type", "param", "code"} <= set(reply.error)
    assert "retry-after" not in reply.headers
    assert ("x-audit-index" in reply.headers) is recorded
    assert reply.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
    if status == 405:
        assert reply.headers["allow"] == "POST"
    if code == "content_filter":
        assert reply.error["innererror"]["code"] == "ResponsibleAIPolicyViolation"
        assert reply.error["innererror"]["content_filter_result"]
    assert b"nonsense" not in reply.body and b"no-such-model" not in reply.body


def test_a_body_over_the_limit_is_413_whatever_is_in_it(house: House) -> None:
    body = b"}" * 9_000_000
    head = b"POST %b HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    received = b""
    with socket.create_connection(("127.0.0.1", house.data), timeout=10) as sock:
        with contextlib.suppress(OSError):  # the answer comes before the body is read, and the connection closes
            sock.sendall(head % (CHAT.encode(), house.token("developer").encode(), len(body)) + body)
        with contextlib.suppress(OSError):
            while part := sock.recv(65536):
                received += part
    assert received.startswith(b"HTTP/1.1 413 ")
    assert b"x-audit-index: " in received and b"connection: close" in received and b'"request_too_large"' in received


@pytest.mark.parametrize(
    "name", [n for n, (_, _, _, recorded) in PAIRS.items() if recorded and not n.startswith(("JSON", "duplicate", "404", "405", "415"))]
)
def test_limits_are_told_once_the_subject_is_known(house: House, name: str) -> None:
    line = Line(house.data)
    reply = PAIRS[name][0](house, line)
    line.close()
    assert [field for field in LIMITS if field not in reply.headers] == []


def test_permitted_answers_tell_limits_and_place(house: House) -> None:
    for more in ({}, {"stream": True}):
        reply = ask(house.data, CHAT, chat("assistant", "Hello", **more), house.token("developer"))
        assert reply.status == 200
        assert [field for field in [*LIMITS, "x-audit-index", "x-request-id"] if field not in reply.headers] == []
        assert int(reply.headers["x-ratelimit-limit-requests"]) == 300


def test_an_unseen_model_and_an_unknown_one_have_one_answer(house: House) -> None:
    """An outsider may see nothing: what exists and what does not cannot be told apart."""
    token = house.token("outsider")
    exists, not_there = (ask(house.data, CHAT, chat(model, "Hello"), token) for model in ("assistant", "no-such-model"))
    assert (exists.status, exists.body) == (not_there.status, not_there.body)
    assert exists.status in (403, 404)


def test_every_error_has_the_one_shape(house: House) -> None:
    line = Line(house.data)
    for name, (request, *_) in PAIRS.items():
        body = json.loads(request(house, line).body)
        assert list(body) == ["error"], name
        assert {type(body["error"][k]) for k in ("message", "type", "code")} == {str}, name
    line.close()


def test_the_rate_speaks_after_the_schema_and_before_content(house: House) -> None:
    """The analyst's twenty a minute: drained by good requests; then a bad schema is still 400, an attack 429."""
    token = house.token("analyst")
    line = Line(house.data)
    spent = [line.ask(CHAT, chat("echo", "Hello"), token) for _ in range(40)]
    limited = [r for r in spent if r.status == 429]
    assert limited, {r.status for r in spent}
    assert limited[0].code == "rate_limit_exceeded"
    assert 1 <= int(limited[0].headers["retry-after"]) <= 119
    assert int(limited[0].headers["retry-after-ms"]) > 0
    assert [field for field in LIMITS if field not in limited[0].headers] == []
    wrong = line.ask(CHAT, chat("assistant", INJECTION, nonsense=1), token)
    attack = line.ask(CHAT, chat("assistant", INJECTION), token)
    line.close()
    assert (wrong.status, attack.status) == (400, 429)
