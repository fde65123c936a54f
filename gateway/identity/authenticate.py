"""Who is asking? One credential from the headers becomes a `Subject`, or the same 401 whatever was wrong with it.

The public half of every failure is constant, so an attacker learns nothing from it; the private half names the step. A
verified token is remembered under the SHA-256 of all of it, never before it was verified, and forgotten when it expires,
when its issuer's published keys change, or when they are too old to trust.

Specification: RFC 6750 section 2.1, RFC 9110 section 11.4.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

import msgspec

from gateway.evidence import Subject, SubjectKind
from gateway.identity.apikeys import PREFIX, ApiKeys
from gateway.identity.claims import Rejected, VerifiedClaims
from gateway.identity.issuers import Overage, TrustedIssuer
from gateway.identity.jwks import KeySet
from gateway.identity.keyset import KeySets
from gateway.identity.subject import Tenants
from gateway.identity.token import MAX_TOKEN, KeyUnknown, verify_token
from gateway.ports import GroupSource, GroupsUnavailable
from gateway.refusals import INVALID_API_KEY, INVALID_TOKEN, OVERLOADED, POLICY_DENIED, Kind, Refusal

CHALLENGE: Final = "Bearer"
GROUPS_S: Final = 600  # groups that were asked for are asked for again after this, however long the token lives
_CREDENTIAL_HEADERS: Final = frozenset({b"authorization", b"api-key"})


class Style(StrEnum):
    TOKEN = "token"
    KEY = "key"


_TOKEN: Final = Style.TOKEN  # bound once: to look a member up on its class is slow in Python 3.11


class Credential(msgspec.Struct, frozen=True, gc=False):
    """The one credential of a request, unverified. Its text is never shown by `repr`."""

    style: Style
    value: str
    digest: bytes  # SHA-256 of the whole of it

    def __repr__(self) -> str:
        return f"Credential({self.style})"


class _Remembered(msgspec.Struct, frozen=True, gc=False):
    subject: Subject
    keyset: KeySet
    from_s: int
    until_s: int


class Authenticator:
    """Credentials in, subjects out. Holds the bounded cache of verified tokens; a new configuration needs a new one."""

    def __init__(
        self,
        trusted: Mapping[str, TrustedIssuer],
        keysets: KeySets,
        tenants: Tenants,
        api_keys: ApiKeys | None = None,
        groups: GroupSource | None = None,
        *,
        capacity: int = 4096,
    ) -> None:
        self._trusted = trusted
        self._keysets = keysets
        self._tenants = tenants
        self._api_keys = api_keys
        self._groups = groups
        self._capacity = capacity
        self._verified: OrderedDict[bytes, _Remembered] = OrderedDict()

    def credential(self, headers: Sequence[tuple[bytes, bytes]]) -> Credential:
        """Return the one credential in `headers` (lower-case names). Raises the constant 401 for none, two or another scheme."""
        found: tuple[bytes, bytes] | None = None
        for header in headers:
            if header[0] in _CREDENTIAL_HEADERS:
                # SECURITY: two credentials, even equal ones, mean that two parsers may pick two.
                if found is not None:
                    raise _refused(INVALID_TOKEN, "credential: more than one")
                found = header
        if found is None:
            raise _refused(INVALID_TOKEN, "credential: none")
        name, value = found
        if name == b"authorization":
            scheme = value[:7]
            if scheme != b"Bearer " and scheme.lower() != b"bearer ":
                raise _refused(INVALID_TOKEN, "credential: not Bearer with one space")
            value = value[7:]
        # What else is wrong with its characters is found where its shape is checked; a cached one was checked before.
        if not 0 < len(value) <= MAX_TOKEN or not value.isascii():
            raise _refused(INVALID_API_KEY if name == b"api-key" else INVALID_TOKEN, "credential: empty, too long or not ASCII")
        text = value.decode("ascii")
        style = Style.KEY if name == b"api-key" or text.startswith(PREFIX) else Style.TOKEN
        return Credential(style, text, hashlib.sha256(value).digest())

    async def aclose(self) -> None:
        """End what is under way elsewhere on behalf of callers."""
        if self._groups is not None:
            await self._groups.aclose()

    def reload_keys(self) -> None:
        """Take over a changed file of gateway keys; a revoked key stops here. Reads a file: for a timer, not for a request."""
        if self._api_keys is not None:
            self._api_keys.reload()

    def cached(self, credential: Credential, now_s: int) -> Subject | None:
        """Return the subject of a token verified before and still good at `now_s`, else None. Does not wait; raises nothing."""
        known = self._verified.get(credential.digest)
        if known is None or credential.style is not _TOKEN:
            return None
        # INVARIANT: the very key set the token was verified with is still the issuer's current one. Identity, not equality:
        # any change of the published document sends every token of the issuer through verification once more.
        if not known.from_s <= now_s < known.until_s or self._keysets.current(known.subject.issuer) is not known.keyset:
            del self._verified[credential.digest]
            return None
        self._verified.move_to_end(credential.digest)
        return known.subject

    async def authenticate(self, credential: Credential, now_s: int) -> Subject:
        """Return the verified subject. Raises `Refusal`: 401 (constant) or 403 (authentic, but of no tenant).

        Waits only for a key set, and only when the token names a key that is not known yet.
        """
        if credential.style is Style.KEY:
            return self._subject_of_key(credential, now_s)
        if (subject := self.cached(credential, now_s)) is not None:
            return subject
        try:
            claims = await self._verify(credential.value, now_s)
        except Rejected as rejected:
            raise _refused(INVALID_TOKEN, f"token: step {int(rejected.step)} {rejected}") from None
        keyset = self._keysets.current(claims.iss)  # the one it was verified with: nothing waited since
        subject = self._tenants.subject_of_token(claims, credential.digest)
        until_s = claims.expires_at_s
        if claims.groups_overage and self._trusted[claims.iss].groups_overage is Overage.RESOLVE:
            subject = await self._with_groups(subject, claims, now_s)
            until_s = min(until_s, now_s + GROUPS_S)
        self._remember(credential.digest, subject, claims, keyset, until_s)
        return subject

    async def _with_groups(self, subject: Subject, claims: VerifiedClaims, now_s: int) -> Subject:
        """Return the subject with the groups its token could not hold. Raises `Refusal`: without them nothing may be decided."""
        if self._groups is None:
            raise Refusal(POLICY_DENIED, detail="groups overage: there is nobody to ask")
        try:
            found = await self._groups.groups_of(
                claims.directory_id, claims.object_id, application=claims.kind is SubjectKind.APPLICATION, now_s=now_s
            )
        except GroupsUnavailable as missing:
            message = "the caller's groups cannot be known now, retry shortly"
            raise Refusal(OVERLOADED, message=message, retry_after_s=5.0, detail=f"groups overage: {missing.why}") from None
        return msgspec.structs.replace(subject, groups=found, groups_overage=False)

    async def _verify(self, token: str, now_s: int) -> VerifiedClaims:
        try:
            return verify_token(token, self._trusted, self._keysets.current, now_s)
        except KeyUnknown as unknown:
            if not await self._keysets.find(unknown.iss, unknown.kid):
                raise
        return verify_token(token, self._trusted, self._keysets.current, now_s)

    def _subject_of_key(self, credential: Credential, now_s: int) -> Subject:
        if self._api_keys is None:
            raise _refused(INVALID_API_KEY, "key: gateway keys are switched off")
        record = self._api_keys.ring.verify(credential.value, now_s)
        if record is None:
            raise _refused(INVALID_API_KEY, "key: unknown, wrong, expired or revoked")
        return self._tenants.subject_of_key(record, credential.digest)

    def _remember(self, digest: bytes, subject: Subject, claims: VerifiedClaims, keyset: KeySet | None, until_s: int) -> None:
        # SECURITY: CVE-2026-35030, a cache keyed by a part of the token gave one user another's identity. The key is the
        # digest of all of it, and nothing is stored that was not verified just now.
        if keyset is None or claims.kid not in keyset.keys:
            return
        leeway = self._trusted[claims.iss].leeway_s
        from_s, until_s = max(claims.not_before_s, claims.issued_at_s) - leeway, until_s + leeway
        self._verified[digest] = _Remembered(subject, keyset, from_s, until_s)
        if len(self._verified) > self._capacity:
            self._verified.popitem(last=False)


def _refused(kind: Kind, detail: str) -> Refusal:
    return Refusal(kind, challenge=CHALLENGE, detail=detail)
