"""Does the chart render, in each mode, what Kubernetes takes, what the gateway loads, and what a security review lets through?"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_tools import CHART, MODES, NAMESPACE, ROOT, containers, manifests, of_kind, pod_specs, program, run, template, values

from gateway.settings import load

sys.path.insert(0, str(ROOT / "deploy"))
from chart_schema import rendered  # noqa: E402

VERSIONS = ("1.33", "1.35", "1.37")
CUSTOM = {"HTTPRoute", "BackendTLSPolicy", "ScaledObject", "SecretProviderClass", "ServiceMonitor", "PrometheusRule"}
# Checks that do not apply, each with its reason. Everything else must pass.
NOT_APPLICABLE: Mapping[str, str] = {}
INJECTED = {
    "AZURE_CLIENT_ID": "66666666-7777-8888-9999-000000000000",
    "AZURE_TENANT_ID": "11111111-2222-3333-4444-555555555555",
    "AZURE_FEDERATED_TOKEN_FILE": "/var/run/secrets/azure/tokens/azure-identity-token",
}


@pytest.mark.parametrize("mode", MODES)
def test_lint_finds_nothing(mode: str) -> None:
    done = run(program("helm"), "lint", "--strict", CHART, "-f", values(mode))
    assert done.returncode == 0 and "1 chart(s) linted, 0 chart(s) failed" in done.stdout, done.stdout + done.stderr


def test_the_schema_of_values_is_the_one_the_code_makes() -> None:
    """Its part about settings comes from gateway/settings.py: python deploy/chart_schema.py FILE writes it anew."""
    assert (CHART / "values.schema.json").read_text(encoding="utf-8") == rendered()


def _open_objects(schema: Any, at: str = "") -> list[str]:
    found = []
    if isinstance(schema, dict):
        if schema.get("type") == "object" and schema.get("additionalProperties", True) is True:
            found.append(at)
        for key, inner in schema.items():
            found += _open_objects(inner, f"{at}/{key}")
    return found


def test_the_schema_is_closed_everywhere() -> None:
    """Helm itself fills `global`, and nothing here reads it."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    assert _open_objects(schema) == ["/properties/global"]
    declared = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    assert set(declared) | {"global"} == set(schema["properties"])


@pytest.mark.parametrize("mode", MODES)
def test_the_settings_it_renders_load(mode: str, tmp_path: Path) -> None:
    found = manifests(mode)
    (settings_text,) = [m["data"]["gateway.toml"] for m in of_kind(found, "ConfigMap") if "gateway.toml" in m["data"]]
    file = tmp_path / "gateway.toml"
    file.write_text(settings_text, encoding="utf-8")
    gateway = next(c for c in containers(pod_specs(found)[0]) if c["name"] == "gateway")
    environ = {e["name"]: e["value"].replace("$(POD_NAME)", "main-0") for e in gateway["env"] if "value" in e}
    settings = load(file, {**environ, **(INJECTED if mode != "sidecar" else {})})
    assert settings.server.instance == "main-0" and settings.audit.origin.endswith("/main-0")
    assert settings.audit.directory == "/var/lib/gateway/main-0/audit"
    assert settings.server.control == "127.0.0.1:8081"
    mounts = {m["mountPath"] for m in gateway["volumeMounts"]}
    assert settings.policies.directory in mounts and "/var/lib/gateway" in mounts
    if mode == "sidecar":
        assert settings.server.data == "127.0.0.1:8080" and "data" not in {p["name"] for p in gateway["ports"]}
        assert settings.backends[0].credential == "file:/var/run/secrets/gateway/token" and "/var/run/secrets/gateway" in mounts
    else:
        assert settings.limits.replicas == 6 and settings.server.drain_s == 600.5
        port = next(p["containerPort"] for p in gateway["ports"] if p["name"] == "data")
        assert settings.server.data == f"0.0.0.0:{port}"
        assert (settings.server.tls is None) == (mode == "node-isolated") != (settings.server.terminator is None)
        assert settings.server.tls is None or {settings.server.tls.certificate, settings.server.tls.key} == {
            "/etc/gateway/tls/tls.crt",
            "/etc/gateway/tls/tls.key",
        }


