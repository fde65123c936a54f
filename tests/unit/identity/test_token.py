"""One good token of each kind passes; forty-odd tokens that are wrong in one way each are refused at the step that says so."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from issuer_fixture import AUDIENCE, CLIENT, NOW, OID, TID, FakeIssuer, b64, ec_key, ed_key, public_jwk, rsa_key

from gateway.evidence import SubjectKind
from gateway.identity.claims import Rejected, Step, VerifiedClaims
from gateway.identity.issuers import IssuerKind
from gateway.identity.token import KeyUnknown, verify_token

ENTRA = FakeIssuer()
V1 = f"https://sts.windows.net/{TID}/"


def verify(token: str, issuer: FakeIssuer = ENTRA, now_s: int = NOW) -> VerifiedClaims:
    return verify_token(token, issuer.trusted, issuer.keyset_of(), now_s)


def refused(token: str, issuer: FakeIssuer = ENTRA, now_s: int = NOW) -> Step:
    with pytest.raises(Rejected) as caught:
        verify(token, issuer, now_s)
    return caught.value.step


def test_entra_v2_user() -> None:
    claims = verify(ENTRA.token(groups=["g1"], acrs=["c1"], xms_cc=["CP1"]))
    assert claims.subject_id == f"{TID}/{OID}"
    assert claims.kind is SubjectKind.USER
    assert (claims.application, claims.application_proven) == (CLIENT, True)
    assert (claims.app_roles, claims.groups, claims.scopes) == ({"analyst"}, {"g1"}, {"inference.use"})
    assert (claims.auth_context, claims.claims_challenges) == ({"c1"}, True)
    assert (claims.token_id, claims.issued_at_s, claims.expires_at_s) == ("token-id-1", NOW - 10, NOW + 3600)
    assert not claims.guest and not claims.groups_overage


def test_entra_v1_application() -> None:
    token = ENTRA.token(iss=V1, ver="1.0", azp=None, azpacr=None, appid=CLIENT, appidacr="2", idtyp="app", scp=None, aud="api://gateway")
    claims = verify(token)
    assert (claims.iss, claims.kind, claims.application) == (V1, SubjectKind.APPLICATION, CLIENT)


def test_kubernetes_service_account() -> None:
    cluster = FakeIssuer(IssuerKind.KUBERNETES)
    claims = verify(cluster.token(), cluster)
    assert (claims.subject_id, claims.kind, claims.namespace) == ("prod/caller", SubjectKind.SERVICE_ACCOUNT, "prod")
    assert claims.app_roles == frozenset()


def test_generic_oidc() -> None:
    generic = FakeIssuer(IssuerKind.OIDC)
    claims = verify(generic.token(tid=None, oid=None, ver=None, scp=None, scope="a b", nbf=None, sub="auth0|7"), generic)
    assert (claims.subject_id, claims.kind, claims.directory_id) == ("auth0|7", SubjectKind.USER, "")
    assert claims.scopes == {"a", "b"}
    assert verify(generic.token(sub=CLIENT), generic).kind is SubjectKind.APPLICATION


def test_generic_issuer_owns_no_directory() -> None:
    """A `tid` from an issuer that owns no directory must not select a tenant by directory."""
    generic = FakeIssuer(IssuerKind.OIDC)
    assert verify(generic.token(tid=TID), generic).directory_id == ""


@pytest.mark.parametrize(("algorithm", "key"), [("PS256", rsa_key()), ("ES256", ec_key()), ("EdDSA", ed_key())])
def test_other_asymmetric_algorithms(algorithm: str, key: Any) -> None:
    issuer = FakeIssuer(key=key, algorithm=algorithm)
    assert verify(issuer.token(), issuer).subject_id == f"{TID}/{OID}"


def test_public_client_does_not_prove_the_application() -> None:
    assert not verify(ENTRA.token(azpacr="0")).application_proven
    assert not verify(ENTRA.token(azpacr=None)).application_proven
    assert not verify(ENTRA.token(azpacr=["1"])).application_proven


def test_overage_and_guests_are_flagged() -> None:
    over = verify(ENTRA.token(_claim_names={"groups": "src1"}, _claim_sources={"src1": {"endpoint": "https://x"}}, groups=["left"]))
    assert over.groups_overage and over.groups == frozenset()
    assert verify(ENTRA.token(hasgroups=True)).groups_overage
    assert verify(ENTRA.token(idp="https://sts.windows.net/other/")).guest
    assert verify(ENTRA.token(idp=["x"])).guest
    assert verify(ENTRA.token(acct=1)).guest
    assert not verify(ENTRA.token(idp=V1, acct=0)).guest


@pytest.mark.parametrize("typ", ["JWT", "jwt", "at+jwt", "application/at+jwt"])
def test_access_token_types(typ: str) -> None:
    assert verify(ENTRA.token(header={"typ": typ})).kind is SubjectKind.USER


def test_absent_typ() -> None:
    header = json.dumps({"alg": "RS256", "kid": "kid-1"}).encode()
    assert verify(ENTRA.raw(header, json.dumps(ENTRA.claims()).encode())).kind is SubjectKind.USER


def test_key_issuer_template() -> None:
    issuer = FakeIssuer()
    for template in ("https://login.microsoftonline.com/{tenantid}/v2.0", f"https://login.microsoftonline.com/{TID}/v2.0"):
        issuer.jwks = [public_jwk(issuer.key, "kid-1", issuer=template)]
        assert verify(issuer.token(), issuer).directory_id == TID
        assert verify(issuer.token(iss=V1, ver="1.0", appid=CLIENT), issuer).directory_id == TID


CLAIM_ATTACKS: list[tuple[str, dict[str, Any], Step]] = [
    ("expired", {"iat": NOW - 600, "nbf": NOW - 600, "exp": NOW - 61}, Step.TIME),
    ("expired to the second of the leeway", {"iat": NOW - 600, "nbf": NOW - 600, "exp": NOW - 60}, Step.TIME),
    ("exp missing", {"exp": None}, Step.TIME),
    ("exp a numeric string", {"exp": str(NOW + 60)}, Step.TIME),
    ("exp a float", {"exp": NOW + 60.5}, Step.TIME),
    ("exp 1e308", {"exp": 1e308}, Step.TIME),
    ("exp in the year 9999", {"exp": 253402300799}, Step.TIME),
    ("exp beyond 2^40", {"exp": 1 << 41}, Step.TIME),
    ("exp true", {"exp": True}, Step.TIME),
    ("exp negative", {"exp": -1}, Step.TIME),
    ("nbf in the future", {"nbf": NOW + 61}, Step.TIME),
    ("nbf missing", {"nbf": None}, Step.TIME),
    ("nbf a string", {"nbf": "0"}, Step.TIME),
    ("iat in the future", {"iat": NOW + 61, "nbf": NOW}, Step.TIME),
    ("iat missing", {"iat": None}, Step.TIME),
    ("lives over 24 h", {"exp": NOW - 10 + 86_400 + 61}, Step.TIME),
    ("exp before iat", {"exp": NOW + 10, "iat": NOW + 20, "nbf": NOW}, Step.TIME),
    ("aud missing", {"aud": None}, Step.AUDIENCE),
    ("aud another API", {"aud": "https://graph.microsoft.com"}, Step.AUDIENCE),
    ("aud with a slash", {"aud": AUDIENCE + "/"}, Step.AUDIENCE),
    ("aud in capitals", {"aud": "API://GATEWAY"}, Step.AUDIENCE),
    ("aud a prefix of ours", {"aud": AUDIENCE[:-1]}, Step.AUDIENCE),
    ("aud a list with ours", {"aud": [AUDIENCE]}, Step.AUDIENCE),
    ("aud an object", {"aud": {AUDIENCE: 1}}, Step.AUDIENCE),
    ("iss missing", {"iss": None}, Step.ISSUER),
    ("iss of another directory", {"iss": f"https://login.microsoftonline.com/{CLIENT}/v2.0"}, Step.ISSUER),
    ("iss with a slash", {"iss": ENTRA.iss + "/"}, Step.ISSUER),
    ("CVE-2024-53861 iss a prefix", {"iss": ENTRA.iss[:-1]}, Step.ISSUER),
    ("CVE-2024-53861 iss a substring", {"iss": "microsoftonline"}, Step.ISSUER),
    ("iss empty", {"iss": ""}, Step.ISSUER),
    ("iss a list", {"iss": [ENTRA.iss]}, Step.ISSUER),
    ("iss common", {"iss": "https://login.microsoftonline.com/common/v2.0"}, Step.ISSUER),
    ("tid of another directory", {"tid": CLIENT}, Step.DIRECTORY),
    ("tid missing", {"tid": None}, Step.DIRECTORY),
    ("tid a list", {"tid": [TID]}, Step.DIRECTORY),
    ("tid in capitals", {"tid": TID.upper() + "A"}, Step.DIRECTORY),
    ("ver of the other form", {"ver": "1.0"}, Step.DIRECTORY),
    ("ver missing", {"ver": None}, Step.DIRECTORY),
    ("oid missing", {"oid": None}, Step.SUBJECT),
    ("oid not a GUID", {"oid": "../../admin"}, Step.SUBJECT),
    ("oid with a newline after it", {"oid": OID + "\n"}, Step.SUBJECT),
    ("sub empty", {"sub": ""}, Step.SUBJECT),
    ("sub with NUL", {"sub": "a\x00b"}, Step.SUBJECT),
    ("sub with a newline (log injection)", {"sub": "a\nINFO admin logged in"}, Step.SUBJECT),
    ("sub a number", {"sub": 7}, Step.SUBJECT),
    ("azp missing", {"azp": None}, Step.SUBJECT),
    ("azp not a GUID", {"azp": "gateway"}, Step.SUBJECT),
    ("neither scp nor idtyp (an ID token's shape)", {"scp": None}, Step.SUBJECT),
    ("kind inferred from roles", {"scp": None, "roles": ["admin"]}, Step.SUBJECT),
    ("idtyp app with scp", {"idtyp": "app"}, Step.SUBJECT),
    ("idtyp device", {"idtyp": "device"}, Step.SUBJECT),
    ("idtyp a list", {"idtyp": ["user"]}, Step.SUBJECT),
    ("scp a list", {"scp": ["a"]}, Step.SUBJECT),
    ("scp with a newline", {"scp": "a\nb"}, Step.AUTHORITY),
    ("roles a string", {"roles": "admin"}, Step.AUTHORITY),
    ("roles of numbers", {"roles": [1]}, Step.AUTHORITY),
    ("roles of lists", {"roles": [["admin"]]}, Step.AUTHORITY),
    ("roles with a control character", {"roles": ["a\x1b[2J"]}, Step.AUTHORITY),
    ("roles without end", {"roles": [f"r{n}" for n in range(257)]}, Step.AUTHORITY),
    ("groups an object", {"groups": {"g": 1}}, Step.AUTHORITY),
    ("uti with a line separator", {"uti": "a\u2028b"}, Step.SUBJECT),
]


@pytest.mark.parametrize(("changes", "step"), [row[1:] for row in CLAIM_ATTACKS], ids=[row[0] for row in CLAIM_ATTACKS])
def test_claim_attack(changes: dict[str, Any], step: Step) -> None:
    assert refused(ENTRA.token(**changes)) is step


def test_times_within_the_leeway_pass() -> None:
    assert verify(ENTRA.token(iat=NOW - 600, nbf=NOW - 600, exp=NOW - 59)).expires_at_s == NOW - 59
    assert verify(ENTRA.token(nbf=NOW + 60, iat=NOW + 60)).not_before_s == NOW + 60


def test_clock_ten_minutes_off_refuses() -> None:
    token = ENTRA.token(exp=NOW + 300)
    assert refused(token, now_s=NOW + 600) is Step.TIME
    assert refused(token, now_s=NOW - 600) is Step.TIME


HEADER_ATTACKS: list[tuple[str, dict[str, Any], Step]] = [
    ("CVE-2026-32597 crit", {"crit": ["exp"]}, Step.HEADER),
    ("CVE-2026-48525 b64 false", {"b64": False}, Step.HEADER),
    ("zip", {"zip": "DEF"}, Step.HEADER),
    ("jku", {"jku": "https://attacker.example/keys"}, Step.HEADER),
    ("x5u", {"x5u": "https://attacker.example/cert"}, Step.HEADER),
    ("x5c", {"x5c": ["MII"]}, Step.HEADER),
    ("inline jwk", {"jwk": {"kty": "RSA"}}, Step.HEADER),
    ("cty JWT (nested)", {"cty": "JWT"}, Step.HEADER),
    ("typ logout+jwt", {"typ": "logout+jwt"}, Step.HEADER),
    ("typ secevent+jwt", {"typ": "secevent+jwt"}, Step.HEADER),
    ("typ a number", {"typ": 1}, Step.HEADER),
    ("kid a number", {"kid": 1}, Step.HEADER),
    ("kid empty", {"kid": ""}, Step.HEADER),
    ("kid 257 long", {"kid": "k" * 257}, Step.HEADER),
    ("kid a path", {"kid": "../../../../dev/null"}, Step.KEY),
    ("kid a query", {"kid": "' UNION SELECT 'k'--"}, Step.KEY),
    ("kid unknown", {"kid": "kid-2"}, Step.KEY),
    ("header over 2 KiB", {"pad": "x" * 2048}, Step.HEADER),
    ("alg none", {"alg": "none"}, Step.ALGORITHM),
    ("alg None", {"alg": "None"}, Step.ALGORITHM),
    ("alg NONE", {"alg": "NONE"}, Step.ALGORITHM),
    ("alg nOnE", {"alg": "nOnE"}, Step.ALGORITHM),
    ("alg in lower case", {"alg": "rs256"}, Step.ALGORITHM),
    ("alg HS256", {"alg": "HS256"}, Step.ALGORITHM),
    ("alg RS512 not on the list", {"alg": "RS512"}, Step.ALGORITHM),
    ("alg a list", {"alg": ["RS256"]}, Step.HEADER),
    ("alg missing", {"alg": None}, Step.HEADER),
]


@pytest.mark.parametrize(("header", "step"), [row[1:] for row in HEADER_ATTACKS], ids=[row[0] for row in HEADER_ATTACKS])
def test_header_attack(header: dict[str, Any], step: Step) -> None:
    """Each is signed by the real key: only the rule itself stands in its way."""
    full = {"alg": "RS256", "kid": "kid-1", "typ": "JWT"} | header
    encoded = json.dumps({name: value for name, value in full.items() if value is not None}).encode()
    assert refused(ENTRA.raw(encoded, json.dumps(ENTRA.claims()).encode())) is step


def test_unknown_kid_names_issuer_and_kid_for_the_cache() -> None:
    with pytest.raises(KeyUnknown) as caught:
        verify(ENTRA.token(header={"kid": "kid-2"}))
    assert (caught.value.iss, caught.value.kid) == (ENTRA.iss, "kid-2")
    assert "kid-2" not in str(caught.value)


def test_cve_2022_29217_public_key_as_hmac_secret() -> None:
    """The public key, in each form someone might have, used as a symmetric secret."""
    public = ENTRA.key.public_key()
    for secret in (
        public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
        json.dumps(ENTRA.jwks[0]).encode(),
        b"",
    ):
        signed = f"{b64(json.dumps({'alg': 'HS256', 'kid': 'kid-1'}).encode())}.{b64(json.dumps(ENTRA.claims()).encode())}"
        token = f"{signed}.{b64(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"
        assert refused(token) is Step.ALGORITHM


def test_cve_2026_48523_algorithm_of_another_key_type() -> None:
    """Issuer allows ES256 and RS256; a token that says ES256 under an RSA key's kid goes nowhere."""
    issuer = FakeIssuer(algorithms=("RS256", "ES256"))
    token = issuer.token(key=ec_key(), algorithm="ES256")
    assert refused(token, issuer) is Step.ALGORITHM


