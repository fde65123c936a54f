"""Is this request head one that can be read in only one way?

Sans-I/O: takes the bytes of a request line and its fields, says what they mean or which rule they break. It reads the raw
bytes with its own grammar, narrower than RFC 9112, before and beside llhttp: what both accept is served, so that a leniency
of either is not a way in. It must not decide who may ask, nor which path exists, and it never echoes what it read.
RFC 9110 sections 5.5, 7.2, 10.1.1; RFC 9112 sections 3, 5.2, 6.1, 6.3.
"""

from __future__ import annotations

import re
from enum import StrEnum

import msgspec

from gateway import refusals
from gateway.refusals import Kind


class Fault(StrEnum):
    """Which rule was broken. A closed set: these are counter names, never text from the wire."""

    REQUEST_LINE = "request_line"
    METHOD = "method"
    PATH = "path"
    QUERY = "query"
    FIELD_SYNTAX = "field_syntax"
    FIELD_COUNT = "field_count"
    HEAD_BYTES = "head_bytes"
    HOST = "host"
    DUPLICATE = "duplicate"
    CREDENTIALS = "credentials"
    FRAMING = "framing"
    UNWANTED_FIELD = "unwanted_field"
    PARSER = "parser"
    CHUNKING = "chunking"
    PIPELINED = "pipelined"
    HEAD_TIMEOUT = "head_timeout"
    BODY_TIMEOUT = "body_timeout"
    CAPACITY = "capacity"


KIND_OF_FAULT: dict[Fault, Kind] = {
    Fault.METHOD: refusals.METHOD_NOT_ALLOWED,
    Fault.FIELD_COUNT: refusals.HEADERS_TOO_LARGE,
    Fault.HEAD_BYTES: refusals.HEADERS_TOO_LARGE,
    Fault.CREDENTIALS: refusals.INVALID_TOKEN,
    Fault.HEAD_TIMEOUT: refusals.HEADER_TIMEOUT,
    Fault.BODY_TIMEOUT: refusals.HEADER_TIMEOUT,
    Fault.CAPACITY: refusals.OVERLOADED,
}


