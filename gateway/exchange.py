"""What happened to one request with its answer: a write-once ledger for the audit log, metrics and traces.

It never carries data from one step to the next; steps hand evidence to each other. Each field is set once, by the step that
knows it, and read when a record is written. No prompt, no answer, no credential, no raw identity ever enters it.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

import msgspec

from gateway.evidence import Lease, Permit, Subject, Usage, Verdict
from gateway.refusals import Refusal


class Fingerprints(msgspec.Struct, frozen=True):
    """HMACs that stand for what must not be recorded."""

    subject: str
    token: str


class Exchange:
    """One request's ledger. Times are seconds: `started_s` wall clock, the rest monotonic."""

    __slots__ = (
        "answer_hmac",
        "attempts",
        "backend",
        "client_trace",
        "cost_microusd",
        "dialect",
        "first_byte_s",
        "inbound",
        "index",
        "input_tokens_estimate",
        "instance",
        "lease",
        "model_label",
        "opened",
        "operation",
        "outbound",
        "outcome",
        "output_ceiling",
        "peer",
        "permit",
        "permitted_model",
        "prints",
        "refusal",
        "request_hmac",
        "request_id",
        "schema",
        "started_mono_s",
        "started_s",
        "status",
        "stream",
        "subject",
        "timings",
        "trace_id",
        "uninspected",
        "usage",
    )

    def __init__(self, instance: str, request_id: str, trace_id: str, peer: str, started_s: float, started_mono_s: float) -> None:
        self.instance = instance
        self.request_id = request_id
        self.trace_id = trace_id
        self.peer = peer
        self.started_s = started_s
        self.started_mono_s = started_mono_s
        self.client_trace = ""
        self.operation = ""
        self.dialect = ""
        self.model_label = ""  # the model's name where it is one of ours, else empty
        self.permitted_model = ""
        self.stream = False
        self.subject: Subject | None = None
        self.prints: Fingerprints | None = None
        self.permit: Permit | None = None
        self.lease: Lease | None = None
        self.inbound: Verdict | None = None
        self.outbound: Verdict | None = None
        self.schema = ""
        self.uninspected: tuple[str, ...] = ()
        self.input_tokens_estimate = 0
        self.output_ceiling = 0
        self.backend = ""
        self.attempts = 0
        self.usage: Usage | None = None
        self.cost_microusd = 0
        self.request_hmac = ""
        self.answer_hmac = ""
        self.opened: int | None = None  # index of the opened record: what `closed` refers to
        self.index: int | None = None  # index of the first record: the x-audit-index header
        self.status = 0
        self.outcome = ""
        self.refusal: Refusal | None = None
        self.first_byte_s: float | None = None
        self.timings: dict[str, float] = {}

    def identified(self) -> dict[str, Any]:
        """Return the fields that every record of an authenticated request shares."""
        fields: dict[str, Any] = {
            "time": rfc3339(self.started_s),
            "instance": self.instance,
            "request_id": self.request_id,
            "trace_id": self.trace_id,
            "peer": self.peer,
            "action": self.operation,
            "resource": self.model_label,
            "stream": self.stream,
        }
        if self.client_trace:
            fields["client_trace"] = self.client_trace
        if self.subject is not None and self.prints is not None:
            fields |= {
                "tenant": self.subject.tenant,
                "subject": self.prints.subject,
                "subject_kind": self.subject.kind.value,
                "application": self.subject.application,
                "token": self.prints.token,
            }
        if self.permit is not None:
            fields |= {
                "decision": "permit",
                "policy_ids": list(self.permit.policy_ids),
                "policy_digest": self.permit.policy_digest,
                "obligations": self.permit.obligations,
                "route": self.permit.route,
                "roles": sorted(self.permit.roles),
            }
        return fields

    def opened_fields(self) -> dict[str, Any]:
        """Return the record that must be durable before anything leaves."""
        fields = self.identified()
        fields |= {"type": "opened", "schema": self.schema, "request_hmac": self.request_hmac}
        if self.lease is not None:
            fields["reserved_tokens"] = self.lease.reserved_tokens
            fields["limits_degraded"] = self.lease.degraded
        if self.uninspected:
            fields["uninspected"] = list(self.uninspected)
        fields["inbound"] = self.inbound
        return fields

    def closed_fields(self, now_s: float) -> dict[str, Any]:
        """Return the record that ends an opened exchange, on every path."""
        fields: dict[str, Any] = {
            "type": "closed",
            "time": rfc3339(now_s),
            "instance": self.instance,
            "request_id": self.request_id,
            "trace_id": self.trace_id,
            "tenant": self.subject.tenant if self.subject is not None else "",
            "opened": self.opened,
            "outcome": self.outcome,
            "status": self.status,
            "backend": self.backend,
            "attempts": self.attempts,
            "outbound": self.outbound,
            "answer_hmac": self.answer_hmac,
            "cost_microusd": self.cost_microusd,
            "timings_ms": {k: round(v * 1000, 3) for k, v in self.timings.items()},
        }
        if self.usage is not None:
            fields["usage"] = self.usage
        if self.refusal is not None:
            fields["refusal"] = self.refusal.kind.code
            fields["detail"] = self.refusal.detail
        return fields

    def refused_fields(self) -> dict[str, Any]:
        """Return the one record of an authenticated request that was refused before it was opened."""
        fields = self.identified()
        fields |= {"type": "refused", "outcome": "refused", "status": self.status}
        if self.inbound is not None:
            fields["inbound"] = self.inbound
        if self.refusal is not None:
            fields |= {"refusal": self.refusal.kind.code, "detail": self.refusal.detail}
            if self.permit is None:
                fields["decision"] = "forbid" if self.refusal.kind.status in (403, 404) else "none"
        return fields


@lru_cache(maxsize=64)
def _second(whole: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(whole))


def rfc3339(seconds: float) -> str:
    """Return UTC with milliseconds, the audit log's one time format."""
    whole = int(seconds)
    return f"{_second(whole)}{int((seconds - whole) * 1000):03d}Z"
