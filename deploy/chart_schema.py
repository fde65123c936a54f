"""What may stand in the chart's values? Writes `values.schema.json`: closed, with the gateway's own settings taken from its code.

    python deploy/chart_schema.py deploy/helm/secure-inference-gateway/values.schema.json

What the chart itself sets (listeners, instance, directories, origin) is left out, so that a value cannot change it.
Specification: JSON Schema 2020-12; patterns in the syntax that Go's RE2 and Python's `re` share.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from gateway.settings import Settings

OWNED = {
    "Server": {"data", "control", "ops", "instance", "workers", "tls", "terminator"},
    "Audit": {"directory", "origin", "checkpoint_file"},
    "Settings": {"policies"},
}
PARTLY = {"Settings", "Audit"}  # what is required of them is asked for by the templates, in words
DNS = r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"
LABEL = r"^([a-zA-Z0-9]([-a-zA-Z0-9_.]*[a-zA-Z0-9])?)?$"
GUID = r"^([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})?$"
QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"
BY_DIGEST = r"^([a-z0-9][a-zA-Z0-9._:/-]*@sha256:[0-9a-f]{64})?$"
# SECURITY: nothing wider than /8 (IPv4) or /20 (IPv6): a list that allows everywhere allows nothing to be found wrong.
_OCTET = r"(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"  # no leading zero: readers differ on whether that is octal
CIDR = rf"^(({_OCTET}\.){{3}}{_OCTET}/([89]|[12][0-9]|3[0-2])|[0-9a-f:]+:[0-9a-f:]*/([2-9][0-9]|1[01][0-9]|12[0-8]))$"
PEER_NETWORK = r"^[0-9a-f.:]+/[0-9]{1,3}$"
RELATIVE = r"^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*){0,5}$"

Schema = dict[str, Any]


def closed(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    found: Schema = {"type": "object", "additionalProperties": False, "properties": properties}
    return {**found, "required": list(required)} if required else found


def text(pattern: str = "", most: int = 1024) -> Schema:
    return {"type": "string", "maxLength": most, **({"pattern": pattern} if pattern else {})}


def one_of(*values: str) -> Schema:
    return {"enum": list(values)}


def many(item: Schema, least: int = 0) -> Schema:
    return {"type": "array", "items": item, **({"minItems": least} if least else {})}


def whole(least: int, most: int) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most}


FLAG: Schema = {"type": "boolean"}
REFUSED: Schema = {"const": False}
PORT = whole(1, 65_535)
LABELS: Schema = {"type": "object", "additionalProperties": text(LABEL, 63)}
NAMED: Schema = {**LABELS, "minProperties": 1}
PEER = closed(("namespace",), namespace=text(DNS, 63), podLabels=LABELS)
ALLOWED = closed(("name", "cidrs", "ports"), name=text(DNS, 63), cidrs=many(text(CIDR), 1), ports=many(PORT, 1))
AMOUNTS = closed(("cpu", "memory"), cpu={"anyOf": [text(QUANTITY), {"type": "number"}]}, memory=text(QUANTITY))
RESOURCES = closed(("requests", "limits"), requests=AMOUNTS, limits=AMOUNTS)
TOLERATION = closed(
    key=text(), operator=one_of("Equal", "Exists"), value=text(LABEL), effect=one_of("NoSchedule", "PreferNoSchedule", "NoExecute")
)


def settings_schema() -> tuple[Schema, dict[str, Schema]]:
    """Return the schema of `settings` and its definitions, as the gateway's code has them."""
    (top,), definitions = msgspec.json.schema_components([Settings], ref_template="#/$defs/{name}")
    for name, definition in definitions.items():
        definition.pop("title", None)
        definition.pop("description", None)
        # `null` in a values file removes a key; it is never a value
        definition["properties"] = {k: v for k, v in definition["properties"].items() if k not in OWNED.get(name, ())}
        required = [key for key in definition.get("required", ()) if key not in OWNED.get(name, ())]
        definition["required"] = [] if name in PARTLY else required
        definition["additionalProperties"] = False
    for name in ("Policies", "Tls", "Terminator"):
        del definitions[name]
    return top, definitions


