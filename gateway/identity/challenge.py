"""How does a subject learn that it must authenticate again, more strongly? A claims challenge, or 403 where none can help.

Specification: OpenID Connect claims request in `WWW-Authenticate`, as Entra's clients parse it (authentication contexts
`c1` to `c99`); RFC 6750 section 3. Only clients that declared the capability (`xms_cc` with cp1) get one.
"""

from __future__ import annotations

import base64
import re
from typing import Final

import msgspec

from gateway.evidence import Subject
from gateway.refusals import INVALID_TOKEN, POLICY_DENIED, Refusal

_CONTEXT: Final = re.compile(r"c[1-9][0-9]?")


def insufficient_claims(subject: Subject, context: str, *, authority: str = "https://login.microsoftonline.com") -> Refusal:
    """Return the refusal for a subject whose token lacks the authentication context `context` (`c1` to `c99`).

    Raises `ValueError` for another name: it comes from policy, never from a request.
    """
    if _CONTEXT.fullmatch(context) is None:
        raise ValueError("an authentication context is c1 to c99")
    if not subject.claims_challenges:
        return Refusal(POLICY_DENIED, detail=f"authentication context {context} is missing and the client takes no challenge")
    claims = msgspec.json.encode({"access_token": {"acrs": {"essential": True, "value": context}}})
    challenge = (
        f'Bearer realm="", authorization_uri="{authority}/common/oauth2/authorize", '
        f'error="insufficient_claims", claims="{base64.b64encode(claims).decode("ascii")}"'
    )
    return Refusal(INVALID_TOKEN, challenge=challenge, detail=f"authentication context {context} is missing")
