"""Every rule for tokens from Entra ID and the cluster, as one table: rule -> what a good and a bad token meet.

Rules whose attacks stand elsewhere are named here with the tests that hold them, and `test_the_map_is_true` keeps that honest:

| rule | held by |
|---|---|
| size and shape before any parse | test_token: test_size_is_checked_before_the_shape, test_shape |
| one fixed algorithm list | test_token: test_cve_2022_29217_public_key_as_hmac_secret, test_header_attack |
| key by kid from the pinned set alone | test_token: test_header_attack, test_unknown_kid_names_issuer_and_kid_for_the_cache |
| ver decides the metadata | test_issuers: test_entra_stands_for_two_exact_issuers; test_token: test_entra_v1_application |
| iss exact | test_token: test_claim_attack |
| key issuer | test_token: test_key_issuer_template, test_key_issuer_of_another_directory |
| tid | test_token: test_claim_attack |
| aud | test_token: test_claim_attack, test_audience_lists_only_where_configured |
| exp, nbf, iat and leeway | test_token: test_claim_attack, test_times_within_the_leeway_pass |
| maximum lifetime | test_token: test_longer_life_only_where_configured |
| user or application | test_token: test_claim_attack |
| bound and named service accounts | test_token: test_kubernetes_attack; test_authenticate: test_service_account_by_namespace |
| claims challenge only for clients that can | test_authenticate: test_claims_challenge_only_for_clients_that_can |
| one subject, one tenant | test_authenticate: test_two_tenants_is_403, test_no_tenant_is_403_with_the_reason_in_private |
| key rotation, unknown kid | test_keyset, test_authenticate: test_rotated_key_works_with_its_first_token |
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from issuer_fixture import AUDIENCE, CLIENT, NOW, OID, TID, FakeIssuer, bearer

from gateway.evidence import Subject, SubjectKind
from gateway.identity.authenticate import GROUPS_S
from gateway.identity.issuers import IssuerConfig, IssuerFaults, IssuerKind, Overage, trust
from gateway.identity.subject import TenantRule
from gateway.policy.facts import Zones, context_at
from gateway.ports import GroupsUnavailable
from gateway.refusals import INVALID_TOKEN, OVERLOADED, POLICY_DENIED, Refusal

HERE = Path(__file__).parent
V1 = f"https://sts.windows.net/{TID}/"
OTHER = "22222222-2222-4333-8444-555555555555"
GROUP = "cccccccc-bbbb-4ccc-8ddd-eeeeeeeeeeee"
PERSONAL = "9188040d-6c67-4c5b-b112-36a304b66dad"
OVER = {"_claim_names": {"groups": "src1"}, "_claim_sources": {"src1": {"endpoint": "https://graph.windows.net/x"}}}
APP = {"idtyp": "app", "scp": None, "oid": CLIENT}


async def subject_of(issuer: FakeIssuer, *, source: Any = None, **claims: Any) -> Subject:
    authenticator = await issuer.authenticator(groups=source)
    return await authenticator.authenticate(authenticator.credential(bearer(issuer.token(**claims))), NOW)


async def refused(issuer: FakeIssuer, *, source: Any = None, **claims: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        await subject_of(issuer, source=source, **claims)
    return caught.value


class Groups:
    """A `GroupSource` of ours."""

    def __init__(self, found: frozenset[str] | None = frozenset({GROUP})) -> None:
        self.found = found
        self.asked: list[tuple[str, str, bool]] = []

    async def groups_of(self, directory_id: str, object_id: str, *, application: bool, now_s: float) -> frozenset[str]:
        self.asked.append((directory_id, object_id, application))
        if self.found is None:
            raise GroupsUnavailable("the directory could not be asked")
        return self.found

    async def aclose(self) -> None: ...


def test_the_map_is_true() -> None:
    rows = re.findall(r"^\| [^|]+ \| (test_[^|]+) \|$", __doc__ or "", re.MULTILINE)
    assert len(rows) == 15
    for row in rows:
        for part in row.split("; "):
            for module, names in re.findall(r"(test_\w+): ((?:test_\w+(?:, )?)+)", part):
                defined = {n.name for n in ast.walk(ast.parse((HERE / f"{module}.py").read_text())) if hasattr(n, "name")}
                assert set(names.split(", ")) - {""} <= defined, (module, names)


# --- user or application, and which --------------------------------------------------------------------------------------------------


async def test_roles_are_in_users_tokens_too_and_say_nothing_of_the_kind() -> None:
    issuer = FakeIssuer()
    assert (await subject_of(issuer, roles=["admin"])).kind is SubjectKind.USER
    assert (await subject_of(issuer, roles=["admin"], **APP)).kind is SubjectKind.APPLICATION
    assert (await refused(issuer, roles=["admin"], scp=None)).kind is INVALID_TOKEN


async def test_app_roles_and_wids_are_not_mixed() -> None:
    subject = await subject_of(FakeIssuer(), roles=["analyst"], wids=["62e90394-69f5-4237-9190-012177145e10"])
    assert subject.app_roles == {"analyst"}


async def test_the_subject_is_tid_and_oid_never_a_name_or_the_pairwise_sub() -> None:
    named = {"upn": "root@corp.example", "email": "root@corp.example", "preferred_username": "root", "unique_name": "root"}
    subject = await subject_of(FakeIssuer(), **named)
    assert subject.subject_id == f"{TID}/{OID}"
    assert "root" not in repr(subject)


async def test_scopes_are_parted_by_spaces() -> None:
    assert (await subject_of(FakeIssuer(), scp="a.b  c")).scopes == {"a.b", "c"}


async def test_uti_is_the_tokens_id() -> None:
    assert (await subject_of(FakeIssuer(), uti="u-1", jti="j-1")).token_id == "u-1"


# --- the calling application ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{}, APP, {"iss": V1, "ver": "1.0", "azp": None, "appid": CLIENT, "aud": "api://gateway"}])
async def test_only_applications_on_the_issuers_list_may_call(more: dict[str, Any]) -> None:
    listed, other = FakeIssuer(applications=(CLIENT, OTHER)), FakeIssuer(applications=(OTHER,))
    assert (await subject_of(listed, **more)).application == CLIENT
    refusal = await refused(other, **more)
    assert refusal.kind is POLICY_DENIED and CLIENT not in refusal.message + refusal.detail


async def test_without_a_list_any_application_may_call() -> None:
    assert (await subject_of(FakeIssuer(), azp=OTHER)).application == OTHER


@pytest.mark.parametrize(("proof", "word"), [("0", "public"), ("1", "secret"), ("2", "certificate"), ("3", ""), (1, ""), (None, "")])
async def test_how_the_application_proved_itself(proof: Any, word: str) -> None:
    assert (await subject_of(FakeIssuer(), azpacr=proof)).client_auth == word
    v1 = {"iss": V1, "ver": "1.0", "azp": None, "azpacr": "2", "appid": CLIENT, "aud": "api://gateway", "appidacr": proof}
    assert (await subject_of(FakeIssuer(), **v1)).client_auth == word


async def test_an_application_that_proved_nothing_selects_no_tenant() -> None:
    issuer = FakeIssuer()
    authenticator = await issuer.authenticator(TenantRule(tenant="a", directory_id=TID, application=CLIENT))
    assert await authenticator.authenticate(authenticator.credential(bearer(issuer.token())), NOW)
    with pytest.raises(Refusal):
        await authenticator.authenticate(authenticator.credential(bearer(issuer.token(azpacr="0"))), NOW)


# --- guests --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("claims", [{"idp": f"https://sts.windows.net/{OTHER}/"}, {"acct": 1}, {"acct": "1"}, {"idp": "https://google.com"}])
async def test_guests_are_denied_unless_settings_allow_them(claims: dict[str, Any]) -> None:
    assert (await refused(FakeIssuer(), **claims)).kind is POLICY_DENIED
    assert (await subject_of(FakeIssuer(guests=True), **claims)).guest


@pytest.mark.parametrize("idp", [V1, f"https://login.microsoftonline.com/{TID}/v2.0"])
async def test_a_person_whose_idp_is_the_issuer_is_no_guest(idp: str) -> None:
    assert not (await subject_of(FakeIssuer(), idp=idp)).guest


@pytest.mark.parametrize("idp", ["live.com", "LIVE.com", f"https://sts.windows.net/{PERSONAL}/", f"https://login.live.com/{PERSONAL}/v2.0"])
async def test_personal_accounts_are_refused_even_where_guests_are_allowed(idp: str) -> None:
    assert (await refused(FakeIssuer(guests=True), idp=idp)).kind is POLICY_DENIED


def test_the_directory_of_personal_accounts_cannot_be_trusted() -> None:
    with pytest.raises(IssuerFaults, match="personal accounts"):
        trust([IssuerConfig(name="e", kind=IssuerKind.ENTRA, audiences=(AUDIENCE,), tenants=(PERSONAL,))])


# --- groups and their overage --------------------------------------------------------------------------------------------------------


async def test_groups_in_the_token_are_taken_from_it() -> None:
    source = Groups()
    assert (await subject_of(FakeIssuer(groups_overage=Overage.RESOLVE), source=source, groups=[OTHER])).groups == {OTHER}
    assert source.asked == []


@pytest.mark.parametrize("over", [OVER, {"hasgroups": True}, {"hasgroups": "true"}])
async def test_overage_is_denied_by_default_even_with_someone_to_ask(over: dict[str, Any]) -> None:
    source = Groups()
    assert (await refused(FakeIssuer(), source=source, **over)).kind is POLICY_DENIED
    assert source.asked == []


@pytest.mark.parametrize("over", [OVER, {"hasgroups": True}])
async def test_overage_is_resolved_by_the_verified_ids_alone(over: dict[str, Any]) -> None:
    source = Groups()
    subject = await subject_of(FakeIssuer(groups_overage=Overage.RESOLVE), source=source, **over)
    assert (subject.groups, subject.groups_overage) == ({GROUP}, False)
    assert source.asked == [(TID, OID, False)]
    await subject_of(FakeIssuer(groups_overage=Overage.RESOLVE), source=source, **over, **APP)
    assert source.asked[-1] == (TID, CLIENT, True)


async def test_overage_with_nobody_to_ask_or_no_answer_is_refused() -> None:
    issuer = FakeIssuer(groups_overage=Overage.RESOLVE)
    assert (await refused(issuer, **OVER)).kind is POLICY_DENIED
    refusal = await refused(issuer, source=Groups(None), **OVER)
    assert refusal.kind is OVERLOADED and refusal.retry_after_s
    assert OID not in refusal.message + refusal.detail


async def test_groups_that_were_asked_for_are_asked_for_again_though_the_token_lives_on() -> None:
    issuer = FakeIssuer(groups_overage=Overage.RESOLVE)
    source = Groups()
    authenticator = await issuer.authenticator(groups=source)
    credential = authenticator.credential(bearer(issuer.token(**OVER)))
    first = await authenticator.authenticate(credential, NOW)
    assert authenticator.cached(credential, NOW + GROUPS_S) == first
    assert authenticator.cached(credential, NOW + GROUPS_S + 61) is None
    source.found = frozenset()
    assert (await authenticator.authenticate(credential, NOW + GROUPS_S + 61)).groups == frozenset()
    assert len(source.asked) == 2


async def test_a_failure_to_ask_is_not_remembered_as_an_answer() -> None:
    issuer = FakeIssuer(groups_overage=Overage.RESOLVE)
    source = Groups(None)
    authenticator = await issuer.authenticator(groups=source)
    credential = authenticator.credential(bearer(issuer.token(**OVER)))
    with pytest.raises(Refusal):
        await authenticator.authenticate(credential, NOW)
    source.found = frozenset({GROUP})
    assert (await authenticator.authenticate(credential, NOW)).groups == {GROUP}


# --- Conditional Access and continuous evaluation as attributes ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "attribute", "value"),
    [
        ({"acrs": ["c1", "c3"]}, "auth_context", ["c1", "c3"]),
        ({"acrs": "c1"}, "auth_context", ["c1"]),
        ({}, "auth_context", []),
        ({"amr": ["pwd", "mfa"]}, "auth_methods", ["mfa", "pwd"]),
        ({}, "auth_methods", []),
        ({"azpacr": "2"}, "client_auth", "certificate"),
        ({"azpacr": None}, "client_auth", "unknown"),
        ({"deviceid": OTHER}, "device", True),
        ({}, "device", False),
        ({"deviceid": ""}, "device", None),
        ({"signin_state": ["dvc_mngd", "inknownntwk"]}, "sign_in_state", ["dvc_mngd", "inknownntwk"]),
        ({"ipaddr": "10.1.2.3"}, "sign_in_zone", "corporate"),
        ({"ipaddr": "::ffff:10.1.2.3"}, "sign_in_zone", "corporate"),
        ({"ipaddr": "203.0.113.9"}, "sign_in_zone", "external"),
        ({"ipaddr": "127.0.0.1"}, "sign_in_zone", "unknown"),
        ({"ipaddr": "nonsense"}, "sign_in_zone", "unknown"),
        ({}, "sign_in_zone", "unknown"),
    ],
)
async def test_attributes_for_policy(claims: dict[str, Any], attribute: str, value: Any) -> None:
    issuer = FakeIssuer()
    if value is None:
        assert (await refused(issuer, **claims)).kind is INVALID_TOKEN  # an empty name is no name
        return
    subject = await subject_of(issuer, **claims)
    zones = Zones({"corporate": ["10.0.0.0/8"]})
    context = context_at(subject, None, "external", False, 0, sign_in_zone=zones.of_sign_in(subject.sign_in_address))
    assert context.as_cedar()[attribute] == value


@pytest.mark.parametrize("kind", [IssuerKind.OIDC, IssuerKind.DEVELOPMENT])
async def test_only_the_directory_speaks_of_devices_and_networks(kind: IssuerKind) -> None:
    subject = await subject_of(FakeIssuer(kind), deviceid="d", ipaddr="10.1.2.3", signin_state=["dvc_mngd"], azpacr="2", idp="live.com")
    assert (subject.device, subject.sign_in_address, subject.sign_in_state, subject.client_auth) == (False, "", frozenset(), "")


@pytest.mark.parametrize("claims", [{"amr": {"a": 1}}, {"amr": [1]}, {"signin_state": 7}, {"deviceid": ["d"]}, {"acrs": [["c1"]]}])
async def test_malformed_attributes_refuse_the_token(claims: dict[str, Any]) -> None:
    assert (await refused(FakeIssuer(), **claims)).kind is INVALID_TOKEN


@pytest.mark.parametrize(("value", "able"), [(["cp1"], True), (["CP1"], True), ("cp1", True), (["cp2"], False), ([], False), (None, False)])
async def test_the_client_capability_is_told_without_regard_to_case(value: Any, able: bool) -> None:
    assert (await subject_of(FakeIssuer(), xms_cc=value)).claims_challenges is able


# --- the cluster's own issuer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("audience", [AUDIENCE, "api://inference-gateway"])
async def test_service_accounts_come_with_the_gateways_own_audience(audience: str) -> None:
    cluster = FakeIssuer(IssuerKind.KUBERNETES, audiences=(audience,))
    subject = await subject_of(cluster, aud=[audience])
    assert (subject.kind, subject.subject_id, subject.application) == (SubjectKind.SERVICE_ACCOUNT, "prod/caller", "")


@pytest.mark.parametrize(
    "audience",
    [
        "api://AzureADTokenExchange",
        "API://azureadtokenexchange/",
        "https://kubernetes.default.svc",
        "https://kubernetes.default.svc.cluster.local",
        "https://issuer.example",
        "https://my-cluster-1234.hcp.westeurope.azmk8s.io",
        "https://my-cluster-1234.hcp.westeurope.azmk8s.io:443",
    ],
)
async def test_tokens_worth_something_elsewhere_are_refused_by_settings_and_by_the_gateway(audience: str) -> None:
    with pytest.raises(IssuerFaults, match="opens other doors"):
        FakeIssuer(IssuerKind.KUBERNETES, audiences=(audience,))
    cluster = FakeIssuer(IssuerKind.KUBERNETES, audiences=(AUDIENCE,))
    assert (await refused(cluster, aud=[audience])).kind is INVALID_TOKEN
    assert (await refused(cluster, aud=[AUDIENCE, audience])).kind is INVALID_TOKEN
    assert (await refused(FakeIssuer(), aud=audience)).kind is INVALID_TOKEN


def test_an_issuer_that_holds_the_separator_of_ids_is_refused() -> None:
    with pytest.raises(IssuerFaults, match=r"without `\|`"):
        trust([IssuerConfig(name="o", kind=IssuerKind.OIDC, audiences=(AUDIENCE,), issuer="https://a.example/|b")])
