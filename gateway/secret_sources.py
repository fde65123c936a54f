"""Who is asked for each secret reference of the settings, and what happens to those that change while the process runs?"""

from __future__ import annotations

import logging
import random
import time
from typing import Any, Final

from gateway.assembly import identity_config
from gateway.ports import Secret, SecretMissing, SecretSource
from gateway.providers.azure.key_vault import KeyVaultSecrets
from gateway.providers.azure.msal_client import SdkMissing
from gateway.providers.azure.sdk_credential import SdkCredential
from gateway.providers.azure.token_keeper import Flights
from gateway.providers.azure.upstream_identity import application_credential
from gateway.providers.local.secrets import EnvSecrets, FileSecrets, resolve
from gateway.providers.secret_keeper import SecretFaults, SecretKeeper
from gateway.settings import Settings
from gateway.settings_identity import EXTRA
from gateway.settings_secrets import AT_START, references, vault_scope, vault_urls, vaults

logger = logging.getLogger("gateway")
_THREADS: Final = 2


def key_vault(settings: Settings) -> KeyVaultSecrets:
    """Return the source for `keyvault:` references. Asks nobody yet. Raises `SecretMissing` without the `azure` extra."""
    section = settings.secrets
    sdk: dict[str, Any] = {"connection_verify": section.ca_file} if section.ca_file else {}
    config = identity_config("secrets", section, resolve, scope=vault_scope(section))
    try:
        identity = application_credential(config, Flights(_THREADS), random.random)
        return KeyVaultSecrets(
            SdkCredential(identity),
            vault_urls(section),
            refresh_s=section.refresh_s,
            timeout_s=section.timeout_s,
            rejected=lambda now_s: identity.rejected(None, now_s),
            **sdk,
        )
    except (SdkMissing, ImportError):
        raise SecretMissing(f"`keyvault:` references: {EXTRA}") from None


def secret_keeper(settings: Settings) -> SecretKeeper:
    """Return the keeper of every reference, nothing loaded yet. Raises `SecretMissing`."""
    sources: dict[str, SecretSource] = {"env": EnvSecrets(), "file": FileSecrets()}
    if vaults(references(settings)):
        sources["keyvault"] = key_vault(settings)
    # A hair longer than the source's own limit, so that it is the source that says what was waited for.
    timeout_s = settings.secrets.timeout_s + 1.0
    return SecretKeeper(sources, draw=random.random, mono_s=time.monotonic, wall_s=time.time, timeout_s=timeout_s)


async def loaded(settings: Settings) -> SecretKeeper:
    """Return the keeper with every reference of the settings in it. Raises `SecretFaults`, all at once."""
    keeper = secret_keeper(settings)
    found = references(settings)
    try:
        await keeper.load(found, settings.secrets.start_s)
    except SecretFaults as faults:
        await keeper.aclose()
        where = {reference: ", ".join(f"{section}.{key}" for section, key in places) for reference, places in found.items()}
        raise SecretFaults([_placed(fault, where) for fault in faults.faults]) from None
    for reference, places in found.items():
        for section, key in places:
            if (section, key) in AT_START:
                keeper.watch(reference, _at_the_next_start(f"{section}.{key}"))
    return keeper


def _placed(fault: str, where: dict[str, str]) -> str:
    """Return a fault that begins with its reference, with the places that ask for it."""
    reference = fault.split("`")[1] if fault.startswith("`") else ""
    return f"{fault} (for {where[reference]})" if reference in where else fault


def _at_the_next_start(place: str) -> Any:
    # INVARIANT: one log, one key: a signer that changed in mid-log would look like a forgery.
    def warn(_: Secret) -> None:
        logger.warning("changed secret takes effect at the next start", extra={"setting": place})

    return warn
