"""Is there a way from an application to a model around the gateway? The rendered NetworkPolicies as a graph, whole and changed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from chart_tools import NAMESPACE, manifests, of_kind
from network_graph import Outside, Pod, reaches, ways

NAME = {"app.kubernetes.io/name": "secure-inference-gateway", "app.kubernetes.io/instance": "main"}
GATEWAY = Pod("gateway", NAMESPACE, {**NAME, "app.kubernetes.io/component": "gateway"})
TESTER = Pod("tester", NAMESPACE, {**NAME, "app.kubernetes.io/component": "test"})
NEIGHBOUR = Pod("neighbour", NAMESPACE, {"app": "something"})
TEAM_A = Pod("team-a", "team-a", {"app": "chat"})
TEAM_B = Pod("team-b", "team-b", {"reaches": "models"})
STRANGER = Pod("stranger", "elsewhere", {"reaches": "models"})
LOOKALIKE = Pod("lookalike", "elsewhere", dict(GATEWAY.labels))
ROUTER = Pod("router", "gateways", {"istio": "gateway"})
SCRAPER = Pod("scraper", "monitoring", {"app.kubernetes.io/name": "prometheus"})
RESOLVER = Pod("resolver", "kube-system", {"k8s-app": "kube-dns"})
SIDECAR = Pod("pod-with-sidecar", NAMESPACE, {**NAME, "app.kubernetes.io/component": "application"})
PODS = (GATEWAY, TESTER, NEIGHBOUR, TEAM_A, TEAM_B, STRANGER, LOOKALIKE, ROUTER, SCRAPER, SIDECAR)

MODEL = Outside("model endpoint", "10.40.1.0/24")
ENTRA = Outside("issuer", "20.190.128.0/18")
ANYWHERE = Outside("the world", "198.51.100.7/32")
METADATA = (Outside("instance metadata", "169.254.169.254/32"), Outside("host agent", "168.63.129.16/32"))
PORTS = (53, 80, 443, 3000, 5432, 6380, 8080, 8443, 9090, 32526)
DATA = {"ingress": 8443, "node-isolated": 8080}

Policies = list[dict[str, Any]]


@cache
def _rendered(mode: str, *more: str) -> tuple[dict[str, Any], ...]:
    return tuple(of_kind(manifests(mode, *more), "NetworkPolicy"))


def policies(mode: str, *more: str) -> Policies:
    return copy.deepcopy(list(_rendered(mode, *more)))


def network_faults(found: Policies, data: int) -> list[str]:
    """Return every way in which policies of ingress or node-isolated mode fall short, or stand in the way of service."""
    faults: list[str] = []
    for pod in (TEAM_A, TEAM_B, NEIGHBOUR, TESTER, SIDECAR):
        # The resolver is a hop only for names: it forwards no connection.
        faults += [" -> ".join(way) for way in ways(found, pod, MODEL, PODS, (GATEWAY,), PORTS)]
        faults += [f"{pod.name} -> the world:{port}" for port in PORTS if reaches(found, pod, ANYWHERE, port)]
    for pod in PODS:
        for port in PORTS:
            reached = reaches(found, pod, GATEWAY, port)
            may = (port == data and pod in (TEAM_A, TEAM_B, ROUTER)) or (port == 9090 and pod in (SCRAPER, TESTER))
            if pod is not GATEWAY and reached != may:
                faults.append(f"{pod.name} {'reaches' if reached else 'does not reach'} the gateway's port {port}")
    for pod in (GATEWAY, TEAM_A, TEAM_B, NEIGHBOUR, TESTER):
        faults += [f"{pod.name} -> {at.name}:{port}" for at in METADATA for port in PORTS if reaches(found, pod, at, port)]
    for target in (MODEL, ENTRA):
        if not reaches(found, GATEWAY, target, 443):
            faults.append(f"the gateway does not reach the {target.name}")
    if reaches(found, GATEWAY, MODEL, 80) or reaches(found, GATEWAY, ANYWHERE, 443):
        faults.append("the gateway reaches more than its list")
    for pod in (GATEWAY, TEAM_A, TEAM_B, TESTER):
        if not reaches(found, pod, RESOLVER, 53, "UDP"):
            faults.append(f"{pod.name} cannot resolve names")
    return faults


@pytest.mark.parametrize("mode", DATA)
def test_the_gateway_is_the_only_way_to_a_model(mode: str) -> None:
    assert network_faults(policies(mode), DATA[mode]) == []


@pytest.mark.parametrize("mode", DATA)
def test_no_policy_can_be_left_out(mode: str) -> None:
    found = policies(mode)
    assert len(found) == 5
    for missing in found:
        rest = [policy for policy in found if policy is not missing]
        assert network_faults(rest, DATA[mode]), f"nothing noticed that {missing['metadata']['name']} is missing"


def _named(found: Policies, end: str) -> dict[str, Any]:
    (policy,) = [one for one in found if one["metadata"]["name"].endswith(end)]
    spec: dict[str, Any] = policy["spec"]
    return spec


WIDENED: dict[str, Callable[[Policies], object]] = {
    "an application may send anywhere": lambda found: _named(found, "application-0")["egress"].append({}),
    "an application may send to the endpoints": lambda found: _named(found, "application-1")["egress"].append(
        {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}
    ),
    "an application's rule names no peer": lambda found: _named(found, "application-0")["egress"][1].pop("to"),
    "an application's rule governs receiving alone": lambda found: _named(found, "application-0").update(policyTypes=["Ingress"]),
    "default deny covers one label alone": lambda found: _named(found, "default-deny").update(podSelector={"matchLabels": {"app": "x"}}),
    "default deny forgets sending": lambda found: _named(found, "default-deny").update(policyTypes=["Ingress"]),
    "the gateway takes anyone": lambda found: _named(found, "-gateway")["ingress"][0].pop("from"),
    "the gateway takes any pod of that label": lambda found: _named(found, "-gateway")["ingress"][0]["from"].append(
        {"namespaceSelector": {}, "podSelector": {"matchLabels": {"reaches": "models"}}}
    ),
    "the gateway sends anywhere on 443": lambda found: _named(found, "-gateway")["egress"].append({"ports": [{"port": 443}]}),
    "the gateway reaches the metadata address": lambda found: _named(found, "-gateway")["egress"].append(
        {"to": [{"ipBlock": {"cidr": "169.254.0.0/16"}}], "ports": [{"port": 80}]}
    ),
}


@pytest.mark.parametrize("mode", DATA)
@pytest.mark.parametrize("change", WIDENED)
def test_a_widened_policy_is_noticed(mode: str, change: str) -> None:
    found = policies(mode)
    WIDENED[change](found)
    assert network_faults(found, DATA[mode])


def test_applications_left_open_by_choice_are_noticed() -> None:
    assert network_faults(policies("ingress", "--set", "networkPolicy.lockApplications=false"), 8443)


@pytest.mark.parametrize(("cidr", "at"), [("169.254.0.0/16", 0), ("168.0.0.0/8", 1), ("169.254.169.254/31", 0)])
def test_metadata_addresses_are_cut_out_of_a_wider_network(cidr: str, at: int) -> None:
    found = policies("ingress", "--set", f"networkPolicy.egress[0].cidrs[0]={cidr}")
    assert any(cidr in str(policy) for policy in found)
    assert not any(reaches(found, GATEWAY, METADATA[at], port) for port in PORTS)


def test_a_pod_with_a_sidecar_reaches_the_ingress_gateway_and_nothing_else() -> None:
    found = policies("sidecar")
    ingress_gateway = Pod("ingress gateway", NAMESPACE, {"app.kubernetes.io/name": NAME["app.kubernetes.io/name"], **GATEWAY.labels})
    assert reaches(found, SIDECAR, ingress_gateway, 8443) and reaches(found, SIDECAR, RESOLVER, 53, "UDP")
    others = [pod for pod in PODS if pod not in (GATEWAY, SIDECAR)]
    assert [(pod.name, port) for pod in others for port in PORTS if reaches(found, SIDECAR, pod, port)] == []
    assert [port for port in PORTS if reaches(found, SIDECAR, ingress_gateway, port)] == [8443]
    closed = (MODEL, ANYWHERE, *METADATA)
    assert [(at.name, port) for at in closed for port in PORTS if reaches(found, SIDECAR, at, port)] == []
    # Where callers' keys are read is open to the whole pod, because it is one network: named in the values, and nothing beyond it.
    assert [port for port in PORTS if reaches(found, SIDECAR, ENTRA, port)] == [443]
    assert not reaches(policies("sidecar", "--set", "sidecar.callerKeys=null"), SIDECAR, ENTRA, 443)


def test_a_pod_with_a_sidecar_is_called_by_whom_the_values_name() -> None:
    found = policies("sidecar")
    web = Pod("web", "web")
    assert reaches(found, web, SIDECAR, 3000) and not reaches(found, web, SIDECAR, 9090) and not reaches(found, STRANGER, SIDECAR, 3000)
    # The data port listens on loopback, and no policy opens it either.
    assert [pod.name for pod in (*PODS, web) if pod is not SIDECAR and reaches(found, pod, SIDECAR, 8080)] == []


def test_both_modes_together_leave_one_way_to_a_model() -> None:
    found = policies("ingress", "--set", "networkPolicy.applications[2].namespace=apps") + [
        {**policy, "metadata": {**policy["metadata"], "namespace": "apps"}} for policy in policies("sidecar")
    ]
    pod = Pod("sidecar", "apps", SIDECAR.labels)
    assert ways(found, pod, MODEL, [*PODS, pod], (GATEWAY,), PORTS) == []
    assert reaches(found, pod, GATEWAY, 8443) and reaches(found, GATEWAY, MODEL, 443)
