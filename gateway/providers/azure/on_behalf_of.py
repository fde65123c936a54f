"""How does a backend see the person who asked? The caller's own verified token is exchanged for one meant for the backend.

One entry for each credential and the subject it was verified as; it dies with the credential. The credential itself is held only
while it is exchanged: not in an entry, not in a record, not in an error. What the authority demands of the person (a second factor,
another network) goes back as a claims challenge to clients that can answer one, and is 403 for all others.

Specification: Entra ID's on-behalf-of flow, RFC 7523 section 2.1; claims challenges as in `challenge.py`.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from gateway.challenge import demanded_claims
from gateway.evidence import Subject, SubjectKind
from gateway.ports import CallerHeaders, UpstreamError
from gateway.providers.azure.token_keeper import Flights, Headers, NoToken, TokenKeeper
from gateway.refusals import INVALID_TOKEN, POLICY_DENIED, Refusal

CAPACITY: Final = 4096  # people with a token at once; an entry is about 4 KiB
_SWEEP_S: Final = 60.0
# What the authority says when it is the person's sign-in that does not suffice. All else is the gateway's own trouble.
_OF_THE_PERSON: Final = frozenset({"interaction_required", "login_required", "consent_required", "invalid_grant"})

_Key = tuple[bytes, str, str, str]


class Exchanger(Protocol):
    """What exchanges a token: `MsalClient`."""

    def for_user(self, assertion: str) -> Mapping[str, Any]: ...


class OnBehalfOf:
    """`BackendCredential` that speaks for the caller. `directory` is the one directory whose people can be spoken for."""

    personal = True

    def __init__(
        self,
        name: str,
        exchanger: Exchanger,
        flights: Flights,
        draw: Callable[[], float],
        *,
        directory: str,
        capacity: int = CAPACITY,
    ) -> None:
        self._name = name
        self._exchanger = exchanger
        self._flights = flights
        self._draw = draw
        self._directory = directory
        self._capacity = capacity
        self._entries: OrderedDict[_Key, tuple[TokenKeeper, float]] = OrderedDict()
        self._swept_s = 0.0

    def __len__(self) -> int:
        return len(self._entries)

    async def headers(self, subject: Subject, caller: CallerHeaders | None, now_s: float) -> Headers:
        """Return the headers that name the person to the backend. Raises `Refusal`, `UpstreamError`."""
        self._permitted(subject, now_s)
        # INVARIANT: an entry is found by the digest of the whole credential and by whom it was verified as; nothing less.
        key = (subject.token_digest, subject.tenant, subject.issuer, subject.subject_id)
        entry = self._entries.get(key)
        if entry is None:
            entry = (TokenKeeper(self._name, self._flights, self._draw), float(subject.expires_at_s))
            self._keep(key, entry, now_s)
        else:
            self._entries.move_to_end(key)
        keeper = entry[0]
        try:
            token = await keeper.get(lambda: self._exchanger.for_user(_assertion(subject, caller)), now_s)
        except NoToken as failed:
            raise self._refused(failed, subject) from None
        return token.headers

    def rejected(self, subject: Subject, now_s: float) -> None:
        """Forget the token of `subject`: the backend did not take it."""
        entry = self._entries.get((subject.token_digest, subject.tenant, subject.issuer, subject.subject_id))
        if entry is not None:
            entry[0].reject(now_s)

    async def ready(self, now_s: float) -> bool:
        """Nothing can be asked for without a person."""
        return True

    async def aclose(self) -> None:
        for keeper, _ in tuple(self._entries.values()):
            await keeper.aclose()
        self._entries.clear()

    def _permitted(self, subject: Subject, now_s: float) -> None:
        if subject.kind is not SubjectKind.USER:
            raise Refusal(POLICY_DENIED, message="this model is for signed-in people", detail="on-behalf-of: the subject is no person")
        if not subject.subject_id.startswith(f"{self._directory}/"):
            raise Refusal(POLICY_DENIED, detail="on-behalf-of: the person's directory is not the one the gateway can speak in")
        if now_s >= subject.expires_at_s:
            self._entries.pop((subject.token_digest, subject.tenant, subject.issuer, subject.subject_id), None)
            raise Refusal(INVALID_TOKEN, challenge="Bearer", detail="on-behalf-of: the caller's token has expired")

    def _keep(self, key: _Key, entry: tuple[TokenKeeper, float], now_s: float) -> None:
        if now_s - self._swept_s >= _SWEEP_S:
            self._swept_s = now_s
            for old in [k for k, (_, until_s) in self._entries.items() if now_s >= until_s]:
                del self._entries[old]
        self._entries[key] = entry
        if len(self._entries) > self._capacity:
            self._entries.popitem(last=False)

    def _refused(self, failed: NoToken, subject: Subject) -> Exception:
        if failed.error not in _OF_THE_PERSON:
            return UpstreamError("credential", failed.why)
        if failed.claims:
            return demanded_claims(subject, failed.claims)
        return Refusal(POLICY_DENIED, detail=f"on-behalf-of: {failed.why}")


def _assertion(subject: Subject, caller: CallerHeaders | None) -> str:
    """Return the caller's token, which must be the very one `subject` was verified from. Runs in the thread that sends it."""
    value = caller.header(b"authorization") if caller is not None else None
    token = value[7:] if value is not None and value[:7].lower() == b"bearer " else b""
    # SECURITY: evidence of one caller beside the headers of another would lend one person's backend session to the other.
    if not token or hashlib.sha256(token).digest() != subject.token_digest:
        raise NoToken("the credential at hand is not the one that was verified")
    return token.decode("ascii")
