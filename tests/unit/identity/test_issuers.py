"""Issuer settings: the exact strings they stand for, and every way they are refused."""

from __future__ import annotations

from typing import Any

import pytest
from issuer_fixture import AUDIENCE, TID

from gateway.identity.issuers import IssuerConfig, IssuerFaults, IssuerKind, development_issuers, trust, url_fault


def config(**changes: Any) -> IssuerConfig:
    return IssuerConfig(
        **({"name": "one", "kind": IssuerKind.OIDC, "issuer": "https://issuer.example", "audiences": (AUDIENCE,)} | changes)
    )


def entra(**changes: Any) -> IssuerConfig:
    return config(**({"kind": IssuerKind.ENTRA, "issuer": "", "tenants": (TID,)} | changes))


def test_entra_stands_for_two_exact_issuers() -> None:
    trusted = trust([entra()])
    v1, v2 = f"https://sts.windows.net/{TID}/", f"https://login.microsoftonline.com/{TID}/v2.0"
    assert set(trusted) == {v1, v2}
    assert trusted[v1].discovery_url == f"https://login.microsoftonline.com/{TID}/.well-known/openid-configuration"
    assert trusted[v2].discovery_url == f"https://login.microsoftonline.com/{TID}/v2.0/.well-known/openid-configuration"
    assert (trusted[v1].version, trusted[v2].version) == ("1.0", "2.0")
    assert set(trust([entra(versions=("2.0",))])) == {v2}


def test_trailing_slash_of_the_issuer_is_kept() -> None:
    (iss,) = trust([config(issuer="https://issuer.example/")])
    assert iss == "https://issuer.example/"


def test_development_issuers_are_named() -> None:
    trusted = trust([config(), config(name="dev", kind=IssuerKind.DEVELOPMENT, issuer="http://127.0.0.1:8400")])
    assert development_issuers(trusted) == ("dev",)


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        (config(audiences=()), "at least one audience"),
        (config(audiences=("*",)), "wildcards"),
        (config(audiences=("a b",)), "exact string"),
        (config(algorithms=()), "must not be empty"),
        (config(algorithms=("HS256",)), "HS256"),
        (config(algorithms=("none",)), "none"),
        (config(issuer=""), "exact `iss`"),
        (config(issuer="http://issuer.example"), "must be https"),
        (config(jwks_url="file:///etc/keys.json"), "host"),
        (config(discovery_url="http://10.0.0.1/x"), "must be https"),
        (config(leeway_s=301), "leeway_s"),
        (config(leeway_s=-1), "leeway_s"),
        (config(max_lifetime_s=28 * 3600 + 1), "max_lifetime_s"),
        (config(name="A B"), "`name`"),
        (config(tenants=(TID,)), "for Entra"),
        (config(kind=IssuerKind.DEVELOPMENT), "loopback"),
        (config(kind=IssuerKind.KUBERNETES, audiences=("api://AzureADTokenExchange",)), "opens other doors"),
        (config(kind=IssuerKind.KUBERNETES, audiences=("https://kubernetes.default.svc.cluster.local",)), "opens other doors"),
        (config(kind=IssuerKind.KUBERNETES, audiences=("https://issuer.example",)), "opens other doors"),
        (config(kind=IssuerKind.KUBERNETES, audiences=("https://c-1.hcp.westeurope.azmk8s.io:443",)), "opens other doors"),
        (entra(tenants=()), "directory ids"),
        (entra(tenants=("common",)), "never `common`"),
        (entra(tenants=(TID.upper().replace("1", "A"),)), "lower-case GUID"),
        (entra(issuer="https://x.example"), "given by `tenants`"),
        (entra(versions=("3.0",)), "`versions`"),
        (entra(authority="http://login.example"), "`authority`"),
    ],
)
def test_refused(bad: IssuerConfig, fault: str) -> None:
    with pytest.raises(IssuerFaults, match=fault):
        trust([bad])


def test_all_faults_at_once() -> None:
    with pytest.raises(IssuerFaults) as caught:
        trust([config(audiences=(), algorithms=("HS256",)), config(audiences=("*",)), config(name="two")])
    assert len(caught.value.faults) >= 5
    assert any("configured twice" in fault for fault in caught.value.faults)


@pytest.mark.parametrize(
    "url", ["https://a.example/x?y=z", "https://a.example:8443/", "http://127.0.0.1:1/x", "http://[::1]:1/", "http://localhost/"]
)
def test_url_that_may_be_fetched(url: str) -> None:
    assert url_fault(url) == ""


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://",
        "http://a.example",
        "http://127.0.0.1.evil.example/",
        "http://127.0.0.1@evil.example/",
        "https://a\\@b/",
        "https://a/#f",
        "https://a:0/",
    ],
)
def test_url_that_may_not_be_fetched(url: str) -> None:
    assert url_fault(url) != ""
