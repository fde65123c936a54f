"""One credential, one answer: what a request may carry, what is remembered, and that every failure looks the same."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest
from issuer_fixture import CLIENT, NOW, OID, TID, FakeIssuer, bearer, public_jwk, rsa_key

from gateway.challenge import insufficient_claims
from gateway.evidence import Subject
from gateway.identity import apikeys
from gateway.identity.authenticate import Authenticator, Style
from gateway.identity.issuers import IssuerKind, Overage
from gateway.identity.subject import TenantFaults, TenantRule, Tenants
from gateway.refusals import INVALID_API_KEY, INVALID_TOKEN, POLICY_DENIED, Refusal


async def ask(authenticator: Authenticator, headers: list[tuple[bytes, bytes]], now_s: int = NOW) -> Subject:
    return await authenticator.authenticate(authenticator.credential(headers), now_s)


async def refusal(authenticator: Authenticator, headers: list[tuple[bytes, bytes]], now_s: int = NOW) -> Refusal:
    with pytest.raises(Refusal) as caught:
        await ask(authenticator, headers, now_s)
    return caught.value


def public(refused: Refusal) -> tuple[Any, ...]:
    return (refused.kind, refused.message, refused.param, refused.inner, refused.retry_after_s, refused.challenge, refused.headers)


async def test_token_becomes_a_subject_of_its_tenant() -> None:
    issuer = FakeIssuer()
    authenticator = await issuer.authenticator(TenantRule(tenant="acme", directory_id=TID))
    subject = await ask(authenticator, bearer(issuer.token()))
    assert (subject.tenant, subject.issuer, subject.subject_id) == ("acme", issuer.iss, f"{TID}/{OID}")
    assert len(subject.token_digest) == 32 and subject.token_id == "token-id-1"


CREDENTIALS: list[tuple[str, list[tuple[bytes, bytes]], Any]] = [
    ("none", [], INVALID_TOKEN),
    ("empty authorization", [(b"authorization", b"")], INVALID_TOKEN),
    ("scheme alone", [(b"authorization", b"Bearer")], INVALID_TOKEN),
    ("scheme and a space", [(b"authorization", b"Bearer ")], INVALID_TOKEN),
    ("basic", [(b"authorization", b"Basic dTpw")], INVALID_TOKEN),
    ("negotiate", [(b"authorization", b"Negotiate abc")], INVALID_TOKEN),
    ("two spaces", [(b"authorization", b"Bearer  TOKEN")], INVALID_TOKEN),
    ("a tab", [(b"authorization", b"Bearer\tTOKEN")], INVALID_TOKEN),
    ("space after", [(b"authorization", b"Bearer TOKEN ")], INVALID_TOKEN),
    ("space before", [(b"authorization", b" Bearer TOKEN")], INVALID_TOKEN),
    ("two in one", [(b"authorization", b"Bearer TOKEN, Bearer TOKEN")], INVALID_TOKEN),
    ("two in one without spaces", [(b"authorization", b"Bearer TOKEN,TOKEN")], INVALID_TOKEN),
    ("repeated", [(b"authorization", b"Bearer TOKEN"), (b"authorization", b"Bearer TOKEN")], INVALID_TOKEN),
    ("token and key", [(b"authorization", b"Bearer TOKEN"), (b"api-key", b"TOKEN")], INVALID_TOKEN),
    ("two keys", [(b"api-key", b"TOKEN"), (b"api-key", b"TOKEN")], INVALID_TOKEN),
    ("not ASCII", [(b"authorization", b"Bearer \xff\xfe")], INVALID_TOKEN),
    ("NUL", [(b"authorization", b"Bearer TOKEN\x00")], INVALID_TOKEN),
    ("17 KiB", [(b"authorization", b"Bearer " + b"A" * 17_000)], INVALID_TOKEN),
    ("token as a key", [(b"api-key", b"TOKEN")], INVALID_API_KEY),
    ("key while keys are off", [(b"api-key", b"gwk_aaaaaaaaaaaaaaaa_" + b"A" * 43)], INVALID_API_KEY),
    ("key as a bearer while keys are off", [(b"authorization", b"Bearer gwk_aaaaaaaaaaaaaaaa_" + b"A" * 43)], INVALID_API_KEY),
    ("empty key", [(b"api-key", b"")], INVALID_API_KEY),
]


@pytest.mark.parametrize(("headers", "kind"), [row[1:] for row in CREDENTIALS], ids=[row[0] for row in CREDENTIALS])
async def test_credential_that_is_not_one_good_credential(headers: list[tuple[bytes, bytes]], kind: Any) -> None:
    """TOKEN stands for a token that is good by itself: only the way it is carried is wrong."""
    issuer = FakeIssuer()
    authenticator = await issuer.authenticator()
    good = issuer.token().encode()
    refused = await refusal(authenticator, [(name, value.replace(b"TOKEN", good)) for name, value in headers])
    assert public(refused) == (kind, "a valid credential is required", None, None, None, "Bearer", ())


async def test_scheme_is_case_insensitive() -> None:
    issuer = FakeIssuer()
    authenticator = await issuer.authenticator()
    for scheme in (b"Bearer ", b"bearer ", b"BEARER "):
        subject = await ask(authenticator, [(b"authorization", scheme + issuer.token().encode())])
        assert subject.tenant == "acme"


async def test_every_token_failure_is_the_same_in_public_and_named_in_private() -> None:
    issuer = FakeIssuer()
    authenticator = await issuer.authenticator()
    bad = {
        "shape": "x",
        "signature": issuer.token(key=rsa_key("attacker")),
        "time": issuer.token(exp=NOW - 3600, iat=NOW - 7200, nbf=NOW - 7200),
        "audience": issuer.token(aud="other"),
        "issuer": issuer.token(iss="https://attacker.example"),
        "key": issuer.token(header={"kid": "other"}),
        "subject": issuer.token(sub="a\nb"),
    }
    refusals = {name: await refusal(authenticator, bearer(token)) for name, token in bad.items()}
    assert len({public(refused) for refused in refusals.values()}) == 1
    for name, refused in refusals.items():
        assert name in refused.detail
        assert len(str(refused)) < 40


async def test_repr_and_details_hold_no_credential() -> None:
    issuer = FakeIssuer()
    authenticator = await issuer.authenticator()
    token = issuer.token(aud="other")
    credential = authenticator.credential(bearer(token))
    assert repr(credential) == "Credential(token)"
    refused = await refusal(authenticator, bearer(token))
    assert not any(part in refused.detail for part in token.split("."))


async def test_cached_answers_only_what_was_verified() -> None:
    issuer = FakeIssuer()
    authenticator = await issuer.authenticator()
    credential = authenticator.credential(bearer(issuer.token()))
    assert authenticator.cached(credential, NOW) is None
    subject = await authenticator.authenticate(credential, NOW)
    assert authenticator.cached(credential, NOW) is subject
    bad = authenticator.credential(bearer(issuer.token(aud="other")))
    await refusal(authenticator, bearer(issuer.token(aud="other")))
    assert authenticator.cached(bad, NOW) is None


async def test_cve_2026_35030_identity_cache_collision() -> None:
    """Two tokens that share all but their last characters, or their first thousand, are two identities."""
    issuer = FakeIssuer()
    authenticator = await issuer.authenticator()
    first = issuer.token(pad="x" * 1000, sub="a")
    await ask(authenticator, bearer(first))
    second = issuer.token(pad="x" * 1000, sub="b", oid=CLIENT)
    assert first[:20] == second[:20]
    assert (await ask(authenticator, bearer(second))).subject_id == f"{TID}/{CLIENT}"
    forged = first[:-1] + ("A" if first[-1] != "A" else "Q")
    assert (await refusal(authenticator, bearer(forged))).kind is INVALID_TOKEN
    assert authenticator.cached(authenticator.credential(bearer(first[:1000])), NOW) is None


async def test_cached_expires_with_the_token_and_both_ways_with_the_clock() -> None:
    issuer = FakeIssuer()
    authenticator = await issuer.authenticator()
    token = issuer.token(exp=NOW + 100)
    for now_s, alive in ((NOW + 159, True), (NOW + 160, False)):
        credential = authenticator.credential(bearer(token))
        await authenticator.authenticate(credential, NOW)
        assert (authenticator.cached(credential, now_s) is not None) is alive
    await authenticator.authenticate(credential, NOW)
    assert authenticator.cached(credential, NOW - 600) is None
    assert (await refusal(authenticator, bearer(token), NOW + 160)).detail.endswith("expired")


async def test_cached_ends_when_the_key_is_withdrawn() -> None:
    issuer = FakeIssuer(IssuerKind.OIDC)
    keysets = issuer.keysets()
    await keysets.refresh()
    authenticator = Authenticator(issuer.trusted, keysets, issuer.tenants())
    credential = authenticator.credential(bearer(issuer.token()))
    await authenticator.authenticate(credential, NOW)
    issuer.jwks = [public_jwk(rsa_key("two"), "kid-2")]
    await keysets.refresh()
    assert authenticator.cached(credential, NOW) is None
    assert (await refusal(authenticator, bearer(issuer.token()))).kind is INVALID_TOKEN


async def test_cached_ends_when_a_kid_is_reused_for_another_key() -> None:
    issuer = FakeIssuer(IssuerKind.OIDC)
    keysets = issuer.keysets()
    await keysets.refresh()
    authenticator = Authenticator(issuer.trusted, keysets, issuer.tenants())
    token = issuer.token()
    await ask(authenticator, bearer(token))
    issuer.jwks = [public_jwk(rsa_key("two"), "kid-1")]
    await keysets.refresh()
    assert "signature" in (await refusal(authenticator, bearer(token))).detail


async def test_a_key_replaced_while_groups_are_asked_for_vouches_for_nothing_remembered() -> None:
    """SECURITY: the new key of the same kid never verified this token; the entry must name the set that did."""
    issuer = FakeIssuer(groups_overage=Overage.RESOLVE)
    keysets = issuer.keysets()
    await keysets.refresh()

    class Slow:
        async def groups_of(self, directory_id: str, object_id: str, *, application: bool, now_s: float) -> frozenset[str]:
            issuer.jwks = [public_jwk(rsa_key("two"), "kid-1")]
            await keysets.refresh()
            return frozenset()

        async def aclose(self) -> None: ...

    authenticator = Authenticator(issuer.trusted, keysets, issuer.tenants(), groups=Slow())
    credential = authenticator.credential(bearer(issuer.token(hasgroups=True)))
    await authenticator.authenticate(credential, NOW)
    assert authenticator.cached(credential, NOW) is None
    assert "signature" in (await refusal(authenticator, bearer(issuer.token(hasgroups=True)))).detail


async def test_cached_ends_when_the_keys_are_too_old() -> None:
    issuer = FakeIssuer(IssuerKind.OIDC)
    authenticator = await issuer.authenticator()
    credential = authenticator.credential(bearer(issuer.token(exp=NOW + 86_000)))
    await authenticator.authenticate(credential, NOW)
    issuer.clock.now += 86_401
    issuer.source.documents.clear()
    assert authenticator.cached(credential, NOW) is None
    with pytest.raises(Refusal):
        await authenticator.authenticate(credential, NOW)


async def test_cache_is_bounded_and_keeps_what_is_used() -> None:
    issuer = FakeIssuer(IssuerKind.OIDC)
    authenticator = await issuer.authenticator(capacity=3)
    credentials = [authenticator.credential(bearer(issuer.token(sub=f"s{n}"))) for n in range(5)]
    for credential in credentials:
        await authenticator.authenticate(credential, NOW)
        await authenticator.authenticate(credentials[0], NOW)
    held = [authenticator.cached(credential, NOW) is not None for credential in credentials]
    assert held == [True, False, False, True, True]


async def test_rotated_key_works_with_its_first_token() -> None:
    issuer = FakeIssuer(IssuerKind.OIDC)
    authenticator = await issuer.authenticator()
    await ask(authenticator, bearer(issuer.token()))
    issuer.jwks.append(public_jwk(rsa_key("two"), "kid-2"))
    issuer.source.fetched.clear()
    tokens = [issuer.token(key=rsa_key("two"), header={"kid": "kid-2"}, sub=f"s{n}") for n in range(20)]
    subjects = await asyncio.gather(*(ask(authenticator, bearer(token)) for token in tokens))
    assert len({subject.subject_id for subject in subjects}) == 20
    assert len(issuer.source.fetched) == 1


async def test_1_no_keys_yet_is_401_never_open() -> None:
    issuer = FakeIssuer(IssuerKind.OIDC)
    issuer.source.documents.clear()
    authenticator = await issuer.authenticator()
    assert (await refusal(authenticator, bearer(issuer.token()))).kind is INVALID_TOKEN


async def test_no_tenant_is_403_with_the_reason_in_private() -> None:
    issuer = FakeIssuer()
    authenticator = await issuer.authenticator(TenantRule(tenant="acme", directory_id=TID, application=OID))
    refused = await refusal(authenticator, bearer(issuer.token()))
    assert (refused.kind, refused.detail) == (POLICY_DENIED, "tenant: no tenant rule matches")


async def test_two_tenants_is_403() -> None:
    issuer = FakeIssuer()
    rules = (TenantRule(tenant="a", directory_id=TID, application=CLIENT), TenantRule(tenant="b", issuer=issuer.iss))
    authenticator = await issuer.authenticator(*rules)
    refused = await refusal(authenticator, bearer(issuer.token()))
    assert (refused.kind, refused.detail) == (POLICY_DENIED, "tenant: rules of two tenants match")


async def test_unproven_application_selects_no_tenant() -> None:
    issuer = FakeIssuer()
    authenticator = await issuer.authenticator(TenantRule(tenant="a", directory_id=TID, application=CLIENT))
    assert (await ask(authenticator, bearer(issuer.token(azpacr="1")))).tenant == "a"
    assert (await refusal(authenticator, bearer(issuer.token(azpacr="0")))).kind is POLICY_DENIED


async def test_overage_and_guests_are_403_unless_configured() -> None:
    strict, lax = FakeIssuer(), FakeIssuer(guests=True, groups_overage=Overage.NO_GROUPS)
    for changes in ({"hasgroups": True}, {"acct": 1}):
        refused = await refusal(await strict.authenticator(), bearer(strict.token(**changes)))
        assert refused.kind is POLICY_DENIED
    subject = await ask(await lax.authenticator(), bearer(lax.token(hasgroups=True, acct=1)))
    assert subject.groups_overage and subject.guest and subject.groups == frozenset()


@pytest.mark.parametrize(
    ("rules", "fault"),
    [
        ([TenantRule(tenant="a")], "give at least one"),
        ([TenantRule(tenant="A b", directory_id=TID)], "lower-case"),
        ([TenantRule(tenant="a", issuer="https://other.example")], "not a configured issuer"),
        ([TenantRule(tenant="a", directory_id=OID)], "not accepted by any"),
        ([TenantRule(tenant="a", application=CLIENT)], "`application` needs"),
        ([TenantRule(tenant="a", namespace="prod")], "`namespace` needs"),
        ([TenantRule(tenant="a", key_id="k", directory_id=TID)], "stands alone"),
        ([TenantRule(tenant="a", directory_id=TID), TenantRule(tenant="b", directory_id=TID)], "would both match"),
        ([TenantRule(tenant="a", directory_id=TID), TenantRule(tenant="b", directory_id=TID, application=CLIENT)], "would both match"),
    ],
)
def test_tenant_rules_that_cannot_work_are_refused(rules: list[TenantRule], fault: str) -> None:
    issuer = FakeIssuer()
    with pytest.raises(TenantFaults, match=fault):
        Tenants(rules, issuer.trusted)


def test_rules_of_one_tenant_may_overlap() -> None:
    issuer = FakeIssuer()
    rules = [TenantRule(tenant="a", directory_id=TID), TenantRule(tenant="a", directory_id=TID, application=CLIENT)]
    assert isinstance(Tenants(rules, issuer.trusted), Tenants)


async def test_service_account_by_namespace() -> None:
    cluster = FakeIssuer(IssuerKind.KUBERNETES, audiences=("77777777-6666-4555-8444-333333333333",))
    authenticator = await cluster.authenticator(TenantRule(tenant="a", issuer=cluster.iss, namespace="prod"))
    assert (await ask(authenticator, bearer(cluster.token()))).subject_id == "prod/caller"
    token = cluster.token(
        **{"sub": "system:serviceaccount:dev:caller", "kubernetes.io": {"namespace": "dev", "serviceaccount": {"name": "caller"}}}
    )
    assert (await refusal(authenticator, bearer(token))).kind is POLICY_DENIED


async def test_gateway_key_by_either_header(tmp_path: Path) -> None:
    issuer = FakeIssuer()
    path = tmp_path / "keys.jsonl"
    record, key = apikeys.create(path, name="ci", now_s=NOW, random=bytes(range(42)), roles=["analyst"], expires_s=NOW + 100)
    keys = apikeys.ApiKeys(path)
    authenticator = await issuer.authenticator(TenantRule(tenant="acme", key_id=record.id), api_keys=keys)
    for headers in ([(b"api-key", key.encode())], bearer(key)):
        assert authenticator.credential(headers).style is Style.KEY
        subject = await ask(authenticator, headers)
        assert (subject.tenant, subject.issuer, subject.subject_id, subject.app_roles) == ("acme", "key", record.id, {"analyst"})
    assert (await refusal(authenticator, bearer(key), NOW + 100)).kind is INVALID_API_KEY
    apikeys.revoke(path, record.id, NOW + 1)
    assert keys.reload()
    assert (await refusal(authenticator, bearer(key))).kind is INVALID_API_KEY


async def test_key_without_a_tenant_rule_is_403(tmp_path: Path) -> None:
    issuer = FakeIssuer()
    _, key = apikeys.create(tmp_path / "k", name="ci", now_s=NOW, random=bytes(42))
    authenticator = await issuer.authenticator(api_keys=apikeys.ApiKeys(tmp_path / "k"))
    assert (await refusal(authenticator, bearer(key))).kind is POLICY_DENIED


async def test_claims_challenge_only_for_clients_that_can() -> None:
    issuer = FakeIssuer()
    authenticator = await issuer.authenticator()
    able = await ask(authenticator, bearer(issuer.token(xms_cc=["cp1"])))
    refused = insufficient_claims(able, "c1")
    assert refused.kind is INVALID_TOKEN and refused.challenge is not None
    assert refused.challenge.startswith('Bearer realm="", authorization_uri="https://login.microsoftonline.com/common/oauth2/authorize"')
    encoded = refused.challenge.rpartition('claims="')[2].rstrip('"')
    assert json.loads(base64.b64decode(encoded)) == {"access_token": {"acrs": {"essential": True, "value": "c1"}}}
    unable = await ask(authenticator, bearer(issuer.token()))
    assert insufficient_claims(unable, "c1").kind is POLICY_DENIED
    with pytest.raises(ValueError, match="c1 to c99"):
        insufficient_claims(able, 'c1"')


async def test_a_token_in_the_header_of_keys_is_no_credential_whoever_showed_it_before() -> None:
    """Known or not makes no difference: else the header told whether somebody had used the token lately."""
    issuer = FakeIssuer()
    authenticator = await issuer.authenticator()
    token = issuer.token()
    wrong = authenticator.credential([(b"api-key", token.encode())])
    assert authenticator.cached(wrong, NOW) is None
    await ask(authenticator, bearer(token))
    assert authenticator.cached(wrong, NOW) is None
    assert (await refusal(authenticator, [(b"api-key", token.encode())])).kind is INVALID_API_KEY
    assert authenticator.cached(authenticator.credential(bearer(token)), NOW) is not None
