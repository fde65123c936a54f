"""Where things are: one frozen tree, loaded once, every fault found at once with file and line.

Settings never say what is allowed; policies do. Unknown keys are errors, there is no insecure default, and secrets appear
only as references (`env:NAME`, `file:/path`, `keyvault:vault/secret`). `GATEWAY__SECTION__KEY` in the environment overrides a
scalar of `[section]`.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import msgspec

MAX_SETTINGS_BYTES = 1_048_576


class Fault(msgspec.Struct, frozen=True):
    """One thing that is wrong, where, and what to do about it. Never holds a secret's value."""

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}" if self.line else f"{self.file}: {self.message}"


class SettingsFaults(Exception):
    """Everything that is wrong with a settings file."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("\n".join(str(f) for f in faults))
        self.faults = faults


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Tls(_Section, frozen=True, kw_only=True):
    """Certificate and key files of a listener."""

    certificate: str
    key: str


class Terminator(_Section, frozen=True, kw_only=True):
    """Who ends TLS in front of the plaintext listener, and from which addresses alone it is accepted."""

    name: str
    peers: tuple[str, ...]


class Server(_Section, frozen=True, kw_only=True):
    data: str = "127.0.0.1:8080"
    control: str = "127.0.0.1:8081"
    ops: str = "127.0.0.1:9090"
    instance: str = "gateway-0"
    workers: int = 1
    max_body_bytes: int = 2_097_152  # a long conversation with tool results; images are opted into by policy
    max_exchanges: int = 512  # bulkhead: more at once are answered 503 at once
    max_connections: int = 2_000
    drain_s: float = 30.0
    body_idle_s: float = 10.0
    tls: Tls | None = None
    terminator: Terminator | None = None


class Policies(_Section, frozen=True, kw_only=True):
    directory: str
    invariants: str | None = None  # fixed at start, outside the set
    watch_s: float = 2.0  # 0: no watching


class Audit(_Section, frozen=True, kw_only=True):
    directory: str
    key: str  # reference to an Ed25519 private key (PEM or 32 raw bytes in hex)
    pepper: str  # reference to at least 32 bytes
    origin: str
    checkpoint_file: str | None = None
    checkpoint_stdout: bool = False


class Issuer(_Section, frozen=True, kw_only=True):
    name: str
    type: Literal["entra", "oidc", "kubernetes", "development"]
    audiences: tuple[str, ...]
    issuer: str | None = None  # exact `iss`; entra derives it from the directories
    directories: tuple[str, ...] = ()  # Entra tenant ids
    jwks_uri: str | None = None  # default: from discovery
    discovery: str | None = None
    algorithms: tuple[str, ...] = ("RS256",)
    max_lifetime_s: int = 86_400
    refresh_s: int = 3_600


class Tenant(_Section, frozen=True, kw_only=True):
    id: str
    issuer: str | None = None  # issuer name
    directory: str | None = None
    application: str | None = None
    namespace: str | None = None
    key: str | None = None


class Keys(_Section, frozen=True, kw_only=True):
    enabled: bool = False
    file: str | None = None
    pepper: str | None = None


class Backend(_Section, frozen=True, kw_only=True):
    name: str
    url: str
    kind: Literal["openai", "azure", "plain"] = "openai"
    credential: str | None = None  # reference
    credential_header: Literal["authorization", "api-key"] = "authorization"
    api_version: str | None = None
    region: str = ""
    max_connections: int = 128
    max_waiting: int = 256
    connect_s: float = 3.0
    first_byte_s: float = 120.0
    between_reads_s: float = 60.0
    total_s: float = 600.0
    ca_file: str | None = None


class Route(_Section, frozen=True, kw_only=True):
    model: str
    backends: tuple[str, ...]
    operations: tuple[str, ...]
    upstream_model: str | None = None  # the name at the backend; default: `model`
    data_class: str = "internal"
    owner: str = ""
    request_schema: str | None = None  # of plain routes: the name of a schema in the policy set
    answer_schema: str | None = None


class Limits(_Section, frozen=True, kw_only=True):
    store: Literal["memory", "redis"] = "memory"
    url: str | None = None
    replicas: int = 1  # the local fallback enforces cap / replicas
    budget_ms: int = 25


class InspectionSettings(_Section, frozen=True, kw_only=True):
    ner: bool = True
    ner_workers: int = 1
    ner_queue: int = 64
    cache_entries: int = 50_000


class Network(_Section, frozen=True, kw_only=True):
    zones: Mapping[str, tuple[str, ...]] = {}


class Telemetry(_Section, frozen=True, kw_only=True):
    scrapers: tuple[str, ...] = ()  # networks that may read /metrics and the names in /readyz without a token
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    otlp_endpoint: str | None = None
    sample: float = 0.05


class Price(_Section, frozen=True, kw_only=True):
    """Micro-USD for a thousand tokens."""

    input: float
    output: float


class Settings(_Section, frozen=True, kw_only=True):
    server: Server
    policies: Policies
    audit: Audit
    issuers: tuple[Issuer, ...]
    tenants: tuple[Tenant, ...]
    backends: tuple[Backend, ...]
    routes: tuple[Route, ...]
    keys: Keys = Keys()
    limits: Limits = Limits()
    inspection: InspectionSettings = InspectionSettings()
    network: Network = Network()
    telemetry: Telemetry = Telemetry()
    prices: Mapping[str, Price] = {}


_SINGLE: dict[str, type[_Section]] = {
    "server": Server,
    "policies": Policies,
    "audit": Audit,
    "keys": Keys,
    "limits": Limits,
    "inspection": InspectionSettings,
    "network": Network,
    "telemetry": Telemetry,
}
_MANY: dict[str, type[_Section]] = {"issuers": Issuer, "tenants": Tenant, "backends": Backend, "routes": Route}
_REQUIRED = ("policies", "audit", "issuers", "tenants", "backends", "routes")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_REFERENCE = re.compile(r"(env:[A-Za-z_][A-Za-z0-9_]*|file:.+|keyvault:[A-Za-z0-9-]+/[A-Za-z0-9-]+(/[0-9a-f]+)?)")


def is_loopback(host: str) -> bool:
    """Return whether a host name or address can only mean this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_port(listen: str) -> tuple[str, int]:
    """Split `host:port`. Raises `ValueError`."""
    host, _, port = listen.rpartition(":")
    number = int(port)
    if not host or not 0 <= number < 65_536:
        raise ValueError("a listener is host:port")
    return host.strip("[]"), number


