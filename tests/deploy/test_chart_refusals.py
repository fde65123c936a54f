"""Which values does the chart refuse, and does it say what to do? One row for each mistake that would open something."""

from __future__ import annotations

from pathlib import Path

import pytest
from chart_tools import template

SCHEMA = "values don't meet the specifications of the schema"
EGRESS = "networkPolicy.egress[0]"
# (mode, key=value, in the schema's or in the chart's own words)
REFUSED = [
    ("ingress", "mode=daemonset", SCHEMA),
    ("ingress", "hostNetwork=true", SCHEMA),
    ("sidecar", "hostNetwork=true", SCHEMA),
    ("sidecar", "shareProcessNamespace=true", SCHEMA),
    ("node-isolated", "shareProcessNamespace=true", SCHEMA),
    ("ingress", "hostPID=true", SCHEMA),
    ("ingress", "image.tag=latest", SCHEMA),
    ("ingress", "image.digest=latest", SCHEMA),
    ("ingress", "image.digest=", "image.digest is missing"),
    ("ingress", "image.repository=", "image.repository is missing"),
    ("ingress", "securityContext.runAsUser=0", SCHEMA),
    ("ingress", "extraEnv[0].name=GATEWAY__SERVER__DATA", SCHEMA),
    ("ingress", "settings.server.data=0.0.0.0:80", SCHEMA),
    ("ingress", "settings.server.control=0.0.0.0:8081", SCHEMA),
    ("ingress", "settings.server.max_body=1", SCHEMA),
    ("ingress", "settings.server.max_body_bytes=two", SCHEMA),
    ("ingress", "settings.audit.directory=/tmp", SCHEMA),
    ("ingress", "settings.policies.directory=/tmp", SCHEMA),
    ("ingress", "settings.audit.key=", "settings.audit.key is missing"),
    ("ingress", "settings.audit.pepper=", "settings.audit.pepper is missing"),
    ("ingress", "settings.issuers=null", "settings.issuers is empty"),
    ("ingress", "settings.routes=null", "settings.routes is empty"),
    ("ingress", "settings.backends[0].kind=proxy", SCHEMA),
    ("ingress", "settings.backends[0].identity=managed", "use `workload`"),
    ("ingress", "settings.limits.store=memory", "in-memory limits would multiply"),
    ("ingress", "audit.origin=", "audit.origin is missing"),
    ("ingress", "policies.files.roles\\.toml=x", "exactly one of files, configMap and image"),
    ("ingress", "policies.configMap=", "exactly one of files, configMap and image"),
    ("ingress", "policies.configMapFiles=null", "policies.configMapFiles is missing"),
    ("ingress", "policies.configMapFiles[0]=../../etc/passwd", SCHEMA),
    ("ingress", "policies.image=registry.example/policies:latest", SCHEMA),
    ("ingress", "tls.secretName=", "plaintext beyond loopback is refused"),
    ("ingress", "terminator.name=mesh", "exclude each other"),
    ("node-isolated", "terminator.peers=null", "terminator.peers is missing"),
    ("ingress", "networkPolicy.enabled=false", SCHEMA),
    ("ingress", "networkPolicy.egress=null", "name the networks of model endpoints"),
    ("ingress", "networkPolicy.egress[0].cidrs[0]=0.0.0.0/0", SCHEMA),
    ("ingress", "networkPolicy.egress[0].cidrs[0]=::/0", SCHEMA),
    ("ingress", "networkPolicy.egress[0].cidrs[0]=models.example", SCHEMA),
    ("ingress", "networkPolicy.egress[0].cidrs[0]=169.254.169.254/32", "instance metadata address"),
    ("ingress", "networkPolicy.egress[0].cidrs[0]=168.63.129.16/32", "instance metadata address"),
    # The same addresses in IPv6 clothes: mapped, compatible, and through NAT64.
    ("ingress", "networkPolicy.egress[0].cidrs[0]=::ffff:a9fe:a9fe/128", "an IPv4 address in IPv6 form"),
    ("ingress", "networkPolicy.egress[0].cidrs[0]=::ffff:0:0/96", "an IPv4 address in IPv6 form"),
    ("ingress", "networkPolicy.egress[0].cidrs[0]=0:0:0:0:0:ffff:a9fe:a9fe/128", "an IPv4 address in IPv6 form"),
    ("ingress", "networkPolicy.egress[0].cidrs[0]=::a9fe:a9fe/128", "an IPv4 address in IPv6 form"),
    ("ingress", "networkPolicy.egress[0].cidrs[0]=64:ff9b::/96", "an IPv4 address in IPv6 form"),
    ("sidecar", "sidecar.callerKeys[0].cidrs[0]=0064:ff9b::a9fe:a9fe/128", "an IPv4 address in IPv6 form"),
    ("ingress", "networkPolicy.egress[0].cidrs[0]=300.1.1.1/24", SCHEMA),
    ("ingress", "networkPolicy.egress[0].cidrs[0]=168.63.129.016/32", SCHEMA),
    ("sidecar", "sidecar.callerKeys[0].cidrs[0]=168.063.129.16/24", SCHEMA),
    ("ingress", "networkPolicy.egress[0].ports=null", SCHEMA),
    ("ingress", "networkPolicy.dns.podLabels=null", SCHEMA),
    ("ingress", "networkPolicy.applications[0].namespace=gateway-system", "name the pods by podLabels"),
    ("ingress", "networkPolicy.applications[0].namespaceSelector=x", SCHEMA),
    ("ingress", "secrets.existing[0].name=keys,secrets.existing[0].mountPath=/etc", SCHEMA),
    ("ingress", "secrets.csi.objects=null", "secrets.csi needs keyVault"),
    ("ingress", "workloadIdentity.clientId=", "workloadIdentity needs clientId"),
    ("ingress", "workloadIdentity.tokenExpirationSeconds=60", SCHEMA),
    ("ingress", "autoscaling.minReplicas=9", "minReplicas is above"),
    ("ingress", "autoscaling.prometheus=", "autoscaling.prometheus is missing"),
    ("ingress", "httpRoute.hostnames=null", "httpRoute needs hostnames"),
    ("ingress", "httpRoute.backendTls.hostname=", "backendTls.hostname is missing"),
    ("ingress", "replicas=0", SCHEMA),
    ("sidecar", "workloadIdentity.enabled=true", "every container of the pod the token"),
    ("sidecar", "settings.backends[0].identity=workload", "takes no `identity`"),
    ("sidecar", "sidecar.gateway.namespace=", "sidecar.gateway.namespace is missing"),
    ("sidecar", "sidecar.gateway.podLabels=null", SCHEMA),
    ("sidecar", "sidecar.callerKeys[0].cidrs[0]=0.0.0.0/0", SCHEMA),
    ("sidecar", "sidecar.callerKeys[0].cidrs[0]=169.254.169.254/32", "instance metadata address"),
    ("sidecar", "sidecar.application.image=registry.example/app:1", SCHEMA),
    ("sidecar", "sidecar.application.image=", "named by digest"),
    ("sidecar", "sidecar.application.volumeMounts[0].name=gateway-vault", SCHEMA),
    ("sidecar", "sidecar.application.env[0].valueFrom=x", SCHEMA),
    ("sidecar", f"{EGRESS}.name=m,{EGRESS}.cidrs[0]=10.40.1.0/24,{EGRESS}.ports[0]=443", "reaches the ingress gateway alone"),
    ("sidecar", "audit.storageClass=", "audit.storageClass is missing"),
    ("sidecar", "tls.secretName=x", "a sidecar listens on loopback"),
    ("sidecar", "httpRoute.enabled=true", "are for ingress and node-isolated"),
]


