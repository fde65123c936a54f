from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.head import BadHead, Fault, Framing, Target, check_partial, check_syntax, read_fields, read_line

HOST = (b"host", b"gateway.internal:8080")
POST = Target("POST", b"/v1/chat/completions", b"", "1.1", 0)
POST_1_0 = Target("POST", b"/v1/chat/completions", b"", "1.0", 0)
GET = Target("GET", b"/v1/models", b"", "1.1", 0)


def fault_of_line(raw: bytes) -> Fault | None:
    try:
        read_line(raw, 1024)
    except BadHead as bad:
        return bad.fault
    return None


def test_a_good_line_is_read_whole() -> None:
    line = b"POST /openai/deployments/gpt-4.1_x/chat/completions?api-version=2024-10-21 HTTP/1.1\r\n"
    target = read_line(line + b"Host: a\r\n\r\n", 1024)
    assert target == Target("POST", b"/openai/deployments/gpt-4.1_x/chat/completions", b"api-version=2024-10-21", "1.1", len(line))
    assert read_line(b"GET / HTTP/1.0\r\n", 1024).version == "1.0"


@pytest.mark.parametrize(
    ("raw", "fault"),
    [
        (b"GET /a HTTP/1.1\n", Fault.REQUEST_LINE),
        (b"GET /a\r\n", Fault.REQUEST_LINE),
        (b"GET  /a HTTP/1.1\r\n", Fault.REQUEST_LINE),
        (b"GET /a HTTP/1.1 \r\n", Fault.REQUEST_LINE),
        (b"GET /a HTTP/2.0\r\n", Fault.REQUEST_LINE),
        (b"get /a HTTP/1.1\r\n", Fault.REQUEST_LINE),
        (b"GET http://a/b HTTP/1.1\r\n", Fault.PATH),
        (b"GET /a%62 HTTP/1.1\r\n", Fault.PATH),
        (b"GET /a//b HTTP/1.1\r\n", Fault.PATH),
        (b"GET /a/../b HTTP/1.1\r\n", Fault.PATH),
        (b"GET /a/.. HTTP/1.1\r\n", Fault.PATH),
        (b"GET /. HTTP/1.1\r\n", Fault.PATH),
        (b"GET /a#b HTTP/1.1\r\n", Fault.PATH),
        (b"GET * HTTP/1.1\r\n", Fault.PATH),
        (b"GET /a?b#c HTTP/1.1\r\n", Fault.QUERY),
        (b"GET /a?\xe9 HTTP/1.1\r\n", Fault.QUERY),
        (b"GET /a?" + b"b" * 1025 + b" HTTP/1.1\r\n", Fault.QUERY),
        (b"TRACE /a HTTP/1.1\r\n", Fault.METHOD),
    ],
)
def test_odd_lines_break_the_rule_they_should(raw: bytes, fault: Fault) -> None:
    assert fault_of_line(raw) is fault


def test_dots_within_names_are_no_dot_segments() -> None:
    for path in (b"/v1/models/gpt-4.1", b"/.well", b"/a/..b", b"/a/b..", b"/a..b/c"):
        assert fault_of_line(b"GET " + path + b" HTTP/1.1\r\n") is None


@given(st.binary(max_size=60))
def test_whatever_is_accepted_as_a_path_needs_no_decoding(noise: bytes) -> None:
    raw = b"GET /" + noise + b" HTTP/1.1\r\n"
    if fault_of_line(raw) is None:
        target = read_line(raw, 1024)
        assert re.fullmatch(rb"/[A-Za-z0-9._~/-]*", target.path)
        assert not {b"", b".", b".."} & set(target.path.split(b"/")[1:-1])
        assert raw.startswith(b"GET " + target.path)


@given(st.binary(max_size=80))
def test_field_bytes_hold_no_control_character_once_accepted(noise: bytes) -> None:
    raw = b"X-A: " + noise + b"\r\n\r\n"
    try:
        check_syntax(raw, 0, len(raw))
    except BadHead:
        return
    for line in raw[:-4].split(b"\r\n"):
        assert re.fullmatch(rb"[A-Za-z0-9-]+:[^\x00-\x1f\x7f]*", line)


