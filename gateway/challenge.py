"""How does a subject learn that it must authenticate again, more strongly? A claims challenge, or 403 where none can help.

Specification: OpenID Connect claims request in `WWW-Authenticate`, as Entra's clients parse it (authentication contexts
`c1` to `c99`); RFC 6750 section 3. Only clients that declared the capability (`xms_cc` with cp1) get one.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gateway.evidence import Subject
from gateway.refusals import INVALID_TOKEN, POLICY_DENIED, Refusal

AUTH_CONTEXT: Final = re.compile(r"c[1-9][0-9]?")
_AUTHORITY: Final = re.compile(r"(https://[a-zA-Z0-9.:-]{1,255})/[0-9a-f-]{36}/v2\.0")
_PUBLIC_CLOUD: Final = "https://login.microsoftonline.com"


def insufficient_claims(subject: Subject, context: str, *, inner: Mapping[str, Any] | None = None) -> Refusal:
    """Return the refusal for a subject whose token lacks the authentication context `context` (`c1` to `c99`).

    Raises `ValueError` for another name: it comes from policy, never from a request.
    """
    if AUTH_CONTEXT.fullmatch(context) is None:
        raise ValueError("an authentication context is c1 to c99")
    if not subject.claims_challenges:
        detail = f"authentication context {context} is missing and the client takes no challenge"
        return Refusal(POLICY_DENIED, inner=inner, detail=detail)
    claims = msgspec.json.encode({"access_token": {"acrs": {"essential": True, "value": context}}})
    return _challenged(subject, claims, f"authentication context {context} is missing")


def demanded_claims(subject: Subject, claims: str) -> Refusal:
    """Return the refusal for a subject of whom the authority itself demands `claims`, as it wrote them."""
    if not subject.claims_challenges:
        return Refusal(POLICY_DENIED, detail="the authority demands more of the person and the client takes no challenge")
    return _challenged(subject, claims.encode("utf-8"), "the authority demands more of the person")


def _challenged(subject: Subject, claims: bytes, detail: str) -> Refusal:
    known = _AUTHORITY.fullmatch(subject.issuer)  # a sovereign cloud signs in elsewhere; the v1 form of `iss` does not say where
    authority = known[1] if known is not None else _PUBLIC_CLOUD
    challenge = (
        f'Bearer realm="", authorization_uri="{authority}/common/oauth2/authorize", '
        f'error="insufficient_claims", claims="{base64.b64encode(claims).decode("ascii")}"'
    )
    return Refusal(INVALID_TOKEN, challenge=challenge, detail=detail)
