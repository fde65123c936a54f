"""Every way the gateway says no: code, status, whose fault, whether to come back. Rendered in one place (`http/reply.py`).

A refusal's public half (`message`, `param`, `inner`) is built from constants, our schema paths and policy ids, never from
the caller's text. Its private half (`detail`) goes to the audit record alone and holds no content either.
Source of the shapes: OpenAI's and Azure OpenAI's error bodies, as their SDKs and frameworks parse them.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec


class Fault(StrEnum):
    CALLER = "caller"
    US = "us"
    THEM = "them"


class Kind(msgspec.Struct, frozen=True):
    """One row of the table of refusals. `should_retry` None leaves the client's own rule for the status."""

    code: str
    status: int
    fault: Fault
    type: str
    message: str
    should_retry: bool | None = None


def _k(code: str, status: int, fault: Fault, type_: str, message: str, should_retry: bool | None = None) -> Kind:
    return Kind(code, status, fault, type_, message, should_retry)


_C, _U, _T = Fault.CALLER, Fault.US, Fault.THEM
_BAD = "invalid_request_error"

MALFORMED = _k("bad_request", 400, _C, _BAD, "the request is not well-formed HTTP")
HEADER_TIMEOUT = _k("request_timeout", 408, _C, _BAD, "the request was not completed in time", False)
HEADERS_TOO_LARGE = _k("headers_too_large", 431, _C, _BAD, "the request's header fields are too large")
INVALID_TOKEN = _k("invalid_token", 401, _C, "authentication_error", "a valid credential is required")
INVALID_API_KEY = _k("invalid_api_key", 401, _C, "authentication_error", "a valid credential is required")
NOT_FOUND = _k("not_found", 404, _C, _BAD, "there is no such path")
METHOD_NOT_ALLOWED = _k("method_not_allowed", 405, _C, _BAD, "this path does not take that method")
TOO_LARGE = _k("request_too_large", 413, _C, _BAD, "the request body is too large")
UNSUPPORTED_MEDIA = _k("unsupported_media_type", 415, _C, _BAD, "the body must be application/json in UTF-8 without content-encoding")
INVALID_JSON = _k("invalid_json", 400, _C, _BAD, "the body is not strict JSON")
DEPLOYMENT_NOT_FOUND = _k("DeploymentNotFound", 404, _C, _BAD, "The API deployment for this resource does not exist.")
POLICY_DENIED = _k("policy_denied", 403, _C, "permission_error", "policy does not permit this request")
INVALID_REQUEST = _k("invalid_request_error", 400, _C, _BAD, "the request does not fit its schema")
RATE_LIMITED = _k("rate_limit_exceeded", 429, _C, "rate_limit_error", "the rate limit is exceeded")
QUOTA_EXCEEDED = _k("quota_exceeded", 403, _C, "permission_error", "the quota is spent", False)
CONTENT_FILTER = _k("content_filter", 400, _C, _BAD, "the request was filtered by content policy")
OVERLOADED = _k("overloaded", 503, _U, "server_error", "the gateway is at capacity, retry shortly")
INSPECTION_UNAVAILABLE = _k("inspection_unavailable", 503, _U, "server_error", "inspection is not available", False)
AUDIT_UNAVAILABLE = _k("audit_unavailable", 503, _U, "server_error", "the audit log is not available", False)
BACKEND_UNAVAILABLE = _k("backend_unavailable", 502, _T, "server_error", "no backend could answer")
BACKEND_TIMEOUT = _k("backend_unavailable", 504, _T, "server_error", "the backend did not answer in time")
INTERNAL = _k("internal_error", 500, _U, "server_error", "the gateway failed")

KINDS: tuple[Kind, ...] = (
    MALFORMED,
    HEADER_TIMEOUT,
    HEADERS_TOO_LARGE,
    INVALID_TOKEN,
    INVALID_API_KEY,
    NOT_FOUND,
    METHOD_NOT_ALLOWED,
    TOO_LARGE,
    UNSUPPORTED_MEDIA,
    INVALID_JSON,
    DEPLOYMENT_NOT_FOUND,
    POLICY_DENIED,
    INVALID_REQUEST,
    RATE_LIMITED,
    QUOTA_EXCEEDED,
    CONTENT_FILTER,
    OVERLOADED,
    INSPECTION_UNAVAILABLE,
    AUDIT_UNAVAILABLE,
    BACKEND_UNAVAILABLE,
    BACKEND_TIMEOUT,
    INTERNAL,
)


class Refusal(Exception):
    """The one exception steps raise to say no.

    `message` replaces the kind's constant; it must be built from constants and our own schema, never from input.
    `inner` becomes `error.innererror`. `retry_after_s` becomes `retry-after` and `retry-after-ms`. `detail` is private.
    """

    def __init__(
        self,
        kind: Kind,
        *,
        message: str | None = None,
        param: str | None = None,
        inner: Mapping[str, Any] | None = None,
        retry_after_s: float | None = None,
        challenge: str | None = None,
        detail: str = "",
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(kind.code)
        self.kind = kind
        self.message = message or kind.message
        self.param = param
        self.inner = inner
        self.retry_after_s = retry_after_s
        self.challenge = challenge
        self.detail = detail
        self.headers = headers
        self.foreign: tuple[str, ...] = ()  # names the caller made up: never shown, and only as HMAC and length in the record
        self.policy_ids: tuple[str, ...] = ()  # the policies that said no, for the record
        self.verdict: Any = None  # evidence.Verdict of a content refusal, for the record
