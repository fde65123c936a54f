"""What policy may demand of a sign-in: a claims challenge where signing in again would help, a plain no everywhere else."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import msgspec
import pytest
from policy_sets import SEE, asked, files, small, starter, write

from gateway.evidence import Subject, SubjectKind
from gateway.policy.decide import PolicySet
from gateway.policy.faults import PolicyFaults
from gateway.policy.load import load_policies
from gateway.policy.testing import example_subject
from gateway.refusals import DEPLOYMENT_NOT_FOUND, INVALID_TOKEN, POLICY_DENIED, Refusal

NOW = 1_800_000_000.0
READER = example_subject(app_roles=frozenset({"reader"}), issued_at_s=int(NOW), claims_challenges=True)
UNABLE = msgspec.structs.replace(READER, claims_challenges=False)
STRONG = msgspec.structs.replace(READER, auth_context=frozenset({"c1"}))
USE = 'action == Gateway::Action::"chat", resource'


def permit(name: str = "p", notes: str = "") -> str:
    return f'@id("{name}") @says("x") @owner("x") {notes} permit (principal in Gateway::Role::"reader", {USE});\n'


def forbid(name: str, notes: str = "", condition: str = 'context.auth_context.contains("c1")') -> str:
    return f'@id("{name}") @says("x") @owner("x") @tell("true") {notes} forbid (principal, {USE}) unless {{ {condition} }};\n'


C1 = '@requires_auth_context("c1")'


def refused(policies: PolicySet, subject: Subject) -> Refusal:
    with pytest.raises(Refusal) as caught:
        policies.permit(subject, asked("m"), NOW)
    return caught.value


def demanded(refusal: Refusal) -> str:
    challenge = refusal.challenge or ""
    claims = json.loads(base64.b64decode(challenge.partition('claims="')[2].rstrip('"')))
    return str(claims["access_token"]["acrs"]["value"])


@pytest.mark.parametrize("access", [permit(notes=C1), permit() + forbid("f", C1)], ids=["permit", "forbid"])
def test_a_client_that_can_is_challenged_and_one_that_cannot_is_denied(access: str) -> None:
    policies = small(access)
    for _ in range(2):  # from the engine, then from the cache
        refusal = refused(policies, READER)
        assert (refusal.kind, demanded(refusal)) == (INVALID_TOKEN, "c1")
        denied = refused(policies, UNABLE)
        assert denied.kind is POLICY_DENIED and denied.challenge is None
        assert policies.permit(STRONG, asked("m"), NOW).route == "m"


def test_a_forbid_that_signing_in_again_does_not_lift_wins_over_one_that_it_does() -> None:
    policies = small(permit() + forbid("f", C1) + forbid("g", "", "principal.guest"))
    refusal = refused(policies, READER)
    assert refusal.kind is POLICY_DENIED and refusal.inner == {"code": "PolicyDenied", "reasons": ["f", "g"]}


def test_nobody_is_challenged_for_what_no_policy_permits() -> None:
    assert refused(small(forbid("f", C1, "false")), STRONG).kind is POLICY_DENIED
    nobody = example_subject(claims_challenges=True)
    assert refused(small(permit(notes=C1)), nobody).kind is DEPLOYMENT_NOT_FOUND


def test_a_forbid_that_holds_in_spite_of_the_context_is_no_challenge() -> None:
    policies = small(permit() + forbid("f", C1, "principal.guest"))
    assert refused(policies, STRONG).kind is POLICY_DENIED


def test_every_permit_that_applies_adds_its_demand() -> None:
    policies = small(permit() + permit("q", C1) + permit("r", '@requires_auth_context("c2")'))
    assert demanded(refused(policies, READER)) == "c1"
    assert demanded(refused(policies, STRONG)) == "c2"
    both = msgspec.structs.replace(READER, auth_context=frozenset({"c1", "c2"}))
    assert policies.permit(both, asked("m"), NOW).policy_ids == ("p", "q", "r")


@pytest.mark.parametrize("issuer", ["https://login.partner.example/11111111-2222-4333-8444-555555555555/v2.0", "https://sts.windows.net/x/"])
def test_the_challenge_names_the_authority_of_the_issuer(issuer: str) -> None:
    challenge = refused(small(permit(notes=C1)), msgspec.structs.replace(READER, issuer=issuer)).challenge or ""
    host = "login.partner.example" if "partner" in issuer else "login.microsoftonline.com"
    assert f'authorization_uri="https://{host}/common/oauth2/authorize"' in challenge


@pytest.mark.parametrize("value", ["c0", "c100", "C1", "c1,c2", "", 'c1\\"'])
def test_another_name_is_refused_when_the_set_is_loaded(tmp_path: Path, value: str) -> None:
    directory = write(tmp_path, files(permit(notes=f'@requires_auth_context("{value}")')))
    with pytest.raises(PolicyFaults) as caught:
        load_policies(directory, invariants=None, routes=None, zones=None)
    assert any("c1 to c99" in str(fault) for fault in caught.value.faults)


def test_a_case_can_expect_a_challenge(tmp_path: Path) -> None:
    case = '\n[[test]]\nname = "t"\nwho = {{ roles = ["reader"] }}\ndoes = "chat"\non = "m"\nexpect = "deny"\nstep_up = "{}"\n'
    base = files(SEE + permit(notes=C1))
    for wanted, good in (("c1", True), ("c2", False)):
        directory = write(tmp_path / wanted, {**base, "tests/u.toml": b"[models.n]" + case.format(wanted).encode()})
        if good:
            load_policies(directory, invariants=None, routes=None, zones=None)
            continue
        with pytest.raises(PolicyFaults, match="signing in again"):
            load_policies(directory, invariants=None, routes=None, zones=None)


def test_the_starter_set_challenges_who_opens_captured_content() -> None:
    policies = starter()
    auditor = msgspec.structs.replace(READER, app_roles=frozenset({"auditor"}))
    context = policies.context(auditor, "", peer="192.0.2.1", stream=False, now_s=NOW)
    assert policies.decide(auditor, "content:reveal", "", context).step_up == "c1"
    assert auditor.kind is SubjectKind.USER