def test_key_bound_to_its_own_algorithm() -> None:
    issuer = FakeIssuer(algorithms=("RS256", "PS256"))
    issuer.jwks = [public_jwk(issuer.key, "kid-1", alg="PS256")]
    assert refused(issuer.token(), issuer) is Step.ALGORITHM
    assert verify(issuer.token(algorithm="PS256"), issuer).kid == "kid-1"


@pytest.mark.parametrize("text", ["", "-", "AA", "A" * 342])
def test_signature_null_blank_and_zero(text: str) -> None:
    head = ENTRA.token().rsplit(".", 1)[0]
    assert refused(f"{head}.{text}") in (Step.SHAPE, Step.ENCODING, Step.SIGNATURE)


def test_signature_of_another_key() -> None:
    assert refused(ENTRA.token(key=rsa_key("attacker"))) is Step.SIGNATURE


def test_payload_exchanged() -> None:
    head, _, signature = ENTRA.token().split(".")
    assert refused(f"{head}.{b64(json.dumps(ENTRA.claims(roles=['admin'])).encode())}.{signature}") is Step.SIGNATURE


def test_key_of_one_issuer_does_not_sign_for_another() -> None:
    """Same kid at two issuers: each token is checked against its own issuer's set."""
    other = FakeIssuer(IssuerKind.OIDC, key=rsa_key("attacker"))
    both = ENTRA.trusted | other.trusted
    sets = {ENTRA.iss: ENTRA.keyset(), other.iss: other.keyset()}
    with pytest.raises(Rejected) as caught:
        verify_token(ENTRA.token(key=rsa_key("attacker")), both, sets.get, NOW)
    assert caught.value.step is Step.SIGNATURE