class _Loader:
    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self.lines = text.split("\n")
        self.faults: list[Fault] = []

    def fault(self, message: str, section: str = "", key: str = "", item: int = 0) -> None:
        self.faults.append(Fault(self.file, self._line(section, key, item), message))

    def _line(self, section: str, key: str, item: int) -> int:
        head = re.compile(rf"\s*\[\[?\s*{re.escape(section)}\s*(\.[^\]]*)?\]\]?\s*(#.*)?$") if section else None
        seen = -1
        start = 0
        for number, line in enumerate(self.lines, 1):
            if head is not None and head.match(line):
                seen += 1
                if seen == item:
                    start = number
                    break
        if not key:
            return start
        for number, line in enumerate(self.lines[start:], start + 1):
            if re.match(rf"\s*{re.escape(key)}\s*=", line):
                return number
            if start and number > start and line.lstrip().startswith("["):
                break
        return start

    def section(self, cls: type[_Section], value: object, name: str, item: int = 0) -> Any:
        if not isinstance(value, dict):
            self.fault(f"`{name}` must be a table", name, item=item)
            return None
        known = set(cls.__struct_fields__)
        unknown = [k for k in value if k not in known]
        for key in unknown:
            self.fault(f"unknown key `{key}` in [{name}]", name, key, item)
        made: dict[str, Any] = {}
        hints = get_type_hints(cls)
        for key in known & set(value):
            try:
                made[key] = msgspec.convert(value[key], hints[key], strict=not isinstance(value[key], str) or _is_text(hints[key]))
            except msgspec.ValidationError as error:
                self.fault(f"`{name}.{key}`: {str(error)[0].lower()}{str(error)[1:]}", name, key, item)
        required = {f.name for f in msgspec.structs.fields(cls) if f.required}
        for key in sorted(required - set(value)):
            self.fault(f"[{name}] needs `{key}`", name, item=item)
        broken = (known & set(value)) - set(made) or required - set(made)
        return None if broken else cls(**made)


def _is_text(hint: object) -> bool:
    return hint is str or str in get_args(hint) or get_origin(hint) is Literal or any(get_origin(a) is Literal for a in get_args(hint))


def _overrides(loader: _Loader, raw: dict[str, Any], environ: Mapping[str, str]) -> None:
    for name, value in environ.items():
        if not name.startswith("GATEWAY__"):
            continue
        steps = [s.lower() for s in name.split("__")[1:]]
        if len(steps) != 2 or steps[0] not in _SINGLE:
            loader.fault(f"the environment's `{name}` names no scalar of a section: GATEWAY__SECTION__KEY")
            continue
        section = raw.setdefault(steps[0], {})
        if isinstance(section, dict):
            section[steps[1]] = value