@pytest.mark.parametrize(("mode", "change", "says"), REFUSED, ids=[f"{row[0]}-{row[1]}" for row in REFUSED])
def test_a_mistake_is_refused(mode: str, change: str, says: str) -> None:
    done = template(mode, "--set", change)
    assert done.returncode != 0 and says in done.stderr, done.stderr or "it was rendered"
    assert done.stdout == ""


@pytest.mark.parametrize("key", ["hostNetwork", "shareProcessNamespace"])
@pytest.mark.parametrize("mode", ["ingress", "sidecar"])
def test_what_the_schema_refuses_the_templates_refuse_too(mode: str, key: str) -> None:
    """`--skip-schema-validation` leaves the schema out; these two must fail all the same."""
    done = template(mode, "--skip-schema-validation", "--set", f"{key}=true")
    assert done.returncode != 0 and f"{key} is refused" in done.stderr


@pytest.mark.parametrize("cidr", ["169.254.169.254/32", "168.63.129.016/32", "168.63.0129.16/24", "300.1.1.1/24", "::ffff:a9fe:a9fe/128"])
def test_a_metadata_address_is_refused_without_the_schema_too(cidr: str) -> None:
    done = template("ingress", "--skip-schema-validation", "--set-string", f"networkPolicy.egress[0].cidrs[0]={cidr}")
    assert done.returncode != 0 and "networkPolicy: `" in done.stderr, done.stderr


def test_one_replica_may_count_in_memory(tmp_path: Path) -> None:
    change = tmp_path / "one.yaml"
    change.write_text("replicas: 1\nautoscaling: {type: none}\nsettings: {limits: {store: memory, url: null, password: null}}\n")
    assert template("ingress", "-f", change).returncode == 0
