"""Is an identity in settings complete, and does each of its keys mean something? Faults as (key, message); no network.

One shape serves every place where the gateway shows an identity of its own. What Kubernetes' workload identity webhook puts into
the environment (`AZURE_CLIENT_ID`, `AZURE_TENANT_ID`, `AZURE_FEDERATED_TOKEN_FILE`, `AZURE_AUTHORITY_HOST`) fills what settings
leave out, for `workload` alone: nothing else is ever taken from there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Literal
from urllib.parse import urlsplit

import msgspec

Kind = Literal["managed", "workload", "client_secret", "client_certificate", "on_behalf_of"]
DEFAULT_AUTHORITY = "https://login.microsoftonline.com"
GUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
PERSONAL_ACCOUNTS = "9188040d-6c67-4c5b-b112-36a304b66dad"
EXTRA = "the azure extra is not installed: pip install 'secure-inference-gateway[azure]'"
_SCOPE = re.compile(r"[a-z][a-z0-9+.-]*:[!-~]{1,255}/\.default|[0-9a-f-]{36}/\.default")
_PROOFS = ("client_secret", "client_certificate", "federated_token_file")
_ONLY = ("identity_client_id", "identity_tenant", "scope", *_PROOFS, "identity_ca_file")
# For each kind: what it must have, and what it may have beside that.
_NEEDS: Mapping[str, tuple[str, ...]] = {
    "managed": (),
    "workload": ("identity_client_id", "identity_tenant", "federated_token_file"),
    "client_secret": ("identity_client_id", "identity_tenant", "client_secret"),
    "client_certificate": ("identity_client_id", "identity_tenant", "client_certificate"),
    "on_behalf_of": ("identity_client_id", "identity_tenant"),
}
_MAY: Mapping[str, tuple[str, ...]] = {
    "managed": ("identity_client_id", "scope"),
    "workload": ("scope", "identity_ca_file"),
    "client_secret": ("scope", "identity_ca_file"),
    "client_certificate": ("scope", "identity_ca_file"),
    "on_behalf_of": ("scope", "identity_ca_file", *_PROOFS),
}
_INJECTED = {
    "identity_client_id": "AZURE_CLIENT_ID",
    "identity_tenant": "AZURE_TENANT_ID",
    "federated_token_file": "AZURE_FEDERATED_TOKEN_FILE",
}


class Identity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The keys of an identity, in whichever section it stands."""

    identity: Kind | None = None
    identity_client_id: str | None = None  # the application, or the user-assigned managed identity
    identity_tenant: str | None = None  # directory id
    scope: str | None = None
    authority: str = DEFAULT_AUTHORITY  # differs in sovereign clouds
    federated_token_file: str | None = None
    client_secret: str | None = None  # reference
    client_certificate: str | None = None  # reference to PEM: private key and certificate
    identity_ca_file: str | None = None  # further certificates trusted for the authority


def completed(item: Identity, environ: Mapping[str, str]) -> Identity:
    """Return the identity with what the webhook injected, where it is a workload's."""
    if item.identity != "workload":
        return item
    found = {key: environ.get(name) for key, name in _INJECTED.items() if getattr(item, key) is None and environ.get(name)}
    host = environ.get("AZURE_AUTHORITY_HOST", "").rstrip("/")
    if item.authority == DEFAULT_AUTHORITY and host:
        found["authority"] = host
    return msgspec.structs.replace(item, **found)


def extra_installed(module: str) -> bool:
    return find_spec(module) is not None


def identity_faults(
    given: Identity, environ: Mapping[str, str], installed: Callable[[str], bool] = extra_installed
) -> Iterator[tuple[str, str]]:
    """Yield (key, what is wrong and what to do) for an identity. The key is where the fault stands."""
    if given.identity is None:
        for key in _ONLY:
            if getattr(given, key) is not None:
                yield key, f"`{key}` means nothing without `identity`"
        return
    kind = given.identity
    item = completed(given, environ)
    if not installed("msal"):
        yield "identity", f"identity `{kind}`: {EXTRA}"
    for key in _NEEDS[kind]:
        if not getattr(item, key):
            injected = f", or the environment's `{_INJECTED[key]}`" if kind == "workload" else ""
            yield "identity", f"identity `{kind}` needs `{key}`{injected}"
    for key in _ONLY:
        if getattr(given, key) is not None and key not in (*_NEEDS[kind], *_MAY[kind]):
            yield key, f"`{key}` means nothing for identity `{kind}`"
    if kind == "managed" and given.authority != DEFAULT_AUTHORITY:
        yield "authority", "`authority` means nothing for identity `managed`: the host knows its own"
    if kind == "on_behalf_of" and sum(getattr(item, key) is not None for key in _PROOFS) != 1:
        yield "identity", f"identity `on_behalf_of` needs exactly one of {', '.join(f'`{p}`' for p in _PROOFS)}"
    yield from _form_faults(item)


def _form_faults(item: Identity) -> Iterator[tuple[str, str]]:
    for key in ("identity_client_id", "identity_tenant"):
        value = getattr(item, key)
        if value is not None and GUID.fullmatch(value) is None:
            yield key, f"`{key}` must be a lower-case GUID, never a name or `common`"
    if item.scope is not None and _SCOPE.fullmatch(item.scope) is None:
        yield "scope", "`scope` must name one resource and end in `/.default`, such as https://cognitiveservices.azure.com/.default"
    if fault := origin_fault(item.authority):
        yield "authority", f"`authority` {fault}"


def origin_fault(url: str) -> str:
    """Return why `url` is not an https origin, "" if it is."""
    try:
        parts = urlsplit(url)
        good = parts.scheme == "https" and parts.hostname and parts.port != 0 and parts.netloc == url.removeprefix("https://")
    except ValueError:
        good = False
    return "" if good and "@" not in url and url.isascii() else "must be https://host[:port] without a path or a trailing slash"
