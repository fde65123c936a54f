"""Which values of settings are refused although their type fits? Numbers out of range, networks that are none, ways to plaintext.

Sans-I/O. Each function yields (key, what is wrong); a value is never repeated where it could hold a secret.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from gateway.evidence import Operation

DATA_CLASSES: Final = ("public", "internal", "confidential", "restricted")
ASKED_OF_MODELS: Final = (Operation.CHAT, Operation.COMPLETIONS, Operation.EMBEDDINGS, Operation.INFER, Operation.SCORE)
PLAIN: Final = frozenset({"infer", "score"})  # their bodies have the shape that a schema of the policy set says
_ORIGIN = re.compile(r"[\x21-\x2a\x2c-\x7e]{1,256}")  # C2SP signed-note: a key name without white space and `+`

# The least and the most of each number. What is not here is checked where it is used.
_RANGES: Final[Mapping[str, Mapping[str, tuple[float, float]]]] = {
    "server": {
        "workers": (1, 64), "max_body_bytes": (1, 1 << 28), "max_exchanges": (1, 1_000_000), "max_connections": (1, 1_000_000),
        "drain_s": (0, 86_400), "body_idle_s": (0.001, 3_600),
    },
    "policies": {"watch_s": (0, 86_400)},
    "limits": {"replicas": (1, 100_000), "budget_ms": (1, 60_000)},
    "inspection": {"ner_workers": (1, 256), "ner_queue": (1, 1_000_000), "cache_entries": (1, 100_000_000)},
    "telemetry": {"sample": (0, 1)},
    "issuers": {"max_lifetime_s": (1, 31_622_400), "refresh_s": (1, 86_400)},
    "backends": {
        "max_connections": (1, 100_000), "max_waiting": (0, 1_000_000), "connect_s": (0.001, 3_600), "first_byte_s": (0.001, 86_400),
        "between_reads_s": (0.001, 86_400), "total_s": (0.001, 86_400),
    },
}  # fmt: skip


def is_loopback(host: str) -> bool:
    """Return whether a host name or address can only mean this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def number_faults(section: str, item: Any) -> Iterator[tuple[str, str]]:
    """Name each number of a section that no gateway can work with. A number that is not one (`nan`) is in no range."""
    for key, (least, most) in _RANGES.get(section, {}).items():
        if not least <= getattr(item, key) <= most:
            yield key, f"`{section}.{key}` must be from {least:g} to {most:g}"


def network_faults(networks: Sequence[str], what: str, *, anyone: bool = True) -> Iterator[str]:
    """Name each text that is no network, and the whole world where that would mean anyone."""
    for network in networks:
        try:
            parsed = ipaddress.ip_network(network)
        except ValueError:
            yield f"{what}: `{network}` is not a network"
            continue
        if not anyone and parsed.prefixlen == 0:
            yield f"{what}: `{network}` is everyone: name the addresses it connects from"


def redis_faults(url: str) -> Iterator[tuple[str, str]]:
    """Say why Redis is not reached as it must be: by TLS that is checked, or on this machine; its password by reference."""
    try:
        parts = urlsplit(url)
        host, password, port = parts.hostname or "", parts.password, parts.port
    except ValueError:
        host, password, port, parts = "", None, 0, urlsplit("")
    local = parts.scheme == "unix" and not host and parts.path.startswith("/")
    if port == 0 or not (local or (parts.scheme in ("redis", "rediss") and host)):
        yield "url", "`limits.url` must be rediss://host[:port][/number], or redis:// on loopback"
        return
    if parts.scheme == "redis" and not is_loopback(host):
        yield "url", "`limits.url`: plaintext is for loopback only, use rediss"
    if password is not None:
        yield "url", "`limits.url` holds a password: give [limits] `password` as a reference"
    options = {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)}
    if parts.fragment or options - {"ssl_ca_certs"}:
        yield "url", "`limits.url` may have no option but `ssl_ca_certs`: others could turn off what protects it"


def collector_fault(url: str) -> str:
    """Return why traces may not be sent to `url`, "" if they may."""
    try:
        parts = urlsplit(url)
        host, given = parts.hostname or "", parts.username
    except ValueError:
        return "must be http(s)://host[:port][/path]"
    if parts.scheme not in ("http", "https") or not host or given is not None:
        return "must be http(s)://host[:port][/path]"
    return "plaintext is for loopback only, use https" if parts.scheme == "http" and not is_loopback(host) else ""


def route_faults(route: Any) -> Iterator[tuple[str, str]]:
    """Say what of a route means nothing. SECURITY: a route that stated no operation would offer every one."""
    if not route.operations:
        yield "operations", "states no operation: say what may be asked of it"
    for operation in route.operations:
        if operation not in ASKED_OF_MODELS:
            yield "operations", f"`{operation}` is no operation of a model: use {', '.join(ASKED_OF_MODELS)}"
    if route.data_class not in DATA_CLASSES:
        yield "data_class", f"`{route.data_class}` is no data class: use {', '.join(DATA_CLASSES)}"
    if route.request_schema is None and PLAIN & set(route.operations):
        yield "operations", "a plain route needs `request_schema`, the schema in the policy set that says what it takes"


def origin_is_name(origin: str) -> bool:
    """Return whether a log may have this name in its checkpoints."""
    return _ORIGIN.fullmatch(origin) is not None