def test_key_issuer_of_another_directory() -> None:
    issuer = FakeIssuer()
    for template in (f"https://login.microsoftonline.com/{CLIENT}/v2.0", "https://login.microsoftonline.com/{tenantid}/v1.0", "{tenantid}"):
        issuer.jwks = [public_jwk(issuer.key, "kid-1", issuer=template)]
        assert refused(issuer.token(), issuer) is Step.KEY_ISSUER


@pytest.mark.parametrize(
    "spoil",
    [
        lambda t: t + "=",
        lambda t: t.replace(".", "=.", 1),
        lambda t: t.replace(".", " .", 1),
        lambda t: t + "\n",
        lambda t: "\n" + t,
        lambda t: t + ".",
        lambda t: "." + t,
        lambda t: t.replace(".", ".."),
        lambda t: t + ".AAAA.BBBB",
        lambda t: t[:10] + "+" + t[10:],
        lambda t: t[:10] + "/" + t[10:],
        lambda t: t[:10] + "é" + t[10:],
        lambda t: t[:10] + "\uff21" + t[10:],
        lambda t: t[:10] + "\u0660" + t[10:],
        lambda t: t.split(".")[0],
        lambda t: ",".join((t, t)),
        lambda t: json.dumps({"payload": t.split(".")[1], "signatures": []}),
    ],
)
def test_shape(spoil: Any) -> None:
    assert refused(spoil(ENTRA.token())) is Step.SHAPE


