"""Hostile bytes against a real server process: nothing ambiguous is served, nothing slow is waited for, nothing big is held.

With `GATEWAY_EDGE_TARGET` set the corpora and the table run against that server instead; what needs small limits or the
echo application's own account is then skipped.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from raw_http import Conversation, Target, converse, converse_all, target_from_env

ROOT = Path(__file__).resolve().parents[2]
CORPORA = Path(os.environ.get("GATEWAY_CORPORA", ROOT.parent / "shared" / "corpora"))
MEBI = 1024 * 1024
JSON = b"Content-Type: application/json"


def start(loop: str, limits: dict[str, Any]) -> tuple[subprocess.Popen[str], Target]:
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("edge_server.py")), loop, json.dumps(limits)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    target = Target("127.0.0.1", int(process.stdout.readline()))
    for _ in range(200):
        with socket.socket() as sock:
            if sock.connect_ex((target.host, target.port)) == 0:
                break
        time.sleep(0.02)
    return process, target


def stop(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def edge(request: pytest.FixtureRequest) -> Iterator[Target]:
    """The server under attack, with the limits it ships with."""
    named = target_from_env()
    if named is not None:
        if request.param == "asyncio":
            pytest.skip("the server named by GATEWAY_EDGE_TARGET has one loop")
        yield named
        return
    process, target = start(request.param, {})
    yield target
    stop(process)


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def quick(request: pytest.FixtureRequest) -> Iterator[Target]:
    """A server of our own whose clocks run fast, so that what takes seconds can be watched in tenths."""
    fast = {
        "head_s": 0.5, "keep_alive_s": 0.6, "body_idle_s": 0.5, "body_grace_s": 1.0, "body_bytes_per_s": 1000, "write_s": 1.0,
        "linger_s": 0.3, "connections": 20,
    }  # fmt: skip
    process, target = start(request.param, fast)
    yield target
    stop(process)


@pytest.fixture(scope="module")
def impatient() -> Iterator[Target]:
    """As `edge`, but a message that never ends is given up after less than a second: many vectors are such."""
    named = target_from_env()
    if named is not None:
        yield named
        return
    process, target = start("uvloop", {"head_s": 0.6, "body_idle_s": 0.6})
    yield target
    stop(process)


async def stats(target: Target) -> dict[str, Any]:
    if target_from_env() is not None:
        pytest.skip("needs the echo application's own account")
    talk = await converse(target, target.get("/stats"))
    return json.loads(talk.answers[0].body)  # type: ignore[no-any-return]


def corpus(name: str) -> Any:
    path = CORPORA / name
    if not path.exists():
        pytest.skip(f"the corpus {name} is not beside the checkout (GATEWAY_CORPORA)")
    return json.loads(path.read_bytes())


def is_our_error(talk: Conversation) -> bool:
    """One answer, an error in our shape, after which the connection is closed."""
    if len(talk.answers) != 1 or not talk.closed:
        return False
    answer = talk.answers[0]
    error = json.loads(answer.body)["error"]
    kind = answer.header("content-type") == "application/json" and answer.header("connection") == "close"
    return kind and answer.complete and bool(answer.header("x-request-id")) and {"message", "type", "param", "code"} <= set(error)


# Corpora


@pytest.mark.corpora
async def test_no_smuggled_request_of_1703_is_parsed(edge: Target) -> None:
    sets = corpus("smuggler/te_header_gadgets.json")
    gadgets = sorted({base64.b64decode(item["b64"]) for items in sets.values() for item in items})
    assert len(gadgets) == 1703
    hidden = b"GET /smuggled HTTP/1.1\r\n" + edge.host_field + edge.credential_field + b"\r\n"
    rest = b"0\r\n\r\n" + hidden
    payloads = [edge.head("POST", None, b"Content-Length: %d" % len(rest), gadget) + b"\r\n" + rest for gadget in gadgets]
    talks = await converse_all(edge, payloads, quiet_s=0.3)
    more = [gadget for gadget, talk in zip(gadgets, talks, strict=True) if len(talk.answers) != 1]
    assert more == []
    assert {talk.status for talk in talks if talk.status >= 500} == set()
    if target_from_env() is None:
        assert "/smuggled" not in (await stats(edge))["paths"]
        # What is no Transfer-Encoding to anyone (another name, all legal) is read by its length; nothing else is served.
        served = [gadget for gadget, talk in zip(gadgets, talks, strict=True) if talk.status == 200]
        assert all(b"_" not in name and b"transfer-encoding" != name.lower() for name in (g.partition(b":")[0] for g in served))


@pytest.mark.corpora
async def test_the_same_gadgets_hide_nothing_behind_a_short_length(edge: Target) -> None:
    sets = corpus("smuggler/te_header_gadgets.json")
    gadgets = sorted({base64.b64decode(item["b64"]) for item in sets["default"]})
    hidden = b"GET /smuggled HTTP/1.1\r\n" + edge.host_field + edge.credential_field + b"\r\n"
    chunk = b"%x\r\n" % len(hidden)
    rest = b"\r\n" + chunk + hidden + b"\r\n0\r\n\r\n"
    payloads = [edge.head("POST", None, b"Content-Length: %d" % len(chunk), gadget) + rest for gadget in gadgets]
    talks = await converse_all(edge, payloads, quiet_s=0.3)
    assert [len(talk.answers) for talk in talks] == [1] * len(gadgets)


@pytest.mark.corpora
async def test_no_message_that_llhttp_must_reject_is_accepted(impatient: Target) -> None:
    vectors = corpus("llhttp/llhttp_request_vectors.json")
    talks = await converse_all(impatient, [base64.b64decode(v["b64"]) for v in vectors], quiet_s=0.3, total_s=7.0)
    wrong = {}
    for vector, talk in zip(vectors, talks, strict=True):
        accepted = sum(status not in (400, 405, 408, 431) for status in talk.statuses)
        assert accepted <= 1  # nothing behind a first message is ever read
        if vector["expect"] == "error" and accepted > vector["messages"]:
            wrong[vector["name"]] = talk.statuses
        assert all(100 < status < 500 for status in talk.statuses), vector["name"]
    assert wrong == {}
    assert sum(vector["expect"] == "error" for vector in vectors) == 74


# A table of our own. Each row: a name, and what follows from a target.

REQUEST_LINES: dict[str, bytes] = {
    "http/0.9": b"GET /v1/models\r\n",
    "http/0.9 literal": b"GET /v1/models HTTP/0.9\r\n",
    "http/2.0 literal": b"GET /v1/models HTTP/2.0\r\n",
    "http/1.2": b"GET /v1/models HTTP/1.2\r\n",
    "http/1.10": b"GET /v1/models HTTP/1.10\r\n",
    "http/01.1": b"GET /v1/models HTTP/01.1\r\n",
    "lower-case version": b"GET /v1/models http/1.1\r\n",
    "rtsp": b"GET /v1/models RTSP/1.1\r\n",
    "prior knowledge h2": b"PRI * HTTP/2.0\r\n",
    "two spaces": b"GET  /v1/models HTTP/1.1\r\n",
    "space in the target": b"GET /v1/mo dels HTTP/1.1\r\n",
    "trailing space": b"GET /v1/models HTTP/1.1 \r\n",
    "tab for space": b"GET\t/v1/models\tHTTP/1.1\r\n",
    "lower-case method": b"get /v1/models HTTP/1.1\r\n",
    "absolute form": b"GET http://evil/v1/models HTTP/1.1\r\n",
    "authority form": b"CONNECT evil:443 HTTP/1.1\r\n",
    "asterisk form": b"OPTIONS * HTTP/1.1\r\n",
    "percent": b"GET /v1/%6dodels HTTP/1.1\r\n",
    "encoded slash": b"GET /v1%2fmodels HTTP/1.1\r\n",
    "encoded nul": b"GET /v1/models%00 HTTP/1.1\r\n",
    "two slashes": b"GET //v1/models HTTP/1.1\r\n",
    "two slashes inside": b"GET /v1//models HTTP/1.1\r\n",
    "dot segment": b"GET /v1/./models HTTP/1.1\r\n",
    "dot-dot segment": b"GET /v1/../metrics HTTP/1.1\r\n",
    "ends in dot-dot": b"GET /v1/.. HTTP/1.1\r\n",
    "backslash": b"GET /v1\\models HTTP/1.1\r\n",
    "path parameter": b"GET /v1/models;a=b HTTP/1.1\r\n",
    "colon": b"GET /v1/models/a:b HTTP/1.1\r\n",
    "at sign": b"GET /v1/@evil HTTP/1.1\r\n",
    "fragment": b"GET /v1/models#/../x HTTP/1.1\r\n",
    "fragment in the query": b"GET /v1/models?a#b HTTP/1.1\r\n",
    "nul": b"GET /v1/models\x00 HTTP/1.1\r\n",
    "latin-1": b"GET /v1/mod\xe9ls HTTP/1.1\r\n",
    "utf-8": "GET /v1/modéls HTTP/1.1\r\n".encode(),
    "latin-1 query": b"GET /v1/models?a=\xe9 HTTP/1.1\r\n",
    "long query": b"GET /v1/models?a=" + b"b" * 1023 + b" HTTP/1.1\r\n",
    "long path": b"GET /v1/" + b"b" * 1024 + b" HTTP/1.1\r\n",
    "no target": b"GET HTTP/1.1\r\n",
    "unknown method": b"FROBNICATE /v1/models HTTP/1.1\r\n",
    "bare lf": b"GET /v1/models HTTP/1.1\n",
}

FIELDS: dict[str, tuple[bytes, ...]] = {
    "second host": (b"Host: evil",),
    "host again": (b"host: 127.0.0.1",),
    "underscore name": (b"X_Forwarded_For: 1",),
    "content_length": (b"Content_Length: 4",),
    "space before colon": (b"X-A : b",),
    "tab before colon": (b"X-A\t: b",),
    "no colon": (b"X-A",),
    "empty name": (b": b",),
    "folded": (b"X-A: b\r\n c",),
    "folded with tab": (b"X-A: b\r\n\tc",),
    "leading space": (b" X-A: b",),
    "bare lf": (b"X-A: b\nX-B: c",),
    "bare cr": (b"X-A: b\rX-B: c",),
    "nul value": (b"X-A: b\x00c",),
    "escape value": (b"X-A: \x1b[2J",),
    "tab value": (b"X-A: b\tc",),
    "delete value": (b"X-A: \x7f",),
    "latin-1 name": (b"X-\xe9: b",),
    "punctuated name": (b"X!A: b",),
    "two types": (b"Content-Type: application/json", b"Content-Type: text/plain"),
    "two lengths": (b"Content-Length: 0", b"Content-Length: 0"),
    "list of lengths": (b"Content-Length: 0, 0",),
    "signed length": (b"Content-Length: +0",),
    "negative length": (b"Content-Length: -1",),
    "hex length": (b"Content-Length: 0x1",),
    "length overflow": (b"Content-Length: 18446744073709551617",),
    "empty length": (b"Content-Length:",),
    "length and chunked": (b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    "chunked twice": (b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "comma chunked": (b"Transfer-Encoding: ,chunked",),
    "chunked comma": (b"Transfer-Encoding: chunked,",),
    "gzip chunked": (b"Transfer-Encoding: gzip, chunked",),
    "identity": (b"Transfer-Encoding: identity",),
    "quoted chunked": (b'Transfer-Encoding: "chunked"',),
    "chunked with parameter": (b"Transfer-Encoding: chunked;q=1",),
    "xchunked": (b"Transfer-Encoding: xchunked",),
    "expect": (b"Expect: 200-ok",),
    "expect twice": (b"Expect: 100-continue", b"Expect: 100-continue"),
    "upgrade": (b"Connection: upgrade", b"Upgrade: websocket"),
    "upgrade to h2c": (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__"),
    "trailer": (b"Trailer: X-A",),
    "te gzip": (b"TE: gzip",),
    "two encodings": (b"Content-Encoding: gzip", b"Content-Encoding: identity"),
    "two traceparents": (b"traceparent: 00-a-b-01", b"Traceparent: 00-a-b-01"),
}

HOSTS = ["", "a/#@evil", "a b", "user@evil", "[::1", "a:b", "a:999999", "http://a", "a,b", "a\\b", "-a", "a?b", "a%00", "é"]


async def test_every_odd_request_line_is_refused(edge: Target) -> None:
    payloads = [line + edge.host_field + edge.credential_field + b"\r\n" for line in REQUEST_LINES.values()]
    talks = await converse_all(edge, payloads)
    pairs = zip(REQUEST_LINES, talks, strict=True)
    odd = {name: talk.statuses for name, talk in pairs if talk.status not in (400, 405) or not is_our_error(talk)}
    assert odd == {}


async def test_every_odd_field_is_refused(edge: Target) -> None:
    payloads = [edge.head("POST", None, *fields) + b"\r\n" for fields in FIELDS.values()]
    talks = await converse_all(edge, payloads)
    odd = {name: talk.statuses for name, talk in zip(FIELDS, talks, strict=True) if talk.status != 400 or not is_our_error(talk)}
    assert odd == {}


async def test_host_is_needed_once_and_well_formed(edge: Target) -> None:
    fields = [b"", b"Host:\r\n", *(b"Host: %b\r\n" % host.encode() for host in HOSTS)]
    lines = [(b"GET /v1/models HTTP/1.%d\r\n" % minor) + field + edge.credential_field + b"\r\n" for field in fields for minor in (0, 1)]
    talks = await converse_all(edge, lines)
    assert [talk.status for talk in talks] == [400] * len(lines)
    assert all(is_our_error(talk) for talk in talks)


async def test_methods_without_an_answer_stop_at_the_edge(edge: Target) -> None:
    methods = ["TRACE", "PROPFIND", "SEARCH", "MKCOL", "PURGE", "LOCK", "QUERY", "SUBSCRIBE"]
    talks = await converse_all(edge, [edge.head(method) + b"\r\n" for method in methods])
    assert [talk.status for talk in talks] == [405] * len(methods)
    assert all(is_our_error(talk) for talk in talks)


async def test_two_credentials_of_a_kind_are_401_with_a_challenge(edge: Target) -> None:
    for name in (b"Authorization: Bearer a", b"api-key: a"):
        talk = await converse(edge, b"GET /v1/models HTTP/1.1\r\n" + edge.host_field + name + b"\r\n" + name + b"b\r\n\r\n")
        assert (talk.status, is_our_error(talk)) == (401, True)
        assert talk.answers[0].header("www-authenticate") == "Bearer"
        assert json.loads(talk.answers[0].body)["error"]["code"] == "invalid_token"


async def test_a_body_on_get_is_refused(edge: Target) -> None:
    for fields in ((b"Content-Length: 2",), (b"Transfer-Encoding: chunked",)):
        talk = await converse(edge, edge.head("GET", "/v1/models", *fields) + b"\r\n{}")
        assert (talk.status, is_our_error(talk)) == (400, True)


async def test_head_bytes_and_field_count_are_bounded(edge: Target) -> None:
    cases = {
        "long value": edge.head("GET", "/v1/models", b"X-A: " + b"b" * 33_000) + b"\r\n",
        "long name": edge.head("GET", "/v1/models", b"X" * 33_000 + b": b") + b"\r\n",
        "long line": b"GET /" + b"a" * 40_000,
        "many fields": edge.head("GET", "/v1/models", *[b"X-%d: a" % n for n in range(64)]) + b"\r\n",
        "a hundred thousand fields": edge.head("GET", "/v1/models", *[b"a:" for _ in range(100_000)]) + b"\r\n",
    }
    talks = await converse_all(edge, list(cases.values()))
    assert {name: talk.status for name, talk in zip(cases, talks, strict=True)} == dict.fromkeys(cases, 431)
    assert all(is_our_error(talk) for talk in talks)


async def test_a_64_mb_header_costs_no_memory(edge: Target) -> None:
    before = (await stats(edge))["rss_kib"]
    piece = b"b" * MEBI
    endless = [edge.head("GET", "/v1/models", b"X-A: ")[:-2], *[piece] * 64]
    talks = await asyncio.gather(*(converse(edge, endless, gap_s=0) for _ in range(4)))
    assert [talk.status for talk in talks] == [431] * 4
    assert (await stats(edge))["rss_kib"] - before < 8 * 1024


async def test_legitimate_requests_are_served(edge: Target) -> None:
    if target_from_env() is not None:
        pytest.skip("needs the echo application")
    post = edge.post(b'{"a": 1}')
    chunked = edge.head("POST", None, b"Transfer-Encoding: Chunked") + b"\r\n" + b'4\r\n{"a"\r\n4;x=y\r\n: 1}\r\n0\r\n\r\n'
    cases: dict[str, bytes | list[bytes]] = {
        "post": post,
        "a byte at a time": [post[i : i + 1] for i in range(len(post))],
        "empty line first": b"\r\n" + post,
        "chunked": chunked,
        "latin-1 value": edge.head("POST", None, b"X-A: caf\xe9", b"Content-Length: 8") + b'\r\n{"a": 1}',
        "empty value": edge.head("POST", None, b"X-A:", b"Content-Length: 8") + b'\r\n{"a": 1}',
        "te trailers": edge.head("POST", None, b"TE: trailers", b"Content-Length: 8") + b'\r\n{"a": 1}',
        "query": edge.post(b'{"a": 1}').replace(b" HTTP/1.1", b"?api-version=2024-10-21&a=%20 HTTP/1.1", 1),
        "sixty fields": edge.head("POST", None, *[b"X-%d: a" % n for n in range(60)], b"Content-Length: 8") + b'\r\n{"a": 1}',
        "16 KiB token": edge.head("POST", None, b"Authorization: Bearer " + b"a" * 16_384, b"Content-Length: 8") + b'\r\n{"a": 1}',
        "http/1.0": edge.post(b'{"a": 1}').replace(b"HTTP/1.1", b"HTTP/1.0", 1),
        "expect": [edge.head("POST", None, b"Expect: 100-continue", b"Content-Length: 8") + b"\r\n", b'{"a": 1}'],
    }
    talks = await asyncio.gather(*(converse(edge, pieces, gap_s=0.001) for pieces in cases.values()))
    for name, talk in zip(cases, talks, strict=True):
        assert talk.statuses == [200], name
        assert json.loads(talk.answers[0].body)["first"] == '{"a": 1}', name


async def test_a_large_body_with_its_head_in_one_segment_is_served(edge: Target) -> None:
    if target_from_env() is not None:
        pytest.skip("needs the echo application")
    for size in (300_000, 900_000):
        talk = await converse(edge, edge.post(b"x" * size))
        assert (talk.status, json.loads(talk.answers[0].body)["size"]) == (200, size)
    chunks = b"".join(b"400\r\n" + b"x" * 1024 + b"\r\n" for _ in range(800)) + b"0\r\n\r\n"
    talk = await converse(edge, edge.head("POST", None, JSON, b"Transfer-Encoding: chunked") + b"\r\n" + chunks)
    assert json.loads(talk.answers[0].body)["size"] == 819_200


async def test_trailers_never_become_headers(edge: Target) -> None:
    if target_from_env() is not None:
        pytest.skip("needs the echo application")
    head = edge.head("POST", None, JSON, b"Transfer-Encoding: chunked") + b"\r\n"
    body = b"2\r\n{}\r\n0\r\nAuthorization: Bearer stolen\r\nHost: evil\r\nContent-Length: 9\r\n\r\n"
    for pieces in ([head + body], [head, body], [head + body[:20], body[20:]]):
        talk = await converse(edge, pieces)
        assert talk.statuses in ([200], [400])
        if talk.status == 200:
            told = json.loads(talk.answers[0].body)
            assert told["kind"] == "tuple"
            assert not {"authorization"} & {name for name, _ in told["headers"]}
            assert sum(name == "host" for name, _ in told["headers"]) == 1


async def test_chunk_extensions_and_trailers_are_bounded(edge: Target) -> None:
    head = edge.head("POST", None, JSON, b"Transfer-Encoding: chunked") + b"\r\n"
    floods = {
        "extension": [b"1;" + b"a" * 200_000],
        "extensions": [b"1;" + b"a" * 4000 + b"\r\nx\r\n" for _ in range(100)],
        "trailer": [b"0\r\nX-A: " + b"a" * 200_000],
        "trailers": [b"0\r\n", *[b"X-A: " + b"a" * 1000 + b"\r\n" for _ in range(200)]],
        "a byte a chunk": [b"1\r\nx\r\n" * 1000 for _ in range(50)],
    }
    for name, pieces in floods.items():
        talk = await converse(edge, [head, *pieces], gap_s=0)
        assert talk.statuses in ([400], [401]), name
        assert talk.closed, name


BAD_CHUNKS = {
    "no number": b"z\r\n",
    "negative": b"-1\r\n",
    "hex prefix": b"0x2\r\n{}\r\n0\r\n\r\n",
    "overflow": b"fffffffffffffffff\r\n",
    "bare lf": b"2\n{}\n0\n\n",
    "space before number": b" 2\r\n{}\r\n0\r\n\r\n",
    "space after number": b"2 \r\n{}\r\n0\r\n\r\n",
    "data too long": b"2\r\n{}}\r\n0\r\n\r\n",
    "cr in extension": b"2;a\rb\r\n{}\r\n0\r\n\r\n",
    "lf in extension": b"2;a\nb\r\n{}\r\n0\r\n\r\n",
    "no crlf after data": b"2\r\n{}0\r\n\r\n",
}


async def test_bad_chunks_are_refused_whether_or_not_the_application_runs(edge: Target) -> None:
    head = edge.head("POST", None, JSON, b"Transfer-Encoding: chunked") + b"\r\n"
    together = await converse_all(edge, [head + chunk for chunk in BAD_CHUNKS.values()])
    apart = [await converse(edge, [head, chunk], gap_s=0.03) for chunk in BAD_CHUNKS.values()]
    for name, one, two in zip(BAD_CHUNKS, together, apart, strict=True):
        for talk in (one, two):
            assert talk.status in (400, 401), (name, talk.raw)
            assert talk.closed and len(talk.answers) == 1, name


async def test_what_stands_behind_a_request_is_never_served(edge: Target) -> None:
    after = [edge.get("/smuggled"), b"GARBAGE\r\n\r\n", b"\x00\x01", b"\r\n\r\n\r\n" + edge.get("/smuggled")]
    talks = await converse_all(edge, [edge.post() + more for more in after], until_closed=True, total_s=4.0)
    for talk in talks:
        assert len(talk.answers) == 1 and talk.closed and talk.answers[0].complete
        assert talk.answers[0].header("connection") == "close"
    if target_from_env() is None:
        assert "/smuggled" not in (await stats(edge))["paths"]


async def test_connections_are_kept_for_the_next_request(edge: Target) -> None:
    talk = await converse(edge, [edge.get()] * 5, gap_s=0.1)
    assert len(talk.answers) == 5 and not talk.closed
    assert len(set(talk.statuses)) == 1


async def test_a_failing_application_is_a_constant_500(edge: Target) -> None:
    if target_from_env() is not None:
        pytest.skip("needs the echo application")
    for path in ("/crash", "/silent"):
        talk = await converse(edge, edge.get(path))
        assert talk.status == 500 and is_our_error(talk)
        assert b"secret" not in talk.raw and b"ValueError" not in talk.raw


async def test_an_early_answer_reaches_a_client_that_is_still_sending(edge: Target) -> None:
    if target_from_env() is not None:
        pytest.skip("needs the echo application")
    early = await converse(edge, [edge.head("POST", "/early", b"Content-Length: 9000000") + b"\r\n", *[b"x" * 60_000] * 4], gap_s=0.05)
    assert early.statuses == [401] and early.closed and early.answers[0].header("connection") == "close"
    big = await converse(edge, [edge.head("POST", None, b"Content-Length: 9000000") + b"\r\n", *[b"x" * 100_000] * 90], gap_s=0)
    assert big.statuses == [413] and big.closed
    endless = [edge.head("POST", None, JSON, b"Transfer-Encoding: chunked") + b"\r\n", *[b"10000\r\n" + b"x" * 65536 + b"\r\n"] * 100]
    undeclared = await converse(edge, endless, gap_s=0)
    assert undeclared.statuses == [413] and undeclared.closed


async def test_a_partial_head_is_408_at_5_s_while_others_are_served(edge: Target) -> None:
    async def slow(pieces: list[bytes], gap_s: float) -> Conversation:
        return await converse(edge, pieces, gap_s=gap_s, until_closed=True, total_s=8.0)

    trickle = [bytes([byte]) for byte in edge.head("POST", None, b"X-A: " + b"a" * 400)]
    sockets = [slow([edge.head("GET", "/v1/models")], 0) for _ in range(100)] + [slow([b"G"], 0), slow([b""], 0), slow(trickle, 0.1)]
    waiting = [asyncio.ensure_future(one) for one in sockets]
    await asyncio.sleep(1.0)
    times = []
    for _ in range(100):
        began = time.perf_counter()
        assert (await converse(edge, edge.get(), quiet_s=0.001)).status < 500
        times.append(time.perf_counter() - began)
    talks = await asyncio.gather(*waiting)
    assert {talk.status for talk in talks} == {408}
    assert all(is_our_error(talk) for talk in talks)
    assert all(4.9 < talk.seconds < 6.0 for talk in talks), sorted(talk.seconds for talk in talks)
    assert sorted(times)[95] < 0.25


# Time, watched fast


async def test_the_head_deadline_holds_for_later_requests_too(quick: Target) -> None:
    talk = await converse(quick, [quick.get(), b"GET /v1/mod"], gap_s=0.2, until_closed=True, total_s=3.0)
    assert talk.statuses == [200, 408] and 0.6 < talk.seconds < 1.2


async def test_an_idle_connection_is_closed_without_a_word(quick: Target) -> None:
    talk = await converse(quick, quick.get(), until_closed=True, total_s=3.0)
    assert talk.statuses == [200] and talk.closed and 0.5 < talk.seconds < 1.2


async def test_a_body_that_stops_or_crawls_is_408(quick: Target) -> None:
    head = quick.head("POST", None, b"Content-Length: 100000") + b"\r\n"
    chunked = quick.head("POST", None, b"Transfer-Encoding: chunked") + b"\r\n1;"
    stopped, crawling, extension, steady = await asyncio.gather(
        converse(quick, [head + b"x" * 10], until_closed=True, total_s=4.0),
        converse(quick, [head, *[b"x" * 10] * 100], gap_s=0.1, until_closed=True, total_s=6.0),
        converse(quick, [chunked, *[b"a"] * 100], gap_s=0.1, until_closed=True, total_s=6.0),
        converse(quick, [head, *[b"x" * 10_000] * 10], gap_s=0.15),
    )
    assert stopped.statuses == [408] and is_our_error(stopped) and 0.4 < stopped.seconds < 1.0
    assert crawling.statuses == [408] and 0.9 < crawling.seconds < 2.0
    assert extension.statuses == [408] and 0.9 < extension.seconds < 2.0
    assert steady.statuses == [200]


async def test_a_client_that_stops_reading_is_cut_and_memory_stays_flat(quick: Target) -> None:
    before = (await stats(quick))["rss_kib"]
    began = time.monotonic()
    sockets = []
    for _ in range(8):
        reader, writer = await asyncio.open_connection(quick.host, quick.port, limit=1024)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(quick.get("/flood"))
        sockets.append((reader, writer))
    await asyncio.sleep(0.5)
    assert (await stats(quick))["rss_kib"] - before < 12 * 1024
    await asyncio.sleep(max(0.0, began + 2.2 - time.monotonic()))
    for _, writer in sockets:
        writer.transport.abort()
    talk = await converse(quick, quick.get())
    assert talk.status == 200
    # Cut while the client was still there: the edge has no more than the connections that ask now.
    many = await converse_all(quick, [quick.get()] * 18, quiet_s=0.1)
    assert [t.status for t in many] == [200] * 18


async def test_the_connection_cap_answers_503_at_once(quick: Target) -> None:
    held = [await asyncio.open_connection(quick.host, quick.port) for _ in range(20)]
    await asyncio.sleep(0.05)
    talk = await converse(quick, quick.get(), until_closed=True, total_s=3.0)
    for _, writer in held:
        writer.transport.abort()
    assert talk.status == 503 and is_our_error(talk) and talk.answers[0].header("retry-after") == "1"
    await asyncio.sleep(0.1)
    assert (await converse(quick, quick.get())).status == 200


async def test_a_client_that_leaves_is_told_to_the_application(quick: Target) -> None:
    gone = (await stats(quick))["gone"]
    for _ in range(5):
        _, writer = await asyncio.open_connection(quick.host, quick.port)
        writer.write(quick.get("/wait"))
        await asyncio.sleep(0.05)
        writer.close()
    await asyncio.sleep(0.2)
    assert (await stats(quick))["gone"] - gone == 5
