"""Policy sets for tests: the starter set, and small ones in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gateway.evidence import Asked, Dialect, Operation
from gateway.policy.decide import PolicySet
from gateway.policy.facts import RouteFacts, Zones
from gateway.policy.files import Files, read_files
from gateway.policy.load import build

ROOT = Path(__file__).parent.parent
STARTER = ROOT / "policies"
INVARIANTS = ROOT / "policies.invariants.toml"

WEDNESDAY_NOON_S = 1_800_446_400.0  # 2027-01-20T12:00:00Z

LIMITS = b"""
default = "small"
strictness = ["large", "small"]
[tiers.large]
says = "x"
requests_per_minute = 100
tokens_per_minute = 100
concurrent = 10
[tiers.small]
says = "x"
requests_per_minute = 10
tokens_per_minute = 10
concurrent = 1
"""

_DIRECTION = """
entities = {{ "*" = "{entities}" }}
secrets = "redact"
smuggling = "block"
ner = false
languages = ["en"]
deadline_ms = 100
"""


def _profile(name: str, entities: str) -> str:
    body = _DIRECTION.format(entities=entities)
    return f'[profiles.{name}]\nsays = "x"\n[profiles.{name}.inbound]{body}[profiles.{name}.outbound]{body}'


_PROFILES = _profile("lenient", "record") + _profile("strict", "redact")
CONTENT = f'default = "strict"\nstrictness = ["lenient", "strict"]\n{_PROFILES}'.encode()

ROLES = b"""
[roles.reader]
says = "x"
app_roles = ["reader"]
clearance = "internal"
[roles.writer]
says = "x"
app_roles = ["writer"]
clearance = "internal"
"""

TESTS = b"""
[models.m]
operations = ["chat.completions"]
[models.other]
operations = ["chat.completions"]
[[test]]
name = "a set needs a test; this one is silent"
who = { app_roles = [] }
does = "chat"
on = "m"
expect = ["permit", "deny", "unseen"]
"""

SEE = (
    '@id("see") @says("x") @owner("x") '
    'permit (principal in Gateway::Role::"reader", action == Gateway::Action::"model:see", resource);\n'
)


def files(access: str, **changes: bytes) -> Files:
    """Return the files of a small set; `changes` replaces files, with `__` for `/` and `_toml` for `.toml`."""
    made = {
        "gateway.cedarschema": (STARTER / "gateway.cedarschema").read_bytes(),
        "roles.toml": ROLES,
        "content.toml": CONTENT,
        "limits.toml": LIMITS,
        "tests/t.toml": TESTS,
        "access/a.cedar": access.encode(),
    }
    for name, content in changes.items():
        made[name.replace("__", "/").replace("_toml", ".toml").replace("_json", ".json").replace("_cedar", ".cedar")] = content
    return made


def small(access: str, routes: Mapping[str, RouteFacts] | None = None, **changes: bytes) -> PolicySet:
    return build(files(SEE + access, **changes), routes=routes, zones=Zones({"corporate": ["10.0.0.0/8"]}))


def starter(**zones: list[str]) -> PolicySet:
    return build(read_files(STARTER), routes=None, zones=Zones(zones))


def write(directory: Path, content: Files) -> Path:
    for name, data in content.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    return directory


def asked(model: str, operation: Operation = Operation.CHAT, *, peer: str = "127.0.0.1", stream: bool = False) -> Asked:
    return Asked(operation=operation, dialect=Dialect.OPENAI, model=model, body={}, body_bytes=2, stream=stream, peer=peer)
