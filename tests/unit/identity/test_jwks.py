"""Each rule of admission, on one key that breaks it alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from issuer_fixture import b64, ec_key, ed_key, public_jwk, rsa_key
from jwt.algorithms import RSAAlgorithm

from gateway.identity.issuers import ALGORITHMS
from gateway.identity.jwks import KeySetInvalid, admit, admit_members

GOOD = public_jwk(rsa_key(), "k")


def dropped(jwk: dict[str, Any], algorithms: frozenset[str] = ALGORITHMS) -> str:
    keyset = admit_members([jwk], algorithms)
    assert not keyset.keys
    (reason,) = keyset.dropped
    return reason


@pytest.mark.parametrize(
    "members", [{}, {"use": None}, {"key_ops": ["verify"]}, {"key_ops": ["sign", "verify"]}, {"alg": "RS256"}, {"x5c": ["MII"]}]
)
def test_admitted(members: dict[str, Any]) -> None:
    keyset = admit_members([public_jwk(rsa_key(), "k", **members)], ["RS256"])
    assert set(keyset.keys) == {"k"} and set(keyset.keys["k"].by_algorithm) == {"RS256"}


def test_key_serves_the_algorithms_that_fit_it_alone() -> None:
    keyset = admit_members([GOOD, public_jwk(ec_key(), "e"), public_jwk(ed_key(), "o")], ALGORITHMS)
    assert set(keyset.keys["k"].by_algorithm) == {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
    assert set(keyset.keys["e"].by_algorithm) == {"ES256"}
    assert set(keyset.keys["o"].by_algorithm) == {"EdDSA"}
    assert keyset.dropped == {}


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"kid": None}, "kid missing or too long"),
        ({"kid": 7}, "kid missing or too long"),
        ({"kid": ""}, "kid missing or too long"),
        ({"kid": "k" * 257}, "kid missing or too long"),
        ({"use": "enc"}, "use is not sig"),
        ({"use": ["sig"]}, "use is not sig"),
        ({"key_ops": ["encrypt"]}, "key_ops do not say verify"),
        ({"key_ops": ["sign"]}, "key_ops do not say verify"),
        ({"key_ops": []}, "key_ops do not say verify"),
        ({"key_ops": ["verify", "encrypt"]}, "key_ops do not say verify"),
        ({"key_ops": ["verify", "verify"]}, "key_ops do not say verify"),
        ({"key_ops": "verify"}, "key_ops is not a list of names"),
        ({"key_ops": [["verify"]]}, "key_ops is not a list of names"),
        ({"d": "AQAB"}, "private or symmetric key material"),
        ({"k": "AQAB"}, "private or symmetric key material"),
        ({"kty": "oct"}, "kty not supported"),
        ({"kty": "EC"}, "curve not supported"),
        ({"kty": None}, "kty not supported"),
        ({"kty": ["RSA"]}, "kty not supported"),
        ({"alg": "ES256"}, "no allowed algorithm fits the key"),
        ({"alg": "RSA-OAEP"}, "no allowed algorithm fits the key"),
        ({"alg": "HS256"}, "no allowed algorithm fits the key"),
        ({"alg": 1}, "no allowed algorithm fits the key"),
        ({"n": GOOD["n"] + "="}, "key material is not canonical base64url"),
        ({"n": 5}, "key material missing or too long"),
        ({"n": None}, "key material missing or too long"),
        ({"n": "A" * 3000}, "key material missing or too long"),
        ({"e": "AQ"}, "RSA exponent or modulus unsound"),
        ({"e": "Aw"}, "RSA exponent or modulus unsound"),
        ({"e": b64((65538).to_bytes(3, "big"))}, "RSA exponent or modulus unsound"),
        ({"e": b64((1 << 40 | 1).to_bytes(6, "big"))}, "RSA exponent or modulus unsound"),
        ({"issuer": {}}, "issuer is not a string"),
    ],
    ids=lambda value: value if isinstance(value, str) else "key",
)
def test_dropped(members: dict[str, Any], reason: str) -> None:
    jwk = {name: value for name, value in (GOOD | members).items() if value is not None}
    assert dropped(jwk) == reason


def test_sizes() -> None:
    small = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    assert dropped(public_jwk(small, "k")) == "RSA modulus outside 2048 to 8192 bits"
    assert dropped(GOOD | {"n": b64(b"\xff" * 1100)}) == "RSA modulus outside 2048 to 8192 bits"


def test_cve_2017_15361_roca() -> None:
    """A modulus built as the broken generator built them: powers of 65537 modulo the product of small primes."""
    primorial = 1
    for p in [p for p in range(2, 168) if all(p % q for q in range(2, p))]:
        primorial *= p
    modulus = pow(65537, 12345, primorial) + primorial * ((1 << 2047) // primorial + 3)
    modulus += primorial if modulus % 2 == 0 else 0
    assert modulus.bit_length() == 2048
    jwk = GOOD | {"n": b64(modulus.to_bytes(256, "big"))}
    assert dropped(jwk) == "RSA modulus has the ROCA fingerprint (CVE-2017-15361)"


def test_curves() -> None:
    p384 = public_jwk(ec.generate_private_key(ec.SECP384R1()), "k")
    assert set(admit_members([p384], ALGORITHMS).keys["k"].by_algorithm) == {"ES384"}
    assert dropped(p384, frozenset({"ES256"})) == "no allowed algorithm fits the key"
    assert dropped(p384 | {"crv": "P-256"}) == "coordinates do not fit the curve"
    assert dropped(public_jwk(ec_key(), "k") | {"crv": "secp256k1"}) == "curve not supported"
    point = public_jwk(ec_key(), "k")
    assert dropped(point | {"y": b64(b"\x01" * 32)}) == "not a valid public key"
    assert dropped({"kty": "OKP", "crv": "Ed448", "x": "AAAA", "kid": "k"}) == "kty not supported"


def test_duplicate_kid_drops_both() -> None:
    keyset = admit_members([GOOD, public_jwk(rsa_key("two"), "k"), public_jwk(rsa_key("three"), "other")], ["RS256"])
    assert set(keyset.keys) == {"other"}
    assert keyset.dropped == {"duplicate kid": 2}


def test_name_taken_by_an_unusable_key_counts() -> None:
    keyset = admit_members([GOOD, {"kty": "oct", "k": "AAAA", "kid": "k"}], ["RS256"])
    assert not keyset.keys


def test_bad_keys_do_not_cost_the_good_ones() -> None:
    members = [{}, {"kty": "oct", "k": "AA", "kid": "a"}, GOOD, {"kty": "RSA", "n": "!", "e": "AQAB", "kid": "b"}]
    keyset = admit(json.dumps({"keys": members}).encode(), ["RS256"])
    assert set(keyset.keys) == {"k"} and sum(keyset.dropped.values()) == 3


def test_thumbprint_names_the_material_not_the_kid() -> None:
    one, two, other = (admit_members([jwk], ["RS256"]) for jwk in (GOOD, GOOD | {"kid": "z"}, public_jwk(rsa_key("two"), "k")))
    assert one.keys["k"].thumbprint == two.keys["z"].thumbprint != other.keys["k"].thumbprint


def test_private_jwk_published_by_mistake_is_not_used() -> None:
    private = RSAAlgorithm.to_jwk(rsa_key(), as_dict=True) | {"kid": "k", "key_ops": ["verify"]}
    assert dropped(private) == "private or symmetric key material"


def test_not_a_key_set() -> None:
    with pytest.raises(KeySetInvalid):
        admit(b'{"keys": {"k": {}}}', ["RS256"])
