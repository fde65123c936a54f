"""How do other systems name what our records say? One record to one event of OCSF, Sentinel ASIM or ECS.

Must not lose a field: what a schema has no place for goes under its own place for leftovers. Pure: a record in, a dict out.
OCSF 1.8.0 API Activity (6003) and Application Lifecycle (6002), profiles ai_operation, security_control, trace; ASIM AgentEvent 0.1.0;
ECS 9 with the gen_ai fields of OpenTelemetry.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from gateway.audit.tree import leaf_hash

_PRODUCT: Final = "Secure Inference Gateway"
_LIFECYCLE: Final = {"start": (3, "Start"), "stop": (4, "Stop"), "policy_change": (8, "Update")}


def _present(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value not in (None, "", [], {})}


def _blocked(fields: Mapping[str, Any]) -> bool:
    return fields.get("decision") == "forbid" or fields.get("outcome") in ("blocked", "content_filter")


def _failed(fields: Mapping[str, Any]) -> bool:
    ended_badly = fields.get("outcome") in ("failed", "unknown", "cut", "truncated")
    return fields["type"] == "refused" or bool(fields.get("refusal")) or _blocked(fields) or ended_badly


def _tokens(fields: Mapping[str, Any]) -> tuple[int | None, int | None]:
    usage = fields.get("usage")
    if not isinstance(usage, dict):
        return None, None
    return usage.get("input_tokens"), usage.get("output_tokens")


def _epoch_ms(fields: Mapping[str, Any]) -> int:
    try:
        return round(datetime.fromisoformat(str(fields.get("time", ""))).timestamp() * 1000)
    except ValueError:
        return 0


def _leftovers(fields: Mapping[str, Any], used: frozenset[str]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key not in used}


def to_ocsf(index: int, record: bytes, fields: Mapping[str, Any]) -> dict[str, Any]:
    kind = str(fields["type"])
    lifecycle = _LIFECYCLE.get(kind)
    class_uid = 6002 if lifecycle else 6003
    activity, name = lifecycle or (99, kind)
    failed = _failed(fields)
    prompt, completion = _tokens(fields)
    blocked = _blocked(fields)
    event: dict[str, Any] = {
        "category_uid": 6,
        "class_uid": class_uid,
        "activity_id": activity,
        "activity_name": name,
        "type_uid": class_uid * 100 + activity,
        "time": _epoch_ms(fields),
        "severity_id": 3 if blocked else 2 if failed else 1,
        "status_id": 2 if failed else 1,
        "status_code": fields.get("refusal"),
        "status_detail": fields.get("outcome"),
        "metadata": {
            "version": "1.8.0",
            "profiles": ["ai_operation", "security_control", "trace"],
            "product": {"name": _PRODUCT, "vendor_name": _PRODUCT},
            "uid": f"{fields.get('instance', '')}/{index}",
            "sequence": index,
            "logged_time": _epoch_ms(fields),
        },
        "unmapped": {**_leftovers(fields, _OCSF_USED), "leaf_hash": base64.b64encode(leaf_hash(record)).decode()},
    }
    if lifecycle:
        event["app"] = {"name": _PRODUCT, "uid": fields.get("instance")}
        return _present(event)
    user = _present({"uid": fields.get("subject"), "type": fields.get("subject_kind"), "org": _present({"uid": fields.get("tenant")})})
    tokens = _present({"prompt_tokens": prompt, "completion_tokens": completion, "application": fields.get("application")})
    event |= {
        "actor": _present({"user": user, "app_name": fields.get("application")}),
        "api": _present({"operation": fields.get("action") or kind, "request": _present({"uid": fields.get("request_id")})}),
        "src_endpoint": {"ip": str(fields.get("peer") or "").partition("/")[0]},
        "resources": [{"name": fields["resource"], "type": "model"}] if fields.get("resource") else [],
        "ai_model": _present({"name": fields.get("route"), "ai_provider": fields.get("backend")}),
        "message_context": tokens,
        "action_id": 2 if blocked or kind == "refused" else 1,
        "disposition_id": 2 if blocked or kind == "refused" else 1,
        "policy": _present({"uid": fields.get("policy_digest")}),
        "authorizations": [{"decision": fields.get("decision", ""), "policy": {"uid": name}} for name in fields.get("policy_ids") or ()],
        "trace": _present({"uid": fields.get("trace_id")}),
    }
    return _present(event)


_OCSF_USED: Final = frozenset(
    (
        *("type", "time", "subject", "subject_kind", "tenant", "application", "action", "request_id", "peer", "resource", "route"),
        *("backend", "policy_digest", "policy_ids", "decision", "trace_id", "refusal", "outcome"),
    )
)
_ASIM_USED: Final = frozenset(
    ("time", "type", "outcome", "subject", "subject_kind", "tenant", "application", "peer", "backend", "route", "request_id")
)
_ECS_USED: Final = frozenset(
    (
        *("time", "outcome", "request_id", "subject", "tenant", "peer", "trace_id", "route", "policy_ids", "instance", "action"),
        "refusal",
    )
)


def to_asim(index: int, record: bytes, fields: Mapping[str, Any]) -> dict[str, Any]:
    prompt, completion = _tokens(fields)
    return _present(
        {
            "EventSchema": "AgentEvent",
            "EventSchemaVersion": "0.1.0",
            "EventVendor": _PRODUCT,
            "EventProduct": _PRODUCT,
            "EventCount": 1,
            "EventStartTime": fields.get("time"),
            "EventEndTime": fields.get("time"),
            "EventType": fields["type"],
            "EventResult": "Failure" if _failed(fields) else "Success",
            "EventResultDetails": fields.get("outcome"),
            "EventErrorDetails": fields.get("refusal"),
            "EventOriginalUid": str(index),
            "EventRequestId": fields.get("request_id"),
            "ActorUserId": fields.get("subject"),
            "ActorUserIdType": "Other" if fields.get("subject") else None,
            "ActorScopeId": fields.get("tenant"),
            "ActingAppId": fields.get("application"),
            "SrcIpAddr": str(fields.get("peer") or "").partition("/")[0],
            "ModelProviderName": fields.get("backend"),
            "ModelName": fields.get("route"),
            "InputTokensUsed": prompt,
            "OutputTokensUsed": completion,
            "AdditionalFields": {**_leftovers(fields, _ASIM_USED), "LeafHash": base64.b64encode(leaf_hash(record)).decode()},
        }
    )


def to_ecs(index: int, record: bytes, fields: Mapping[str, Any]) -> dict[str, Any]:
    prompt, completion = _tokens(fields)
    kind = str(fields["type"])
    refused = kind == "refused" or fields.get("decision") == "forbid"
    return _present(
        {
            "@timestamp": fields.get("time"),
            "ecs": {"version": "9.0.0"},
            "event": _present(
                {
                    "kind": "event",
                    "category": ["configuration"] if kind in _LIFECYCLE else ["api"],
                    "type": ["denied"] if refused else ["change"] if kind == "policy_change" else ["access"],
                    "action": fields.get("action") or kind,
                    "code": fields.get("refusal"),
                    "reason": fields.get("outcome"),
                    "outcome": "failure" if _failed(fields) else "success",
                    "sequence": index,
                    "hash": leaf_hash(record).hex(),
                    "module": "secure_inference_gateway",
                    "dataset": "secure_inference_gateway.audit",
                }
            ),
            "user": _present({"id": fields.get("subject")}),
            "organization": _present({"id": fields.get("tenant")}),
            "source": _present({"ip": str(fields.get("peer") or "").partition("/")[0]}),
            "trace": _present({"id": fields.get("trace_id")}),
            "http": _present({"request": _present({"id": fields.get("request_id")})}),
            "service": _present({"name": _PRODUCT, "node": _present({"name": fields.get("instance")})}),
            "rule": _present({"id": fields.get("policy_ids")}),
            "gen_ai": _present(
                {
                    "request": _present({"model": fields.get("route")}),
                    "usage": _present({"input_tokens": prompt, "output_tokens": completion}),
                }
            ),
            "gateway": _leftovers(fields, _ECS_USED),
        }
    )


FORMATS: Final[Mapping[str, Callable[[int, bytes, Mapping[str, Any]], dict[str, Any]]]] = {
    "ocsf": to_ocsf,
    "asim": to_asim,
    "ecs": to_ecs,
}
