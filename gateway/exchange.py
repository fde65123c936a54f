"""What happened to one request with its answer: a write-once ledger for the audit log, metrics and traces.

It never carries data from one step to the next; steps hand evidence to each other. Each field is set once, by the step that
knows it, and read when a record is written. No prompt, no answer, no credential, no raw identity ever enters it.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

import msgspec

from gateway.audit.record import peer_network
from gateway.evidence import Lease, Permit, Subject, Usage, Verdict
from gateway.refusals import DEPLOYMENT_NOT_FOUND, Refusal


class Fingerprints(msgspec.Struct, frozen=True):
    """HMACs that stand for what must not be recorded."""

    subject: str
    token: str


class Exchange(msgspec.Struct):
    """One request's ledger. Times are seconds: `started_s` wall clock, the rest monotonic."""

    instance: str
    request_id: str
    trace_id: str
    peer: str
    started_s: float
    started_mono_s: float
    client_trace: str = ""
    zone: str = ""  # name of the peer's network, as the decision saw it
    unknown: tuple[tuple[str, int], ...] = ()  # HMAC and length of names the caller made up
    operation: str = ""
    dialect: str = ""
    model_label: str = ""  # the model's name where it is one of ours, else empty
    permitted_model: str = ""
    stream: bool = False
    stream_mode: str = ""  # of a streamed answer: how its text left
    released_chars: int = 0  # of a streamed answer: code points of the backend's that had left, whatever stood in their place
    subject: Subject | None = None
    prints: Fingerprints | None = None
    policy_digest: str = ""  # of the set that was asked
    permit: Permit | None = None
    lease: Lease | None = None
    inbound: Verdict | None = None
    outbound: Verdict | None = None
    schema: str = ""
    uninspected: tuple[str, ...] = ()
    input_tokens_estimate: int = 0
    output_ceiling: int = 0
    backend: str = ""
    attempts: int = 0
    usage: Usage | None = None
    cost_microusd: int = 0
    request_hmac: str = ""
    answer_hmac: str = ""
    opened: int | None = None  # index of the opened record: what `closed` refers to
    index: int | None = None  # index of the first record: the x-audit-index header
    status: int = 0
    outcome: str = ""
    refusal: Refusal | None = None
    first_byte_s: float | None = None
    timings: dict[str, float] = {}

    def identified(self) -> dict[str, Any]:
        """Return the fields that every record of an authenticated request shares."""
        fields: dict[str, Any] = {
            "time": rfc3339(self.started_s),
            "instance": self.instance,
            "request_id": self.request_id,
            "trace_id": self.trace_id,
            "peer": peer_network(self.peer),
            "zone": self.zone,
            "action": self.operation,
            "resource": self.model_label,
            "stream": self.stream,
        }
        if self.client_trace:
            fields["client_trace"] = self.client_trace
        if self.unknown:
            fields["unknown"] = [{"hmac": digest, "length": length} for digest, length in self.unknown]
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
            "timings_ms": {stage: int(s * 1_000_000 + 0.5) / 1000 for stage, s in self.timings.items()},
        }
        if self.stream_mode:
            fields |= {"stream_mode": self.stream_mode, "released_chars": self.released_chars}
        if self.usage is not None:
            fields["usage"] = self.usage
        if self.refusal is not None:
            fields["refusal"] = self.refusal.kind.code
            fields["detail"] = self.refusal.detail
        return fields

    def refused_fields(self) -> dict[str, Any]:
        """Return the one record of an authenticated request that was refused, or left, before it was opened."""
        fields = self.identified()
        fields |= {"type": "refused", "outcome": self.outcome or "refused", "status": self.status}
        if self.inbound is not None:
            fields["inbound"] = self.inbound
        if self.refusal is not None:
            fields |= {"refusal": self.refusal.kind.code, "detail": self.refusal.detail}
            if self.permit is None:
                fields["decision"] = "forbid" if self._forbidden(self.refusal) else "none"
                if self.policy_digest:
                    fields |= {"policy_digest": self.policy_digest, "policy_ids": list(self.refusal.policy_ids)}
        return fields

    def _forbidden(self, refusal: Refusal) -> bool:
        """Whether a rule said no, of tenants or of policy: also where the caller is asked to sign in more strongly."""
        kind = refusal.kind
        return kind.status == 403 or kind is DEPLOYMENT_NOT_FOUND or (kind.status == 401 and self.policy_digest != "")


@lru_cache(maxsize=64)
def _second(whole: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(whole))


def rfc3339(seconds: float) -> str:
    """Return UTC with milliseconds, the audit log's one time format."""
    whole = int(seconds)
    return f"{_second(whole)}{int((seconds - whole) * 1000):03d}Z"