@pytest.mark.parametrize(
    "hostile",
    [
        'x"\n[server]\ndata = "0.0.0.0:80',
        "x\\",
        "x\u0007\u2028'''\"\"\"",
        "{{ .Release.Name }}",
        "line\r\nline",
    ],
)
def test_a_value_cannot_leave_its_place_in_the_settings(hostile: str, tmp_path: Path) -> None:
    more = tmp_path / "more.yaml"
    more.write_text(json.dumps({"settings": {"prices": {"a" + hostile: {"input": 1, "output": 2}}, "network": {"zones": {hostile: []}}}}))
    (settings_text,) = [m["data"]["gateway.toml"] for m in of_kind(manifests("ingress", "-f", more), "ConfigMap")]
    file = tmp_path / "gateway.toml"
    file.write_bytes(settings_text.encode())
    settings = load(file, INJECTED)
    assert settings.server.data == "0.0.0.0:8443"
    assert "a" + hostile in settings.prices and hostile in settings.network.zones


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", MODES)
def test_kubernetes_takes_it(mode: str, version: str, tmp_path: Path) -> None:
    file = tmp_path / "manifests.yaml"
    file.write_text(yaml.safe_dump_all([m for m in manifests(mode) if m["kind"] not in CUSTOM]), encoding="utf-8")
    done = run(program("kubernetes-validate"), "--strict", "-k", version, file)
    assert done.returncode == 0 and "WARN" not in done.stdout + done.stderr, done.stdout + done.stderr


def test_the_validator_would_find_a_fault(tmp_path: Path) -> None:
    found = manifests("ingress")
    of_kind(found, "StatefulSet")[0]["spec"]["template"]["spec"]["hostNetworks"] = True
    file = tmp_path / "manifests.yaml"
    file.write_text(yaml.safe_dump_all(of_kind(found, "StatefulSet")), encoding="utf-8")
    assert run(program("kubernetes-validate"), "--strict", "-k", VERSIONS[0], file).returncode != 0


@pytest.mark.timeout(300)
def test_checkov_finds_nothing(tmp_path: Path) -> None:
    """Skips stand beside what they are about, as annotations with a reason, or in NOT_APPLICABLE with one."""
    command: list[str | Path] = [program("checkov"), "--framework", "kubernetes", "--skip-download", "--compact", "--quiet", "-o", "json"]
    if NOT_APPLICABLE:
        command += ["--skip-check", ",".join(NOT_APPLICABLE)]
    for mode in MODES:
        file = tmp_path / f"{mode}.yaml"
        file.write_text(template(mode).stdout, encoding="utf-8")
        command += ["-f", file]
    done = run(*command, timeout_s=280)
    report = json.loads(done.stdout)
    assert report["summary"]["passed"] > 400 and report["summary"]["parsing_errors"] == 0
    assert [(c["check_id"], c["resource"]) for c in report["results"]["failed_checks"]] == []


@pytest.mark.parametrize("mode", MODES)
def test_every_pod_is_restricted(mode: str) -> None:
    specs = pod_specs(manifests(mode))
    assert len(specs) == 2  # the workload and the test
    for spec in specs:
        assert spec["automountServiceAccountToken"] is False
        assert not any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"))
        assert spec["securityContext"]["runAsUser"] == 10001 and spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not any("hostPath" in volume for volume in spec.get("volumes", ()))
        for container in containers(spec):
            security = container["securityContext"]
            assert security["runAsNonRoot"] is True and security["runAsUser"] > 10000 and security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False and security["privileged"] is False
            assert security["capabilities"] == {"drop": ["ALL"]} and security["seccompProfile"] == {"type": "RuntimeDefault"}
            assert "@sha256:" in container["image"] and container["resources"]["limits"]