class BadHead(Exception):
    """The head breaks a rule. Carries the rule alone."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.value)
        self.fault = fault


class Target(msgspec.Struct, frozen=True):
    """A request line, read. `path` needs no decoding: every byte that could need it was refused."""

    method: str
    path: bytes
    query: bytes
    version: str  # "1.1" | "1.0"
    fields_at: int  # offset of the first field


class Framing(msgspec.Struct, frozen=True):
    """How the body is delimited, and what the client waits for."""

    chunked: bool
    content_length: int  # 0 where there is no body or it is chunked
    expects_continue: bool


# What the application may see at all. It answers 401, 404 or 405 itself, in that order, so that an unknown caller learns
# nothing from the method; TRACE, CONNECT and the extension methods llhttp knows have no such answer and stop here.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_BODILESS = frozenset({"GET", "HEAD"})

# SECURITY: `%`, `;`, `\`, `:`, `@` and everything beyond ASCII are refused before any decoding, so no later layer can read
# the path differently (CVE-2026-48710, CVE-2026-54282). `#` never belongs in a request target (GHSA-pxq7-h93f-9jrg).
_LINE = re.compile(rb"([A-Z]{3,16}+) ([^ \r\n?]++)(?:\?([^ \r\n]*+))? HTTP/1\.([01])\r\n")
_PATH = re.compile(rb"/[A-Za-z0-9._~/-]*+")
_QUERY = re.compile(rb"[\x21\x22\x24-\x7e]*+")
# SECURITY: no `_` in a name (CVE-2025-64484), no space before the colon, no folding, no bare CR or LF, no control character,
# TAB included. Bytes 0x80-0xff are obs-text, legal in a value.
_FIELDS = re.compile(rb"(?:[A-Za-z0-9-]++:[\x20-\x7e\x80-\xff]*+\r\n)*+\r\n")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_HOST = re.compile(
    rb"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252}[A-Za-z0-9.])?|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?",
)
_LENGTH = re.compile(rb"[0-9]{1,15}")

# A field of this set that comes twice means two readers may take different ones.
_SINGLETONS = frozenset(
    {
        b"host", b"content-length", b"transfer-encoding", b"content-type", b"content-encoding", b"expect", b"te",
        b"user-agent", b"origin", b"referer", b"date", b"max-forwards", b"traceparent", b"tracestate", b"x-request-id",
        b"x-ms-client-request-id", b"idempotency-key", b"proxy-authorization",
    }
)  # fmt: skip
_CREDENTIALS = frozenset({b"authorization", b"api-key", b"x-api-key"})
_UNWANTED = frozenset({b"upgrade", b"trailer", b"http2-settings"})

MAX_PATH_BYTES = 1024


def read_line(raw: bytes | bytearray, query_bytes: int) -> Target:
    """Read the request line at the start of `raw`, which must hold all of it. Raises `BadHead`."""
    line = _LINE.match(raw)
    if line is None:
        raise BadHead(Fault.REQUEST_LINE)
    method, path, query, minor = line.groups()
    name = method.decode("ascii")
    if _PATH.fullmatch(path) is None or len(path) > MAX_PATH_BYTES or b"//" in path or _has_dot_segment(path):
        raise BadHead(Fault.PATH)
    if query is None:
        query = b""
    elif len(query) > query_bytes or _QUERY.fullmatch(query) is None:
        raise BadHead(Fault.QUERY)
    if name not in METHODS:
        raise BadHead(Fault.METHOD)
    return Target(name, path, query, "1.1" if minor == b"1" else "1.0", line.end())


def _has_dot_segment(path: bytes) -> bool:
    return b"/." in path and not {b".", b".."}.isdisjoint(path.split(b"/"))


def check_partial(raw: bytes | bytearray, seen: int, query_bytes: int) -> None:
    """Refuse early a head that cannot become a good one; `raw[:seen]` was checked before. Raises `BadHead`."""
    if _BARE_LF.search(raw, seen) is not None or not 65 <= raw[0] <= 90:
        raise BadHead(Fault.FIELD_SYNTAX)
    if b"\r\n" in raw:
        read_line(raw, query_bytes)


def check_syntax(raw: bytes | bytearray, start: int, end: int) -> None:
    """Check the bytes of all fields and the empty line that ends them. Raises `BadHead`."""
    if _FIELDS.fullmatch(raw, start, end) is None:
        raise BadHead(Fault.FIELD_SYNTAX)


def read_fields(headers: list[tuple[bytes, bytes]], target: Target) -> Framing:
    """Decide the framing from parsed fields (lower-case names), refusing whatever could be read twice. Raises `BadHead`."""
    fields = dict(headers)
    if len(fields) != len(headers):
        _refuse_repeats(headers)
    if not _UNWANTED.isdisjoint(fields):
        raise BadHead(Fault.UNWANTED_FIELD)
    host = fields.get(b"host")
    if host is None or _HOST.fullmatch(host) is None:
        raise BadHead(Fault.HOST)
    te = fields.get(b"te")
    if te is not None and te.lower() != b"trailers":
        raise BadHead(Fault.UNWANTED_FIELD)
    expect = fields.get(b"expect")
    if expect is not None and (expect.lower() != b"100-continue" or target.version == "1.0"):
        raise BadHead(Fault.UNWANTED_FIELD)
    coding, length = fields.get(b"transfer-encoding"), fields.get(b"content-length")
    content_length = 0
    if length is not None:
        if coding is not None or _LENGTH.fullmatch(length) is None:
            raise BadHead(Fault.FRAMING)
        content_length = int(length)
    elif coding is not None and (coding.lower() != b"chunked" or target.version == "1.0"):
        raise BadHead(Fault.FRAMING)
    # SECURITY: a body that no operation reads is only good for hiding a second request in.
    if target.method in _BODILESS and (coding is not None or content_length):
        raise BadHead(Fault.FRAMING)
    return Framing(coding is not None, content_length, expect is not None)


def _refuse_repeats(headers: list[tuple[bytes, bytes]]) -> None:
    seen: set[bytes] = set()
    for name, _ in headers:
        if name in seen:
            if name in _CREDENTIALS:
                raise BadHead(Fault.CREDENTIALS)
            if name in _SINGLETONS:
                raise BadHead(Fault.DUPLICATE)
        seen.add(name)
