"""What did a backend answer, and who holds its place? The value that comes out of `forward`.

An `Answer` is a lease: the connection and the breaker's ticket are its own until `aclose`, whose one task is to give both
back on every path. It must not read meaning into the body.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.upstream.breaker import Breaker, Outcome, Ticket
from gateway.upstream.response import Response

# What an operator or a record may want of a backend's head. Nothing of it reaches a client unless `http/reply.py` says so.
_KEPT = frozenset(
    {
        "content-type",
        "x-request-id",
        "apim-request-id",
        "x-ms-region",
        "x-ms-deployment-name",
        "x-ms-spillover-from-deployment",
        "x-ratelimit-limit-requests",
        "x-ratelimit-limit-tokens",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-remaining-tokens",
        "x-ratelimit-reset-requests",
        "x-ratelimit-reset-tokens",
    }
)


class Answer:
    """A good answer (2xx with the right content type) whose body is still to come. Close it on every path."""

    __slots__ = ("_blamed", "_breaker", "_closed", "_ticket", "attempts", "backend", "model", "region", "response")

    def __init__(
        self, *, backend: str, model: str, region: str, attempts: int, response: Response, breaker: Breaker, ticket: Ticket
    ) -> None:
        self.backend = backend
        self.model = model  # the backend's own name for it: what is billed
        self.region = region
        self.attempts = attempts
        self.response = response
        self._breaker = breaker
        self._ticket = ticket
        self._closed = False
        self._blamed = False

    @property
    def status(self) -> int:
        return self.response.status

    @property
    def headers(self) -> dict[str, str]:
        return {name: value for name, value in self.response.headers.items() if name in _KEPT}

    def blame(self) -> None:
        """Say that the body, though delivered, was not a well-formed answer: it counts as the backend's fault."""
        self._blamed = True

    async def aclose(self) -> None:
        """Give back the connection (closed at once unless its body was whole) and report to the breaker. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._breaker.report(self._ticket, self._outcome(), time.monotonic())
        self.response.close()

    def _outcome(self) -> Outcome:
        error = self.response.error
        if self._blamed or (error is not None and error.phase != "closed" and error.detail != "total"):
            return Outcome.FAULT
        # A body cut short by its reader, or by the time allowed for the whole exchange, says nothing about the backend.
        return Outcome.SUCCESS if self.response.complete else Outcome.NEUTRAL


class UpstreamFiltered(msgspec.Struct, frozen=True, kw_only=True):
    """The backend's own content filter refused the prompt (Azure's 400 `content_filter`).

    `categories` is rebuilt from known words: name -> {"filtered": bool, "severity"?: str, "detected"?: bool}.
    """

    backend: str
    model: str
    attempts: int
    categories: Mapping[str, Mapping[str, Any]]