@pytest.mark.parametrize("mode", ["ingress", "node-isolated"])
def test_each_replica_keeps_its_own_log_when_it_goes(mode: str) -> None:
    (workload,) = of_kind(manifests(mode), "StatefulSet")
    (claim,) = workload["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
    assert workload["spec"]["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    (gateway,) = workload["spec"]["template"]["spec"]["containers"]
    assert {"name": claim["metadata"]["name"], "mountPath": "/var/lib/gateway"} in gateway["volumeMounts"]
    keys = {key["topologyKey"] for key in workload["spec"]["template"]["spec"]["topologySpreadConstraints"]}
    assert keys == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}


def test_it_grows_by_exchanges_and_tokens() -> None:
    (scaled,) = of_kind(manifests("ingress"), "ScaledObject")
    queries = [trigger["metadata"]["query"] for trigger in scaled["spec"]["triggers"]]
    assert "sum(gateway_active_exchanges{" in queries[0] and "rate(gateway_tokens_total{" in queries[1]
    (autoscaler,) = of_kind(manifests("node-isolated"), "HorizontalPodAutoscaler")
    assert [m["pods"]["metric"]["name"] for m in autoscaler["spec"]["metrics"]] == ["gateway_active_exchanges", "gateway_tokens_per_second"]
    for mode in ("ingress", "node-isolated"):
        found = manifests(mode)
        assert "replicas" not in of_kind(found, "StatefulSet")[0]["spec"] and len(of_kind(found, "PodDisruptionBudget")) == 1


def test_a_pool_of_its_own_is_asked_for_and_tolerated() -> None:
    spec = pod_specs(manifests("node-isolated"))[0]
    assert spec["nodeSelector"] == {"gateway.example.com/pool": "secure-inference-gateway"}
    taint = {"key": "gateway.example.com/dedicated", "operator": "Equal", "value": "secure-inference-gateway", "effect": "NoSchedule"}
    assert spec["tolerations"] == [taint]
    assert "nodeSelector" not in pod_specs(manifests("ingress"))[0]


def test_traffic_comes_by_the_gateway_api_over_tls() -> None:
    found = manifests("ingress")
    (route,), (tls,) = of_kind(found, "HTTPRoute"), of_kind(found, "BackendTLSPolicy")
    assert route["spec"]["rules"][0]["backendRefs"] == [{"name": "main-secure-inference-gateway", "port": 443}]
    assert tls["spec"]["validation"]["hostname"] == "gateway.example" and not of_kind(found, "Ingress")
    assert not any(rule.get("filters") for rule in route["spec"]["rules"])


@pytest.mark.parametrize("mode", ["ingress", "node-isolated"])
def test_workload_identity_is_on_the_pod_and_its_account(mode: str) -> None:
    found = manifests(mode)
    (workload,), (account,) = of_kind(found, "StatefulSet"), of_kind(found, "ServiceAccount")
    assert workload["spec"]["template"]["metadata"]["labels"]["azure.workload.identity/use"] == "true"
    annotations = account["metadata"]["annotations"]
    assert annotations["azure.workload.identity/client-id"] == INJECTED["AZURE_CLIENT_ID"]
    assert annotations["azure.workload.identity/service-account-token-expiration"] == "3600"


def test_the_vault_class_copies_nothing_into_a_secret() -> None:
    found = manifests("ingress")
    (vault,) = of_kind(found, "SecretProviderClass")
    assert "secretObjects" not in vault["spec"] and not of_kind(found, "Secret")
    objects = yaml.safe_load(vault["spec"]["parameters"]["objects"])["array"]
    assert [yaml.safe_load(one)["objectName"] for one in objects] == ["audit-key", "audit-pepper", "redis-password"]


def test_the_alerts_are_the_ones_that_are_tested() -> None:
    rules = ROOT / "deploy/alerts/gateway.rules.yaml"
    assert (CHART / "files/alerts.yaml").read_bytes() == rules.read_bytes()
    (made,) = of_kind(manifests("ingress", "--set", "monitoring.runbookBase="), "PrometheusRule")
    assert made["spec"] == yaml.safe_load(rules.read_text(encoding="utf-8"))
    (linked,) = of_kind(manifests("ingress"), "PrometheusRule")
    links = [r["annotations"]["runbook_url"] for g in linked["spec"]["groups"] for r in g["rules"] if "alert" in r]
    assert links and all(link.startswith("https://docs.example/gateway/runbooks/Gateway") for link in links)


def test_promtool_takes_the_rendered_rule(tmp_path: Path) -> None:
    (made,) = of_kind(manifests("ingress"), "PrometheusRule")
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(made["spec"]), encoding="utf-8")
    done = run(program("promtool"), "check", "rules", file)
    assert done.returncode == 0 and "SUCCESS" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("mode", MODES)
def test_everything_is_in_the_release_namespace_but_the_applications_policies(mode: str) -> None:
    outside = [m for m in manifests(mode) if m["metadata"]["namespace"] != NAMESPACE]
    assert {m["kind"] for m in outside} <= {"NetworkPolicy"}
    assert {m["metadata"]["namespace"] for m in outside} == (set() if mode == "sidecar" else {"team-a", "team-b"})
