"""What does a quickstart keep? A private folder with a signing key, a pepper, tokens, settings and the audit log.

Everything is made on the first start and found again on the next. Development only: nothing here is for production, and the
settings it writes use an issuer type that `gateway serve` refuses.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import gateway

IDENTITIES = ("analyst", "developer", "auditor", "operator", "outsider", "loadtest")
MODELS: dict[str, tuple[str, ...]] = {
    "assistant": ("chat.completions", "completions"),
    "echo": ("chat.completions", "completions"),
    "echo-restore": ("chat.completions", "completions"),
    "echo-open": ("chat.completions", "completions"),
    "leaky": ("chat.completions", "completions"),
    "hostile": ("chat.completions", "completions"),
    "slow": ("chat.completions", "completions"),
    "restricted": ("chat.completions", "completions"),
    "embed": ("embeddings",),
    "score": ("score", "infer"),
}
CLASSES = {"restricted": "restricted"}


class Ports(msgspec.Struct, frozen=True, kw_only=True):
    """The five loopback ports."""

    data: int = 8080
    control: int = 8081
    ops: int = 9090
    issuer: int = 8400
    simulator: int = 8500


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read; never a moment wider."""
    scratch = path.with_name(path.name + ".new")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    scratch.replace(path)


def starter_policies() -> Path:
    """Return the policy set that comes with the gateway, installed or in a checkout."""
    package = Path(gateway.__file__).resolve().parent
    installed = package / "starter_policies"
    return installed if installed.is_dir() else (package.parent / "policies").resolve()


def prepare(directory: Path) -> None:
    """Make the state folder, the audit key and the pepper where they do not exist."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    (directory / "tokens").mkdir(mode=0o700, exist_ok=True)
    key = directory / "audit.key"
    if not key.exists():
        private = Ed25519PrivateKey.generate()
        write_private(
            key,
            private.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )
    pepper = directory / "pepper"
    if not pepper.exists():
        write_private(pepper, secrets.token_hex(32).encode())


def settings_text(directory: Path, policies: Path, ports: Ports, issuer: str, *, backend: str | None, ner: bool) -> str:
    """Return the settings of a quickstart as TOML."""
    url = backend or f"http://127.0.0.1:{ports.simulator}/v1"
    plain = f"http://127.0.0.1:{ports.simulator}"
    quote = msgspec.json.encode
    fixed = policies.with_name("policies.invariants.toml")
    invariants = fixed if policies == starter_policies() and fixed.is_file() else None
    lines = [
        "# Written by `gateway quickstart`; development only.",
        "[server]",
        f'data = "127.0.0.1:{ports.data}"',
        f'control = "127.0.0.1:{ports.control}"',
        f'ops = "127.0.0.1:{ports.ops}"',
        'instance = "quickstart"',
        "[policies]",
        f"directory = {quote(str(policies)).decode()}",
        *([f"invariants = {quote(str(invariants)).decode()}"] if invariants is not None else []),
        "[audit]",
        f"directory = {quote(str(directory / 'audit')).decode()}",
        f"key = {quote('file:' + str(directory / 'audit.key')).decode()}",
        f"pepper = {quote('file:' + str(directory / 'pepper')).decode()}",
        'origin = "gateway.localhost/quickstart"',
        "[inspection]",
        f"ner = {str(ner).lower()}",
        "[telemetry]",
        'scrapers = ["127.0.0.0/8"]',
        "[[issuers]]",
        'name = "development"',
        'type = "development"',
        f'issuer = "{issuer}"',
        'audiences = ["api://gateway-dev"]',
        "[[tenants]]",
        'id = "development"',
        'issuer = "development"',
        "[[backends]]",
        'name = "models"',
        f'url = "{url}"',
        "[[backends]]",
        'name = "plain-models"',
        'kind = "plain"',
        f'url = "{plain}"',
    ]
    for model, operations in MODELS.items():
        backends = '["plain-models"]' if operations[0] == "score" else '["models"]'
        lines += [
            "[[routes]]",
            f'model = "{model}"',
            f"backends = {backends}",
            f"operations = {quote(list(operations)).decode()}",
            f'data_class = "{CLASSES.get(model, "internal")}"',
        ]
        if operations[0] == "score":
            lines.append('request_schema = "score"')
    return "\n".join(lines) + "\n"
