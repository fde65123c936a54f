"""What does a fault of an Azure SDK mean for whoever ships: come back later, or call a person? Read off by duck typing, no SDK import.

Must not repeat an SDK's message: it may quote the request.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from gateway.ports import SinkRefused, SinkUnavailable, UpstreamError

_LATER: Final = frozenset((408, 409, 412, 425, 429))
_WORDS: Final = {
    401: "the identity is not accepted",
    403: "the identity may not write there: grant it the role",
    404: "the container, rule or stream is not there",
    413: "a batch is too large for it: lower `batch_bytes`",
}

Rejected = Callable[[float], None]
# SECURITY: a redirect, or a proxy or netrc of the environment, would take evidence elsewhere than settings say.
CLOSED: Final[Mapping[str, Any]] = {"permit_redirects": False, "use_env_settings": False, "logging_enable": False, "retry_total": 0}


def retry_after_s(headers: Any) -> float:
    """Return what `retry-after-ms`, `x-ms-retry-after-ms` or `retry-after` ask for in seconds, 0 where there is no number."""
    for name, scale in (("retry-after-ms", 0.001), ("x-ms-retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = str(headers.get(name, "") if headers is not None else "")
        if value.isascii() and value.isdigit() and len(value) < 10:
            return int(value) * scale
    return 0.0


def judge(fault: BaseException, rejected: Rejected | None = None) -> SinkUnavailable | SinkRefused:
    """Return the port's exception for an `AzureError`, an `OSError` or a credential's fault.

    `rejected` is told the seconds since 1970 when the service did not accept the credential's token.
    """
    if isinstance(fault, UpstreamError):
        return SinkUnavailable(f"no token: {fault.detail}")
    response: Any = getattr(fault, "response", None)
    status = getattr(fault, "status_code", None) or getattr(response, "status_code", None)
    if not isinstance(status, int):
        return SinkUnavailable(f"cannot be reached ({type(fault).__name__})")
    if status == 401 and rejected is not None:
        rejected(time.time())
    code = str(getattr(fault, "error_code", "") or "")
    named = f" {code}" if code.isascii() and code.isalnum() and len(code) <= 64 else ""
    if status in _LATER or status >= 500 or 200 <= status < 300:
        return SinkUnavailable(f"answered {status}{named}", retry_after_s(getattr(response, "headers", None)))
    return SinkRefused(f"answered {status}{named}: {_WORDS.get(status, 'it does not take this')}")
