"""Which secret references do settings hold, are they well formed, and is there somebody to ask? Faults as (key, message); no network."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from gateway.settings_identity import EXTRA, extra_installed, identity_faults, origin_fault
from gateway.settings_sinks import has

VAULT_SUFFIX: Final = "vault.azure.net"
# Every key that holds a reference, by section: what is not listed here is not resolved at the start.
REFERENCES: Final[Mapping[str, tuple[str, ...]]] = {
    "audit": ("key", "pepper"),
    "keys": ("pepper",),
    "limits": ("password",),
    "backends": ("credential", "client_secret", "client_certificate"),
    "directory": ("client_secret", "client_certificate"),
    "secrets": ("client_secret", "client_certificate"),
    "content_safety": ("key", "client_secret", "client_certificate"),
    "audit_sinks": ("connection", "client_secret", "client_certificate"),
    "telemetry": ("appinsights",),
}
# Used once, when the process starts: a changed value waits for the next start.
AT_START: Final = (("audit", "key"), ("audit", "pepper"), ("audit_sinks", "connection"), ("telemetry", "appinsights"))
_ENV: Final = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*")
_VAULT: Final = re.compile(r"(?!.*--)[A-Za-z][A-Za-z0-9-]{1,22}[A-Za-z0-9]")
_SECRET: Final = re.compile(r"[A-Za-z0-9-]{1,127}")
_VERSION: Final = re.compile(r"[0-9a-f]{32}")
_SUFFIX: Final = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+")
_RANGES: Final = {"refresh_s": (10, 86_400), "timeout_s": (1.0, 60.0), "start_s": (0.0, 300.0)}


def reference_fault(reference: str) -> str:
    """Return what is wrong with a reference, "" if nothing is."""
    scheme, _, rest = reference.partition(":")
    if scheme == "env" and _ENV.fullmatch(reference):
        return ""
    if scheme == "file" and rest:
        return ""
    if scheme != "keyvault":
        return "must be a reference: env:NAME, file:/path or keyvault:vault/secret"
    vault, _, path = rest.partition("/")
    name, pinned, version = path.partition("/")
    if not _VAULT.fullmatch(vault):
        return f"`{vault}` is no vault name: 3 to 24 letters, digits and single hyphens, a letter first; an address belongs in `vault_url`"
    if not _SECRET.fullmatch(name):
        return "names no secret of the vault: letters, digits and hyphens, as in keyvault:vault/secret"
    if pinned and not _VERSION.fullmatch(version):
        return "has a version that is not 32 hex digits: leave it out for the latest"
    return ""


def references(settings: Any) -> dict[str, list[tuple[str, str]]]:
    """Return every reference that is in use with the (section, key) where it stands. `settings` is the tree, or its sections by name."""
    found: dict[str, list[tuple[str, str]]] = {}
    for section, keys in REFERENCES.items():
        part = settings.get(section) if isinstance(settings, dict) else getattr(settings, section, None)
        for item in part if isinstance(part, tuple) else (part,):
            if item is None or (section == "keys" and not item.enabled):
                continue
            for key in keys:
                reference = getattr(item, key, None)
                if reference is not None:
                    found.setdefault(reference, []).append((section, key))
    return found


def vaults(found: Mapping[str, Any]) -> list[str]:
    """Return the names of the vaults that well-formed references name, each once: what is malformed is one fault, not two."""
    good = [reference for reference in found if reference.startswith("keyvault:") and not reference_fault(reference)]
    return sorted({reference.removeprefix("keyvault:").partition("/")[0] for reference in good})


def secrets_faults(
    section: Any, found: Mapping[str, Any], environ: Mapping[str, str], installed: Callable[[str], bool] = extra_installed
) -> Iterator[tuple[str, str]]:
    """Yield (key of [secrets], what is wrong and what to do). `section` is None where settings have none."""
    named = vaults(found)
    if named and not has("azure.keyvault.secrets", installed):
        yield "", f"`keyvault:` references: {EXTRA}"
    if section is None or section.identity is None:
        if named:
            yield "identity", f"vault `{named[0]}` cannot be asked: [secrets] needs an `identity`, such as `workload` or `managed`"
        if section is None:
            return
    yield from identity_faults(section, environ, installed)
    if section.identity == "on_behalf_of":
        yield "identity", "a vault is asked before any caller is there: `on_behalf_of` means nothing here"
    for key in ("client_secret", "client_certificate"):
        if (getattr(section, key) or "").startswith("keyvault:"):
            yield key, f"`{key}` opens the vault and cannot lie in one: use env: or file:"
    if not _SUFFIX.fullmatch(section.vault_suffix):
        yield "vault_suffix", f"`vault_suffix` must be a domain such as {VAULT_SUFFIX}"
    for vault, url in section.vault_url.items():
        if fault := origin_fault(url):
            yield "vault_url", f"`vault_url.{vault}` {fault}"
    for key, (least, most) in _RANGES.items():
        if not least <= getattr(section, key) <= most:
            yield key, f"`{key}` must be from {least} to {most}"


def vault_urls(section: Any) -> Callable[[str], str]:
    """Return a function from a vault's name to its address."""
    urls: Mapping[str, str] = dict(section.vault_url)
    suffix: str = section.vault_suffix
    return lambda vault: urls.get(vault, f"https://{vault.lower()}.{suffix}")


def vault_scope(section: Any) -> str:
    """Return what a token for the vaults is asked for: their own domain, or what settings say."""
    return section.scope or f"https://{section.vault_suffix}/.default"