def load(path: Path, environ: Mapping[str, str]) -> Settings:
    """Return the settings of a file. Raises `SettingsFaults` with every fault found."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SettingsFaults([Fault(str(path), 0, f"cannot be read: {error.strerror or 'input error'}")]) from error
    if len(data) > MAX_SETTINGS_BYTES:
        raise SettingsFaults([Fault(str(path), 0, "is larger than 1 MiB")])
    try:
        text = data.decode("utf-8")
        raw = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise SettingsFaults([Fault(str(path), 0, "is not UTF-8")]) from error
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"line (\d+)", str(error))
        raise SettingsFaults([Fault(str(path), int(line[1]) if line else 0, f"is not TOML: {error}")]) from error
    loader = _Loader(str(path), text)
    _overrides(loader, raw, environ)
    made = _sections(loader, raw)
    if not loader.faults:
        _cross_check(loader, made)
    if loader.faults:
        raise SettingsFaults(sorted(loader.faults, key=lambda f: f.line))
    return Settings(**made)


def _sections(loader: _Loader, raw: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name in raw:
        if name not in _SINGLE and name not in _MANY and name != "prices":
            loader.fault(f"unknown section [{name}]", name)
    for name in _REQUIRED:
        if name not in raw:
            loader.fault(f"section [{name}] is missing")
    for name, cls in _SINGLE.items():
        if name in raw or name == "server":
            made[name] = loader.section(cls, raw.get(name, {}), name)
    for name, cls in _MANY.items():
        items = raw.get(name, [])
        if not isinstance(items, list):
            loader.fault(f"`{name}` must be an array of tables: [[{name}]]", name)
            continue
        made[name] = tuple(loader.section(cls, item, name, at) for at, item in enumerate(items))
    prices = raw.get("prices", {})
    made["prices"] = {k: loader.section(Price, v, f"prices.{k}") for k, v in prices.items()} if isinstance(prices, dict) else {}
    return made


def _cross_check(loader: _Loader, made: dict[str, Any]) -> None:
    _check_names(loader, made)
    _check_server(loader, made["server"])
    for at, backend in enumerate(made["backends"]):
        url = urlsplit(backend.url)
        if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment or url.username:
            loader.fault(f"backend `{backend.name}`: `url` must be http(s)://host[:port][/path]", "backends", "url", at)
        elif url.scheme == "http" and not is_loopback(url.hostname):
            loader.fault(f"backend `{backend.name}`: plaintext is for loopback only, use https", "backends", "url", at)
        if backend.kind == "azure" and not backend.api_version:
            loader.fault(f"backend `{backend.name}`: kind `azure` needs `api_version`", "backends", "kind", at)
        _check_reference(loader, backend.credential, "backends", "credential", at)
    audit: Audit = made["audit"]
    _check_reference(loader, audit.key, "audit", "key")
    _check_reference(loader, audit.pepper, "audit", "pepper")
    for at, issuer in enumerate(made["issuers"]):
        if issuer.type == "entra" and not issuer.directories:
            loader.fault(f"issuer `{issuer.name}`: Entra needs `directories`, the tenant ids it is trusted for", "issuers", item=at)
        if issuer.type != "entra" and not issuer.issuer:
            loader.fault(f"issuer `{issuer.name}`: `issuer` is missing", "issuers", item=at)
        if not issuer.audiences:
            loader.fault(f"issuer `{issuer.name}`: `audiences` is empty", "issuers", "audiences", at)
    limits: Limits = made.get("limits", Limits())
    if limits.store == "redis" and not limits.url:
        loader.fault("[limits] store `redis` needs `url`", "limits", "store")
    for zone, networks in made.get("network", Network()).zones.items():
        for network in networks:
            try:
                ipaddress.ip_network(network)
            except ValueError:
                loader.fault(f"zone `{zone}`: `{network}` is not a network", "network", zone)


def _check_names(loader: _Loader, made: dict[str, Any]) -> None:
    backends = {b.name for b in made["backends"]}
    for section, attribute in (("issuers", "name"), ("backends", "name"), ("routes", "model")):
        seen: set[str] = set()
        for at, item in enumerate(made[section]):
            name = getattr(item, attribute)
            if not _NAME.fullmatch(name):
                loader.fault(f"`{name}` is not a name: letters, digits, `.`, `_`, `-`", section, attribute, at)
            if name in seen:
                loader.fault(f"`{name}` stands twice in [[{section}]]", section, attribute, at)
            seen.add(name)
    for at, route in enumerate(made["routes"]):
        if not route.backends:
            loader.fault(f"route `{route.model}` has no backend", "routes", "backends", at)
        for name in route.backends:
            if name not in backends:
                loader.fault(f"route `{route.model}` names the unknown backend `{name}`", "routes", "backends", at)
    for section in ("issuers", "tenants", "backends", "routes"):
        if not made[section]:
            loader.fault(f"[[{section}]] is empty: nobody could be served", section)
    issuers = {i.name for i in made["issuers"]}
    for at, tenant in enumerate(made["tenants"]):
        if tenant.issuer is not None and tenant.issuer not in issuers:
            loader.fault(f"tenant `{tenant.id}` names the unknown issuer `{tenant.issuer}`", "tenants", "issuer", at)


def _check_server(loader: _Loader, server: Server) -> None:
    for name in ("data", "control", "ops"):
        try:
            host, _ = host_port(getattr(server, name))
        except ValueError:
            loader.fault(f"`server.{name}` must be host:port", "server", name)
            continue
        if name == "data" and not is_loopback(host) and server.tls is None and server.terminator is None:
            loader.fault("`server.data` is plaintext beyond loopback: give [server.tls] or name the [server.terminator]", "server", name)
    if server.terminator is not None and not server.terminator.peers:
        loader.fault("[server.terminator] needs `peers`, the addresses it connects from", "server")


def _check_reference(loader: _Loader, reference: str | None, section: str, key: str, item: int = 0) -> None:
    if reference is not None and not _REFERENCE.fullmatch(reference):
        loader.fault(f"`{section}.{key}` must be a reference: env:NAME, file:/path or keyvault:vault/secret", section, key, item)