def test_size_is_checked_before_the_shape() -> None:
    assert refused("!" * 16_385) is Step.SIZE
    assert refused(ENTRA.token(pad="x" * 13_000)) is Step.SIZE
    assert refused("A" * 5_000_000) is Step.SIZE


def test_trailing_bits_make_no_second_spelling() -> None:
    """Wycheproof 367 and 370, and their like: another last character that decodes to the same bytes."""
    token = ENTRA.token()
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    signature = token.rsplit(".", 1)[1]
    raw = base64.urlsafe_b64decode(signature + "==")
    twins = [c for c in alphabet if c != token[-1] and base64.urlsafe_b64decode(signature[:-1] + c + "==") == raw]
    assert len(twins) in (3, 15)
    for twin in twins:
        assert refused(token[:-1] + twin) is Step.ENCODING


@pytest.mark.parametrize(
    "payload",
    [
        lambda c: c[:-1] + b',"roles":["admin"]}',
        lambda c: c[:-1] + b',"r\\u006fles":["admin"]}',
        lambda c: c[:-1] + b',"x":{"a":1,"a":2}}',
        lambda c: c[:-1] + b',"x":NaN}',
        lambda c: c[:-1] + b',"x":Infinity}',
        lambda c: c[:-1] + b',"x":"\\ud800"}',
        lambda c: c[:-1] + b',"x":"\xff"}',
        lambda c: b"\xef\xbb\xbf" + c,
        lambda c: c + b"{}",
        lambda c: c.decode().encode("utf-16"),
        lambda c: b"[" + c + b"]",
        lambda c: b"[" * 5000,
        lambda c: b"null",
        lambda c: b"foo",
        lambda c: b"0",
    ],
)
def test_claims_are_one_strict_object(payload: Any) -> None:
    claims = json.dumps(ENTRA.claims()).encode()
    assert refused(ENTRA.raw(b'{"alg":"RS256","kid":"kid-1"}', payload(claims))) is Step.CLAIMS


