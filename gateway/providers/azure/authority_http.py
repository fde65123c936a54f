"""How do the identity SDKs speak to the authority? One bounded exchange a connection, in the calling thread.

It has the shape the SDK asks of an HTTP client (`get`, `post`, answers with `status_code`, `text`, `headers`). It follows no
redirect, reads no proxy, netrc or cookie, keeps no connection, and takes only a JSON object. Certificates are verified against
the system's trust and, where given, one more file.

SECURITY: a client's secret goes to the authority named in settings and to no other host, whatever a discovery document says.
Plain HTTP is for the instance metadata service: link-local or loopback addresses, by number.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import ssl
import threading
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

MAX_ANSWER: Final = 262_144  # an answer with two tokens for a user in 200 groups is about 20 KiB
TIMEOUT_S: Final = 8.0
_CONNECT_S: Final = 3.0
_READ: Final = 16_384
_RETRY_AFTER_CAP_S: Final = 3600.0


class Answer:
    """What the SDK reads of an answer."""

    def __init__(self, status_code: int, text: str, headers: Mapping[str, str]) -> None:
        self.status_code = status_code
        self.text = text
        self.headers = dict(headers)

    def raise_for_status(self) -> None:
        if self.status_code >= 400:
            raise OSError(f"the authority answered {self.status_code}")


class AuthorityHttp:
    """An HTTP client for one authority. Safe to use from several threads; `retry_after_s` is what this thread's last answer asked."""

    def __init__(self, host: str = "", *, ca_file: str | None = None, metadata: bool = False) -> None:
        """`host` (with its port, as in the authority's URL) is the only one spoken to; `metadata` allows the metadata service alone.

        Raises `OSError` for a `ca_file` that cannot be read.
        """
        self._host = host.lower()
        self._metadata = metadata
        self._tls = ssl.create_default_context()
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_2
        if ca_file:
            self._tls.load_verify_locations(ca_file)
        self._last = threading.local()

    @property
    def retry_after_s(self) -> float:
        return float(getattr(self._last, "retry_after_s", 0.0))

    def get(self, url: str, *, params: Mapping[str, Any] | None = None, headers: Mapping[str, Any] | None = None, **_: Any) -> Answer:
        return self._exchange("GET", url, params, headers, None)

    def post(
        self,
        url: str,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> Answer:
        return self._exchange("POST", url, params, headers, urlencode(dict(data or {})).encode("ascii"))

    def forget(self) -> None:
        """Begin anew in this thread: what an earlier answer asked for is past."""
        self._last.retry_after_s = 0.0

    def close(self) -> None:
        """Nothing is kept open."""

    def _exchange(
        self, method: str, url: str, params: Mapping[str, Any] | None, headers: Mapping[str, Any] | None, body: bytes | None
    ) -> Answer:
        self.forget()
        parts = urlsplit(url)
        connection = self._connection(parts.scheme, parts.netloc, parts.hostname or "", parts.port)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if params:
            target += ("&" if parts.query else "?") + urlencode({k: v for k, v in params.items() if v is not None})
        sent = {k: v for k, v in (headers or {}).items() if isinstance(v, str)} | {"accept-encoding": "identity", "connection": "close"}
        if body is not None:
            sent["content-type"] = "application/x-www-form-urlencoded"
        end_s = time.monotonic() + TIMEOUT_S
        try:
            connection.connect()
            if connection.sock is not None:
                connection.sock.settimeout(TIMEOUT_S)
            connection.request(method, target, body, sent)
            response = connection.getresponse()
            answered = {name.lower(): value for name, value in response.getheaders()}
            self._last.retry_after_s = _retry_after(answered.get("retry-after", ""))
            return Answer(response.status, _read(response, end_s), answered)
        except http.client.HTTPException:
            raise OSError("the authority's answer is not HTTP") from None
        finally:
            connection.close()

    def _connection(self, scheme: str, netloc: str, host: str, port: int | None) -> http.client.HTTPConnection:
        if self._metadata:
            if scheme == "http" and _is_local(host):
                return http.client.HTTPConnection(host, port, timeout=_CONNECT_S)
            raise OSError("the metadata service is plain http at a link-local or loopback address")
        if scheme != "https" or netloc.lower() != self._host:
            raise OSError("the authority named another host for its tokens")
        return http.client.HTTPSConnection(host, port, timeout=_CONNECT_S, context=self._tls)


def _read(response: http.client.HTTPResponse, end_s: float) -> str:
    """Return the body, which must be a JSON object: what the SDK would do with anything else is log it."""
    data = bytearray()
    while part := response.read1(_READ):
        data += part
        if len(data) > MAX_ANSWER or time.monotonic() > end_s:
            raise OSError("the authority's answer is too large or too slow")
    if 300 <= response.status < 400:
        raise OSError("the authority answered with a redirect")
    try:
        text = data.decode("utf-8")
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise OSError(f"the authority answered {response.status} without JSON") from None
    if not isinstance(found, dict):
        raise OSError(f"the authority answered {response.status} without a JSON object")
    return text


def _is_local(host: str) -> bool:
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        return False
    return address.is_link_local or address.is_loopback


def _retry_after(value: str) -> float:
    """Return whole seconds; a date is not used by the authority."""
    return min(float(value), _RETRY_AFTER_CAP_S) if value.isascii() and value.isdigit() and len(value) < 8 else 0.0
