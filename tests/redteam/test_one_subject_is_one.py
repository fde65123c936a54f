"""Two issuers of one tenant may name two people alike: neither is taken for the other, in records or in what is shared."""

from __future__ import annotations

from gateway.app import fingerprints
from gateway.assembly import directory_issuers
from gateway.audit.record import Pseudonymiser
from gateway.content.inspect import Scope
from gateway.policy.testing import example_subject
from gateway.settings import Issuer

TID, OID = "11111111-2222-4333-8444-555555555555", "aaaaaaaa-2222-4333-8444-555555555555"
V1, V2 = f"https://sts.windows.net/{TID}/", f"https://login.microsoftonline.com/{TID}/v2.0"
HOME, ELSEWHERE = "https://issuer.example", "https://anyone.example"


def test_the_same_id_of_two_issuers_is_two_subjects() -> None:
    """SECURITY: where people choose their own `sub`, one could act under another's pseudonym."""
    of = fingerprints(Pseudonymiser(b"p" * 32), {V1, V2})
    for name in ("alice", f"{TID}/{OID}"):
        made = [of(example_subject(issuer=issuer, subject_id=name, token_id="jti")) for issuer in (HOME, ELSEWHERE, V2, "key")]
        assert len({prints.subject for prints in made}) == len({prints.token for prints in made}) == 4


def test_a_person_of_a_directory_is_one_under_either_form_of_its_issuer() -> None:
    of = fingerprints(Pseudonymiser(b"p" * 32), {V1, V2})
    assert of(example_subject(issuer=V1, subject_id=f"{TID}/{OID}")) == of(example_subject(issuer=V2, subject_id=f"{TID}/{OID}"))


def test_findings_are_shared_by_no_two_subjects_of_one_name() -> None:
    one, other = (Scope.of(example_subject(issuer=issuer, subject_id="alice")) for issuer in (HOME, ELSEWHERE))
    assert one != other and one == Scope.of(example_subject(issuer=HOME, subject_id="alice"))


def test_which_issuers_name_people_by_directory() -> None:
    entra = Issuer(name="e", type="entra", audiences=("api://gateway",), directories=(TID,))
    oidc = Issuer(name="o", type="oidc", audiences=("gateway",), issuer=HOME)
    assert directory_issuers([entra, oidc]) == {V1, V2}