def test_duplicate_header_names() -> None:
    claims = json.dumps(ENTRA.claims()).encode()
    assert refused(ENTRA.raw(b'{"alg":"none","alg":"RS256","kid":"kid-1"}', claims)) is Step.HEADER
    assert refused(ENTRA.raw(b'{"alg":"RS256","kid":"kid-2","kid":"kid-1"}', claims)) is Step.HEADER


def test_unsigned_token_of_the_library() -> None:
    token = jwt.encode(ENTRA.claims(), "", algorithm="none", headers={"kid": "kid-1"})
    assert refused(token) is Step.SHAPE
    assert refused(token + "AA") is Step.ALGORITHM


KUBERNETES_ATTACKS: list[tuple[str, dict[str, Any], Step]] = [
    ("exchange audience", {"aud": ["api://AzureADTokenExchange"]}, Step.AUDIENCE),
    ("API server audience", {"aud": ["https://kubernetes.default.svc"]}, Step.AUDIENCE),
    ("API server audience of AKS", {"aud": ["https://c-1.hcp.westeurope.azmk8s.io"]}, Step.AUDIENCE),
    ("the issuer as audience", {"aud": ["https://issuer.example"]}, Step.AUDIENCE),
    ("ours and another", {"aud": [AUDIENCE, "https://kubernetes.default.svc"]}, Step.AUDIENCE),
    ("no audience", {"aud": []}, Step.AUDIENCE),
    ("sub of another account", {"sub": "system:serviceaccount:kube-system:admin"}, Step.SUBJECT),
    ("unbound", {"kubernetes.io": None}, Step.SUBJECT),
    ("bound claim a string", {"kubernetes.io": "prod"}, Step.SUBJECT),
    ("account a string", {"kubernetes.io": {"namespace": "prod", "serviceaccount": "caller"}}, Step.SUBJECT),
    ("bound to nothing", {"kubernetes.io": {"namespace": "prod"}}, Step.SUBJECT),
    ("namespace with a slash", {"kubernetes.io": {"namespace": "a/b", "serviceaccount": {"name": "c"}}}, Step.SUBJECT),
]