def workload() -> dict[str, Schema]:
    return {
        "mode": one_of("ingress", "sidecar", "node-isolated"),
        "nameOverride": text(r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$", 63),
        "fullnameOverride": text(r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$", 52),
        "image": closed(
            repository=text(r"^([a-z0-9][a-zA-Z0-9._:/-]*)?$"),
            digest=text(r"^(sha256:[0-9a-f]{64})?$"),
            pullPolicy=one_of("IfNotPresent", "Always", "Never"),
            pullSecrets=many(closed(("name",), name=text(DNS))),
        ),
        "replicas": whole(1, 100),
        "resources": RESOURCES,
        "terminationGracePeriodSeconds": whole(30, 86_400),
        "nodeSelector": LABELS,
        "tolerations": many(TOLERATION),
        "priorityClassName": text(r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$"),
        "isolation": closed(poolLabel=text(), poolValue=text(LABEL), taintKey=text(), taintValue=text(LABEL)),
        "podDisruptionBudget": closed(maxUnavailable=whole(1, 100)),
        "hostNetwork": REFUSED,
        "shareProcessNamespace": REFUSED,
    }


def held() -> dict[str, Schema]:
    """Return what the gateway keeps: its log, policies, secrets and identity."""
    return {
        "audit": closed(origin=text(r"^[A-Za-z0-9._/-]*$", 200), size=text(QUANTITY), storageClass=text(r"^([a-z0-9][-a-z0-9.]*)?$")),
        "policies": closed(
            files={"type": "object", "propertyNames": {"pattern": RELATIVE}, "additionalProperties": text(most=1 << 20)},
            configMap=text(r"^([a-z0-9][-a-z0-9.]*)?$"),
            configMapFiles=many(text(RELATIVE)),
            image=text(BY_DIGEST),
            invariants=text(most=1 << 20),
        ),
        "secrets": closed(
            existing=many(closed(("name", "mountPath"), name=text(DNS), mountPath=text(r"^/mnt/[a-z0-9-]+$"))),
            csi=closed(
                enabled=FLAG,
                keyVault=text(r"^([A-Za-z][A-Za-z0-9-]{1,22}[A-Za-z0-9])?$"),
                tenantId=text(GUID),
                clientId=text(GUID),
                objects=many(text(r"^[A-Za-z0-9-]{1,127}$")),
            ),
        ),
        "serviceAccount": closed(create=FLAG, name=text(r"^([a-z0-9][-a-z0-9.]*)?$")),
        "workloadIdentity": closed(enabled=FLAG, clientId=text(GUID), tenantId=text(GUID), tokenExpirationSeconds=whole(3_600, 86_400)),
    }


def network() -> dict[str, Schema]:
    return {
        "tls": closed(secretName=text(r"^([a-z0-9][-a-z0-9.]*)?$")),
        "terminator": closed(name=text(r"^[A-Za-z0-9._-]*$", 64), peers=many(text(PEER_NETWORK))),
        "httpRoute": closed(
            enabled=FLAG,
            hostnames=many(text(r"^(\*\.)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")),
            parentRefs=many(closed(("name",), name=text(DNS), namespace=text(DNS, 63), sectionName=text(DNS))),
            requestTimeout=text(r"^[0-9]+(s|m|h)$"),
            backendTls=closed(enabled=FLAG, hostname=text(r"^([a-z0-9][-a-z0-9.]*)?$"), caConfigMap=text(r"^([a-z0-9][-a-z0-9.]*)?$")),
        ),
        "networkPolicy": closed(
            dns=closed(("namespace", "podLabels"), namespace=text(DNS, 63), podLabels=NAMED, cidrs=many(text(CIDR))),
            applications=many(PEER),
            lockApplications=FLAG,
            routers=many(PEER),
            monitoring=many(PEER),
            egress=many(ALLOWED),
        ),
    }


def operations() -> dict[str, Schema]:
    application = closed(
        enabled=FLAG,
        image=text(BY_DIGEST),
        command=many(text()),
        ports=many(closed(("name", "containerPort"), name=text(r"^[a-z0-9-]{1,15}$"), containerPort=PORT)),
        env=many(closed(("name", "value"), name=text(r"^[A-Za-z_][A-Za-z0-9_]*$"), value=text())),
        replicas=whole(1, 100),
        resources=RESOURCES,
    )
    application["properties"]["from"] = many(PEER)
    return {
        "autoscaling": closed(
            type=one_of("none", "hpa", "keda"),
            minReplicas=whole(1, 100),
            maxReplicas=whole(1, 100),
            activeExchanges=whole(1, 100_000),
            tokensPerSecond=whole(1, 100_000_000),
            tokensMetric=text(r"^[a-z_]+$"),
            prometheus=text(r"^(https?://[A-Za-z0-9._:/-]+)?$"),
        ),
        "monitoring": closed(
            serviceMonitor=FLAG,
            prometheusRule=FLAG,
            interval=text(r"^[0-9]+(s|m)$"),
            labels=LABELS,
            runbookBase=text(r"^(https://[A-Za-z0-9._:/-]+)?$"),
        ),
        "sidecar": closed(
            gateway=closed(
                ("podLabels",),
                namespace=text(r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$", 63),
                podLabels=NAMED,
                port=PORT,
                tokenAudience=text(r"^[!-~]*$"),
            ),
            callerKeys=many(ALLOWED),
            application=application,
        ),
    }


def chart_schema() -> Schema:
    settings, definitions = settings_schema()
    parts = {**workload(), **held(), **network(), **operations(), "settings": settings, "global": {"type": "object"}}
    made = closed(("mode", "image", "settings"), **parts)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "secure-inference-gateway", **made, "$defs": definitions}


def rendered() -> str:
    return json.dumps(chart_schema(), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(rendered(), encoding="utf-8")
