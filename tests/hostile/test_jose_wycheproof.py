"""Project Wycheproof's JOSE vectors: function by function against each group's own key, and all of them as credentials.

Tier A gives the signature check the key of the vector's group; every invalid one must be refused, every valid one that uses an
algorithm the gateway knows must pass. Tier B presents all 615 as bearer tokens to an authenticator that pins the group's
key for a trusted issuer: none is a token of ours, so each is the same 401.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from issuer_fixture import NOW, FakeIssuer

from gateway.identity.claims import Rejected, Step
from gateway.identity.issuers import ALGORITHMS, IssuerKind
from gateway.identity.jwks import admit_members
from gateway.identity.token import check_signature, open_token
from gateway.refusals import INVALID_TOKEN, Refusal

CORPORA = Path(os.environ.get("GATEWAY_CORPORA", Path(__file__).resolve().parents[3] / "shared" / "corpora"))
VECTORS = CORPORA / "wycheproof"
FILES = ("signature", "key", "crypto", "encryption")
SECRET_MEMBERS = {"d", "p", "q", "dp", "dq", "qi"}
# Valid by the specification, and refused here on purpose: symmetric keys, keys whose `alg` is another or does not exist,
# characters inserted into base64, empty payloads.
STRICTER = {346, 347, 350, 351, 372, 373} | {259, 264, 268, 272, 320, 325}

pytestmark = [
    pytest.mark.corpora,
    pytest.mark.skipif(not VECTORS.is_dir(), reason=f"Wycheproof vectors are not at {VECTORS} (set GATEWAY_CORPORA)"),
]


def groups(name: str) -> list[dict[str, Any]]:
    return json.loads((VECTORS / f"json_web_{name}_test.json").read_bytes())["testGroups"]


def published(group: dict[str, Any]) -> list[dict[str, Any]]:
    """The group's keys as an issuer would publish them: asymmetric private members left out, everything else as it is."""
    key = group.get("public") or group["private"]
    keys = key["keys"] if "keys" in key else [key]
    return [{name: value for name, value in one.items() if one.get("kty") == "oct" or name not in SECRET_MEMBERS} for one in keys]


def signatures(name: str) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    for group in groups(name):
        for vector in group["tests"]:
            if "jws" in vector:
                yield vector, published(group)


def as_text(token: Any) -> str:
    """The JSON serialisations are objects in the files; a client would send them as text."""
    return token if isinstance(token, str) else json.dumps(token)


def accepts(token: Any, keys: list[dict[str, Any]]) -> bool:
    try:
        opened = open_token(as_text(token))
        key = admit_members(keys, ALGORITHMS).keys.get(opened.kid)
        if key is None:
            return False
        check_signature(opened, key, ALGORITHMS)
    except Rejected:
        return False
    return True


@pytest.mark.parametrize(("name", "count"), [("signature", 401), ("key", 26), ("crypto", 49)])
def test_tier_a_invalid_is_refused_and_valid_passes(name: str, count: int) -> None:
    seen = valid = 0
    for vector, keys in signatures(name):
        seen += 1
        accepted = accepts(vector["jws"], keys)
        if vector["result"] == "invalid":
            assert not accepted, f"{name} {vector['tcId']} {vector['comment']}"
            continue
        symmetric = all(key.get("kty") == "oct" for key in keys)
        assert accepted is not (symmetric or (name == "signature" and vector["tcId"] in STRICTER)), f"{name} {vector['tcId']}"
        valid += accepted
    assert seen == count
    assert valid == {"signature": 26, "key": 1, "crypto": 2}[name]


def test_tier_a_no_encrypted_token_opens() -> None:
    for name in ("encryption", "crypto"):
        for group in groups(name):
            for vector in group["tests"]:
                if "jwe" in vector:
                    with pytest.raises(Rejected) as caught:
                        open_token(as_text(vector["jwe"]))
                    assert caught.value.step in (Step.SHAPE, Step.SIZE)


async def test_tier_b_615_vectors_as_credentials_are_one_and_the_same_401() -> None:
    issuer = FakeIssuer(IssuerKind.OIDC, algorithms=tuple(sorted(ALGORITHMS)))
    count, answers = 0, set()
    for name in FILES:
        for group in groups(name):
            issuer.jwks = published(group)
            authenticator = await issuer.authenticator()
            for vector in group["tests"]:
                if name == "crypto" and "jwe" in vector:
                    continue  # the 34 are checked above; the 615 are 401 + 26 + 49 signed and 139 encrypted
                header = b"Bearer " + as_text(vector["jws"] if "jws" in vector else vector["jwe"]).encode()
                with pytest.raises(Refusal) as caught:
                    await authenticator.authenticate(authenticator.credential([(b"authorization", header)]), NOW)
                refused = caught.value
                answers.add((refused.kind, refused.message, refused.challenge, refused.headers, refused.param, refused.inner))
                count += 1
    assert count == 615
    assert answers == {(INVALID_TOKEN, "a valid credential is required", "Bearer", (), None, None)}