def test_partial_heads_that_cannot_become_good_are_refused_early() -> None:
    check_partial(b"GE", 0, 1024)
    check_partial(b"GET /a HTTP/1.1\r\nHost: a\r", 0, 1024)
    for raw in (b"\x16\x03\x01\x02\x00", b" GET", b"get /", b"GET /a HTTP/1.1\nHost", b"GET /%00 HTTP/1.1\r\n"):
        with pytest.raises(BadHead):
            check_partial(raw, 0, 1024)


def fault_of_fields(*headers: tuple[bytes, bytes], target: Target = POST) -> Fault | None:
    try:
        read_fields([HOST, *headers], target)
    except BadHead as bad:
        return bad.fault
    return None


def test_framing_is_read_in_the_one_way_it_can_be() -> None:
    assert read_fields([HOST], POST) == Framing(False, 0, False)
    assert read_fields([HOST, (b"content-length", b"7")], POST) == Framing(False, 7, False)
    assert read_fields([HOST, (b"transfer-encoding", b"CHUNKED")], POST) == Framing(True, 0, False)
    assert read_fields([HOST, (b"expect", b"100-Continue")], POST).expects_continue
    assert read_fields([HOST, (b"accept", b"a"), (b"accept", b"b")], POST) == Framing(False, 0, False)


@pytest.mark.parametrize(
    ("headers", "fault"),
    [
        ([(b"content-length", b"1"), (b"transfer-encoding", b"chunked")], Fault.FRAMING),
        ([(b"content-length", b"+1")], Fault.FRAMING),
        ([(b"content-length", b"1" * 16)], Fault.FRAMING),
        ([(b"content-length", "１".encode())], Fault.FRAMING),
        ([(b"transfer-encoding", b"gzip, chunked")], Fault.FRAMING),
        ([(b"content-length", b"1"), (b"content-length", b"1")], Fault.DUPLICATE),
        ([(b"host", b"gateway.internal:8080")], Fault.DUPLICATE),
        ([(b"content-type", b"a"), (b"content-type", b"a")], Fault.DUPLICATE),
        ([(b"authorization", b"Bearer a"), (b"authorization", b"Bearer b")], Fault.CREDENTIALS),
        ([(b"api-key", b"a"), (b"api-key", b"a")], Fault.CREDENTIALS),
        ([(b"upgrade", b"h2c")], Fault.UNWANTED_FIELD),
        ([(b"trailer", b"x")], Fault.UNWANTED_FIELD),
        ([(b"te", b"gzip")], Fault.UNWANTED_FIELD),
        ([(b"expect", b"100-continue, x")], Fault.UNWANTED_FIELD),
    ],
)
def test_ambiguous_fields_break_the_rule_they_should(headers: list[tuple[bytes, bytes]], fault: Fault) -> None:
    assert fault_of_fields(*headers) is fault


def test_an_old_version_gets_no_chunks_and_no_expectations() -> None:
    assert fault_of_fields((b"transfer-encoding", b"chunked"), target=POST_1_0) is Fault.FRAMING
    assert fault_of_fields((b"expect", b"100-continue"), target=POST_1_0) is Fault.UNWANTED_FIELD
    assert fault_of_fields((b"content-length", b"1"), target=GET) is Fault.FRAMING
    assert fault_of_fields((b"content-length", b"0"), target=GET) is None


@pytest.mark.parametrize("host", [b"a", b"a.b-c.svc.cluster.local", b"my_service:80", b"127.0.0.1:8080", b"[::1]:8080", b"A.B."])
def test_good_hosts(host: bytes) -> None:
    assert read_fields([(b"host", host)], GET) == Framing(False, 0, False)


@pytest.mark.parametrize("host", [b"", b"a/#@evil", b"u@h", b"a b", b"a:", b"a:x", b"[::1", b"::1", b"a,b", b"a?b", b"\xe9", b"a" * 300])
def test_bad_hosts(host: bytes) -> None:
    with pytest.raises(BadHead) as bad:
        read_fields([(b"host", host)], GET)
    assert bad.value.fault is Fault.HOST
