"""Who can reach whom, by the NetworkPolicies alone? Pods and networks in, yes or no out; no cluster, no I/O.

Kubernetes NetworkPolicy v1: a pod that some policy selects for a direction may do only what one of those policies allows; a pod
that none selects may do anything. A connection between two pods needs both ends' consent. An ipBlock speaks of addresses outside
the cluster, so it is matched against networks alone.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Policy = Mapping[str, Any]


@dataclass(frozen=True)
class Pod:
    name: str
    namespace: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outside:
    """An address outside the cluster, or every address of a network."""

    name: str
    network: str


def _labels_match(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    if set(selector) - {"matchLabels"}:
        raise ValueError(f"this graph knows matchLabels alone, not {sorted(selector)}")
    return all(labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items())


def _governs(policy: Policy, pod: Pod, direction: str) -> bool:
    spec = policy["spec"]
    types = spec.get("policyTypes", ["Ingress"])
    return direction in types and policy["metadata"]["namespace"] == pod.namespace and _labels_match(spec["podSelector"], pod.labels)


def _peer_matches(peer: Mapping[str, Any], other: Pod | Outside, home: str) -> bool:
    if "ipBlock" in peer:
        if isinstance(other, Pod):
            return False
        target, block = ipaddress.ip_network(other.network), ipaddress.ip_network(peer["ipBlock"]["cidr"])
        if target.version != block.version or not target.overlaps(block):
            return False
        # INVARIANT: a network counts as reached when any address of it is; an exception closes it only when it covers all of it.
        return not any(target.subnet_of(ipaddress.ip_network(hole)) for hole in peer["ipBlock"].get("except", ()))  # type: ignore[arg-type]
    if isinstance(other, Outside):
        return False
    if "namespaceSelector" in peer:
        if not _labels_match(peer["namespaceSelector"], {"kubernetes.io/metadata.name": other.namespace}):
            return False
    elif other.namespace != home:
        return False
    return _labels_match(peer.get("podSelector", {}), other.labels)


def _allowed(policies: Sequence[Policy], pod: Pod, other: Pod | Outside, port: int, protocol: str, direction: str) -> bool:
    governing = [policy for policy in policies if _governs(policy, pod, direction)]
    if not governing:
        return True
    side = "from" if direction == "Ingress" else "to"
    for policy in governing:
        for rule in policy["spec"].get(direction.lower()) or ():
            peers, ports = rule.get(side), rule.get("ports")
            if peers and not any(_peer_matches(peer, other, pod.namespace) for peer in peers):
                continue
            if any(set(p) - {"protocol", "port"} for p in ports or ()):
                raise ValueError("this graph knows single ports alone, no ranges")
            if not ports or any(p["port"] == port and p.get("protocol", "TCP") == protocol for p in ports):
                return True
    return False


def reaches(policies: Sequence[Policy], pod: Pod, other: Pod | Outside, port: int, protocol: str = "TCP") -> bool:
    """Return whether `pod` can open a connection to `port` of `other`."""
    if not _allowed(policies, pod, other, port, protocol, "Egress"):
        return False
    return isinstance(other, Outside) or _allowed(policies, other, pod, port, protocol, "Ingress")


def ways(
    policies: Sequence[Policy], start: Pod, target: Outside, pods: Sequence[Pod], through: Sequence[Pod], ports: Sequence[int]
) -> list[list[str]]:
    """Return every way from `start` to `target`, hop by hop, that passes none of `through`. No way is the property wanted."""
    found: list[list[str]] = []
    todo: list[tuple[Pod, list[str]]] = [(start, [start.name])]
    seen = {start.name}
    while todo:
        at, path = todo.pop()
        if any(reaches(policies, at, target, port) for port in ports):
            found.append([*path, target.name])
        for pod in pods:
            if pod.name not in seen and pod not in through and any(reaches(policies, at, pod, port) for port in ports):
                seen.add(pod.name)
                todo.append((pod, [*path, pod.name]))
    return found
