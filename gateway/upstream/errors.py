"""What does a backend's failure mean to us? Statuses and error bodies as values; nothing of a body is ever passed on.

The shapes are OpenAI's and Azure OpenAI's error bodies; both spellings of the content filter's result are read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any

import msgspec

from gateway.ports import UpstreamError
from gateway.upstream.breaker import Outcome

_SEVERITIES = frozenset({"safe", "low", "medium", "high"})
_CATEGORIES = (
    "hate",
    "sexual",
    "violence",
    "self_harm",
    "jailbreak",
    "indirect_attack",
    "profanity",
    "protected_material_text",
    "protected_material_code",
)
_TOO_LONG = frozenset({"context_length_exceeded", "string_above_max_length"})
_DAY_S = 86_400.0


class Trouble(StrEnum):
    """Why an attempt gave no answer. The value is the name in records and metrics."""

    LIMITED = "rate_limited"  # 429, or still within an earlier 429's time
    OPEN = "breaker_open"
    FULL = "pool_full"
    UNREACHABLE = "unreachable"  # nothing was sent
    TIMEOUT = "timeout"
    BROKEN = "broken"  # reset or end of stream before the head
    MALFORMED = "malformed"
    FAILED = "server_error"
    MISCONFIGURED = "misconfigured"  # redirect, 401, 403, 404: our settings or credential are wrong there
    REFUSED = "refused"  # another 4xx: the request itself
    NO_PATH = "no_path"
    NO_CREDENTIAL = "no_credential"  # nothing was sent: there was no token to send it with


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """One backend that was asked, or passed over, in vain."""

    backend: str
    trouble: Trouble
    sent: bool  # whether the backend may have seen the request
    outcome: Outcome
    retry_after_s: float | None = None
    status: int = 0
    detail: str = ""


def failure_of_error(backend: str, error: UpstreamError) -> Failure:
    """Class a transport failure before the head."""
    detail = error.detail
    if error.phase == "pool":
        return Failure(backend=backend, trouble=Trouble.FULL, sent=False, outcome=Outcome.NEUTRAL, detail=detail)
    if error.phase == "credential":
        # Neutral: the backend itself may be well, and others who hold a token for it should go on using it.
        return Failure(backend=backend, trouble=Trouble.NO_CREDENTIAL, sent=False, outcome=Outcome.NEUTRAL, detail=detail)
    if error.phase == "connect":
        return Failure(backend=backend, trouble=Trouble.UNREACHABLE, sent=False, outcome=Outcome.FAULT, detail=detail)
    if error.phase == "timeout":
        # SECURITY: the time for the whole exchange may be the caller's wish; it must not tell against the backend.
        outcome = Outcome.NEUTRAL if detail == "total" else Outcome.FAULT
        return Failure(backend=backend, trouble=Trouble.TIMEOUT, sent=detail != "connect", outcome=outcome, detail=detail)
    if error.phase == "protocol":
        return Failure(backend=backend, trouble=Trouble.MALFORMED, sent=True, outcome=Outcome.FAULT, detail=detail)
    outcome = Outcome.NEUTRAL if error.phase == "closed" or detail == "stale connection" else Outcome.FAULT
    return Failure(backend=backend, trouble=Trouble.BROKEN, sent=True, outcome=outcome, detail=detail)


def failure_of_status(backend: str, status: int, headers: Mapping[str, str], now_epoch_s: float) -> Failure:
    """Class an answer that is no 2xx."""
    retry_after_s = retry_after(headers, now_epoch_s)
    if status == 429:
        trouble, outcome = Trouble.LIMITED, Outcome.NEUTRAL
    elif status >= 500:
        trouble, outcome = Trouble.FAILED, Outcome.FAULT
    elif status < 400 or status in (401, 403, 404, 407):
        # No caller can bring these about: path, model and credential there are ours.
        trouble, outcome = Trouble.MISCONFIGURED, Outcome.FAULT
    elif status in (408, 409, 425):
        trouble, outcome = Trouble.FAILED, Outcome.NEUTRAL
    else:
        trouble, outcome = Trouble.REFUSED, Outcome.NEUTRAL
    return Failure(
        backend=backend,
        trouble=trouble,
        sent=True,
        outcome=outcome,
        retry_after_s=retry_after_s,
        status=status,
        detail=f"status {status}",
    )


def retry_after(headers: Mapping[str, str], now_epoch_s: float) -> float | None:
    """Return the seconds a backend asks us to wait: `retry-after-ms`, else `retry-after` in seconds or as a date; at most a day."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name, "")
        if not text or len(text) > 64:
            continue
        try:
            seconds = float(text) * unit
        except ValueError:
            try:
                seconds = parsedate_to_datetime(text).timestamp() - now_epoch_s
            except (ValueError, OverflowError):
                continue
        if math.isfinite(seconds):
            return min(max(seconds, 0.0), _DAY_S)
    return None


def error_code(body: bytes) -> tuple[str, dict[str, Any]]:
    """Return (`error.code`, the whole `error` object) of an error body, ("", {}) when it has another shape."""
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return "", {}
    error = decoded.get("error") if isinstance(decoded, dict) else None
    if not isinstance(error, dict):
        return "", {}
    code = error.get("code")
    return (code if isinstance(code, str) else ""), error


def is_too_long(code: str) -> bool:
    """Whether the code says that input and output do not fit the model's context."""
    return code in _TOO_LONG


def filtered_categories(error: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Rebuild the content filter's findings from known names, booleans and severities; all else is dropped."""
    inner = error.get("innererror")
    if not isinstance(inner, dict):
        return {}
    found = inner.get("content_filter_result", inner.get("content_filter_results"))
    if not isinstance(found, dict):
        return {}
    categories: dict[str, dict[str, Any]] = {}
    for name in _CATEGORIES:
        entry = found.get(name)
        if not isinstance(entry, dict):
            continue
        kept: dict[str, Any] = {"filtered": entry.get("filtered") is True}
        if entry.get("severity") in _SEVERITIES:
            kept["severity"] = entry["severity"]
        if isinstance(entry.get("detected"), bool):
            kept["detected"] = entry["detected"]
        categories[name] = kept
    return categories
