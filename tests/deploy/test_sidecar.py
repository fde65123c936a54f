"""In a pod with a sidecar, what does the application hold? No key, no token, no volume of the gateway's."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_tools import CHART, containers, manifests, of_kind, pod_specs, program, run, values

APPLICATION = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: chat, namespace: {{ .Release.Namespace }}}
spec:
  selector:
    matchLabels: {{- include "secure-inference-gateway.sidecar.labels" .Subcharts.gateway | nindent 6 }}
  template:
    metadata:
      labels: {{- include "secure-inference-gateway.sidecar.labels" .Subcharts.gateway | nindent 8 }}
    spec:
      automountServiceAccountToken: false
      securityContext: {{- include "secure-inference-gateway.podSecurity" .Subcharts.gateway | nindent 8 }}
      initContainers:
        {{- include "secure-inference-gateway.sidecar.containers" .Subcharts.gateway | nindent 8 }}
      containers:
        - {name: chat, image: "registry.example/chat@sha256:@DIGEST@"}
      volumes:
        {{- include "secure-inference-gateway.sidecar.volumes" .Subcharts.gateway | nindent 8 }}
"""


HELD = {"secret", "projected", "csi", "persistentVolumeClaim", "hostPath"}


def sidecar_faults(spec: dict[str, Any]) -> list[str]:
    """Return everything by which a container other than the gateway holds what is the gateway's, or an identity."""
    sources = {v["name"]: set(v) - {"name"} for v in spec["volumes"]}
    faults = [] if spec.get("automountServiceAccountToken") is False else ["the account's token is mounted everywhere"]
    for container in containers(spec):
        if container["name"] == "gateway":
            continue
        for mount in container.get("volumeMounts", ()):
            if sources[mount["name"]] & HELD or mount["name"].startswith("gateway-"):
                faults.append(f"{container['name']} mounts {mount['name']}")
        faults += [f"{container['name']} has {e['name']} from elsewhere" for e in container.get("env", ()) if "valueFrom" in e]
        faults += [f"{container['name']} takes its environment from elsewhere"] * bool(container.get("envFrom"))
    return faults


@pytest.fixture
def spec() -> dict[str, Any]:
    return pod_specs(manifests("sidecar"))[0]


def test_the_application_holds_no_credential_and_no_token(spec: dict[str, Any]) -> None:
    assert sidecar_faults(spec) == []
    (gateway,) = [c for c in containers(spec) if c["name"] == "gateway"]
    mounted = {m["name"] for m in gateway["volumeMounts"]}
    assert {"gateway-secret-0", "gateway-token", "gateway-audit"} <= mounted
    (token,) = [v for v in spec["volumes"] if "projected" in v]
    (source,) = token["projected"]["sources"]
    # SECURITY: never the audience that Entra trades for the workload's identity, never the API server's.
    assert source["serviceAccountToken"]["audience"] == "api://gateway.example"


@pytest.mark.parametrize("volume", ["gateway-secret-0", "gateway-token", "gateway-audit", "gateway-policies", "gateway-temporary"])
def test_a_mount_of_the_gateways_would_be_noticed(spec: dict[str, Any], volume: str) -> None:
    spec["containers"][0]["volumeMounts"].append({"name": volume, "mountPath": "/x"})
    assert sidecar_faults(spec) == [f"application mounts {volume}"]


def test_an_automounted_token_would_be_noticed(spec: dict[str, Any]) -> None:
    del spec["automountServiceAccountToken"]
    assert sidecar_faults(spec) == ["the account's token is mounted everywhere"]


def test_no_webhook_gives_the_pod_an_identity() -> None:
    found = manifests("sidecar")
    (workload,) = of_kind(found, "Deployment")
    assert not any(label.startswith("azure.workload.identity") for label in workload["spec"]["template"]["metadata"]["labels"])
    assert all("annotations" not in account["metadata"] for account in of_kind(found, "ServiceAccount"))


def test_it_is_a_native_sidecar_that_is_ready_before_the_application(spec: dict[str, Any]) -> None:
    (gateway,) = spec["initContainers"]
    assert gateway["restartPolicy"] == "Always" and gateway["startupProbe"]["httpGet"]["path"] == "/readyz"
    assert {p["name"] for p in gateway["ports"]} == {"ops"}
    (application,) = spec["containers"]
    assert {"name": "OPENAI_BASE_URL", "value": "http://127.0.0.1:8080/v1"} in application["env"]
    assert application["securityContext"]["runAsUser"] != gateway["securityContext"]["runAsUser"]
    assert spec["shareProcessNamespace"] is False


def test_the_logs_outlive_the_pod_and_the_release() -> None:
    (claim,) = of_kind(manifests("sidecar"), "PersistentVolumeClaim")
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" and claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_an_applications_own_chart_includes_it(tmp_path: Path) -> None:
    chart = tmp_path / "chat"
    (chart / "templates").mkdir(parents=True)
    shutil.copytree(CHART, chart / "charts/secure-inference-gateway")
    dependency = {"name": "secure-inference-gateway", "version": "0.1.0", "alias": "gateway", "repository": ""}
    about = {"apiVersion": "v2", "name": "chat", "version": "1.0.0", "dependencies": [dependency]}
    (chart / "Chart.yaml").write_text(yaml.safe_dump(about), encoding="utf-8")
    inner = yaml.safe_load(values("sidecar").read_text(encoding="utf-8"))
    inner["sidecar"]["application"] = {"enabled": False}
    (chart / "values.yaml").write_text(yaml.safe_dump({"gateway": inner}), encoding="utf-8")
    (chart / "templates/deployment.yaml").write_text(APPLICATION.replace("@DIGEST@", "4" * 64), encoding="utf-8")
    done = run(program("helm"), "template", "chat", chart, "-n", "team-a")
    assert done.returncode == 0, done.stderr
    found = [m for m in yaml.safe_load_all(done.stdout) if m]
    (workload,) = of_kind(found, "Deployment")
    pod = workload["spec"]["template"]
    assert sidecar_faults(pod["spec"]) == [] and pod["spec"]["initContainers"][0]["restartPolicy"] == "Always"
    (policy,) = [p for p in of_kind(found, "NetworkPolicy") if p["metadata"]["name"].endswith("-pod")]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    claims = {c["metadata"]["name"] for c in of_kind(found, "PersistentVolumeClaim")}
    assert {v["persistentVolumeClaim"]["claimName"] for v in pod["spec"]["volumes"] if "persistentVolumeClaim" in v} == claims