@pytest.mark.parametrize(("changes", "step"), [row[1:] for row in KUBERNETES_ATTACKS], ids=[row[0] for row in KUBERNETES_ATTACKS])
def test_kubernetes_attack(changes: dict[str, Any], step: Step) -> None:
    cluster = FakeIssuer(IssuerKind.KUBERNETES, audiences=(AUDIENCE,))
    assert refused(cluster.token(**changes), cluster) is step


def test_audience_lists_only_where_configured() -> None:
    lists = FakeIssuer(IssuerKind.OIDC, audience_lists=True)
    assert verify(lists.token(aud=["account", AUDIENCE]), lists).kid == "kid-1"
    assert refused(lists.token(aud=["account"]), lists) is Step.AUDIENCE
    assert refused(lists.token(aud=[AUDIENCE, 7]), lists) is Step.AUDIENCE
    assert refused(lists.token(aud=[]), lists) is Step.AUDIENCE


def test_longer_life_only_where_configured() -> None:
    cae = FakeIssuer(max_lifetime_s=28 * 3600)
    assert verify(cae.token(exp=NOW - 10 + 28 * 3600), cae).kid == "kid-1"
    assert refused(cae.token(exp=NOW + 28 * 3600 + 61), cae) is Step.TIME


def test_azp_and_client_id_must_agree() -> None:
    generic = FakeIssuer(IssuerKind.OIDC)
    assert refused(generic.token(client_id="other"), generic) is Step.SUBJECT


def test_rejections_hold_nothing_of_the_token() -> None:
    canary = "CANARYVALUE"
    for changes in ({"sub": canary + "\n"}, {"aud": canary}, {"iss": canary}, {"roles": [canary + "\x00"]}, {"tid": canary}):
        with pytest.raises(Rejected) as caught:
            verify(ENTRA.token(**changes))
        assert canary not in str(caught.value) and canary not in repr(caught.value)
