"""Where things are: one frozen tree, loaded once, every fault found at once with file and line.

Settings never say what is allowed; policies do. Unknown keys are errors, there is no insecure default, and secrets appear
only as references (`env:NAME`, `file:/path`, `keyvault:vault/secret`). `GATEWAY__SECTION__KEY` in the environment overrides a
scalar of `[section]`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import msgspec

from gateway.settings_bounds import (
    collector_fault,
    is_loopback,
    network_faults,
    number_faults,
    origin_is_name,
    redis_faults,
    route_faults,
)
from gateway.settings_content_safety import content_safety_faults
from gateway.settings_identity import GUID, PERSONAL_ACCOUNTS, Identity, identity_faults, origin_fault
from gateway.settings_paths import anchor
from gateway.settings_secrets import VAULT_SUFFIX, reference_fault, references, secrets_faults
from gateway.settings_sinks import SinkType, has, sink_faults

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


class AuditSink(_Section, Identity, frozen=True, kw_only=True):
    """A second place for the log's records and checkpoints."""

    name: str
    type: SinkType
    directory: str | None = None
    endpoint: str | None = None  # of the storage account's blobs, or of data collection
    container: str | None = None
    connection: str | None = None  # reference to a storage connection string, where there is no identity
    rule: str | None = None  # immutable id of the data collection rule
    stream: str | None = None
    period: Literal["day", "hour"] = "day"  # of one segment
    interval_s: float = 1.0
    timeout_s: float = 30.0
    checkpoint_s: float = 60.0  # between checkpoints put beside; each batch carries its own anyway
    batch_records: int = 1_000
    batch_bytes: int = 900_000
    ca_file: str | None = None


class Issuer(_Section, frozen=True, kw_only=True):
    name: str
    type: Literal["entra", "oidc", "kubernetes", "development"]
    audiences: tuple[str, ...]
    issuer: str | None = None  # exact `iss`; entra derives it from the directories
    directories: tuple[str, ...] = ()  # Entra tenant ids
    jwks_uri: str | None = None  # default: from discovery
    discovery: str | None = None
    algorithms: tuple[str, ...] = ("RS256",)
    authority: str = "https://login.microsoftonline.com"  # Entra; differs in sovereign clouds, as does the next
    sts_authority: str = "https://sts.windows.net"
    applications: tuple[str, ...] = ()  # calling applications accepted (`azp`, `appid`); empty: any
    guests: Literal["deny", "allow"] = "deny"
    groups_overage: Literal["deny", "no_groups", "resolve"] = "deny"
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


class Backend(_Section, Identity, frozen=True, kw_only=True):
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
    password: str | None = None  # reference; in place of one in `url`
    replicas: int = 1  # the local fallback enforces cap / replicas
    budget_ms: int = 25


class InspectionSettings(_Section, frozen=True, kw_only=True):
    ner: bool = True
    ner_workers: int = 1
    ner_queue: int = 64
    second_opinion: bool = True  # profiles that ask for it get it
    countries: tuple[str, ...] = ()  # whose national identifiers to look for; empty: every country's
    cache_entries: int = 50_000


class Directory(_Section, Identity, frozen=True, kw_only=True):
    """Where groups are asked for that did not fit into a token, and as whom."""

    url: str = "https://graph.microsoft.com/v1.0"
    cache_s: int = 600
    ca_file: str | None = None


class Secrets(_Section, Identity, frozen=True, kw_only=True):
    """How vaults are asked, and as whom. `file:` references are read again every few seconds whatever stands here."""

    refresh_s: int = 300  # between two reads of one secret of a vault; rotation takes that long
    timeout_s: float = 10.0
    start_s: float = 20.0  # how long the start insists where a vault says "later"
    vault_suffix: str = VAULT_SUFFIX  # differs in sovereign clouds
    vault_url: Mapping[str, str] = {}  # by vault name, where it is not https://{vault}.{vault_suffix}
    ca_file: str | None = None


class ContentSafety(_Section, Identity, frozen=True, kw_only=True):
    """Azure AI Content Safety, for profiles that ask for it."""

    endpoint: str
    key: str | None = None  # reference, where there is no identity
    deadline_ms: int = 1_500  # for everything one text needs, pieces and waiting included
    max_concurrent: int = 32
    max_waiting: int = 64  # more at once are told at once that it cannot answer
    api_version: str = "2023-10-01"  # of text analysis
    ca_file: str | None = None


class Network(_Section, frozen=True, kw_only=True):
    zones: Mapping[str, tuple[str, ...]] = {}


class Telemetry(_Section, frozen=True, kw_only=True):
    scrapers: tuple[str, ...] = ()  # networks that may read /metrics and the names in /readyz without a token
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    otlp_endpoint: str | None = None
    appinsights: str | None = None  # reference to an Application Insights connection string
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
    directory: Directory | None = None
    secrets: Secrets = Secrets()
    content_safety: ContentSafety | None = None
    audit_sinks: tuple[AuditSink, ...] = ()
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
    "directory": Directory,
    "secrets": Secrets,
    "content_safety": ContentSafety,
    "network": Network,
    "telemetry": Telemetry,
}
_MANY: dict[str, type[_Section]] = {
    "issuers": Issuer,
    "tenants": Tenant,
    "backends": Backend,
    "routes": Route,
    "audit_sinks": AuditSink,
}
_REQUIRED = ("policies", "audit", "issuers", "tenants", "backends", "routes")
_ISSUER_DEFAULTS = {f.name: f.default for f in msgspec.structs.fields(Issuer)}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TENANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


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
        self.given: dict[tuple[str, str], str] = {}  # (section, key) that the environment gave -> the variable

    def fault(self, message: str, section: str = "", key: str = "", item: int = 0) -> None:
        variable = self.given.get((section, key))
        if variable is not None:
            self.faults.append(Fault(f"the environment's `{variable}`", 0, message))
        else:
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
                said = f"{str(error)[0].lower()}{str(error)[1:]}"
                choices = ", ".join(f"`{one}`" for one in _choices(hints[key])) if "enum value" in said else ""
                self.fault(f"`{name}.{key}`: {f'must be one of {choices}' if choices else said}", name, key, item)
        required = {f.name for f in msgspec.structs.fields(cls) if f.required}
        for key in sorted(required - set(value)):
            self.fault(f"[{name}] needs `{key}`", name, item=item)
        broken = (known & set(value)) - set(made) or required - set(made)
        return None if broken else cls(**made)


def _is_text(hint: object) -> bool:
    return hint is str or str in get_args(hint) or get_origin(hint) is Literal or any(get_origin(a) is Literal for a in get_args(hint))


def _choices(hint: object) -> list[str]:
    """Return every word that a type allows, however deep it stands in it."""
    if get_origin(hint) is Literal:
        return [str(one) for one in get_args(hint)]
    return [word for part in get_args(hint) for word in _choices(part)]


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
            loader.given[steps[0], steps[1]] = name


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
    anchor(raw, path.parent)
    made = _sections(loader, raw)
    if not loader.faults:
        _cross_check(loader, made)
        _check_identities(loader, made, environ)
        _check_sinks(loader, made, environ)
        _check_secrets(loader, made, environ)
    if loader.faults:
        raise SettingsFaults(sorted(loader.faults, key=lambda f: f.line))
    return Settings(**made)


def located(path: Path, message: str, section: str, key: str, item: int = 0) -> Fault:
    """Return a fault found after loading, at the line where its key stands."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        text = ""
    loader = _Loader(str(path), text)
    loader.fault(message, section, key, item)
    return loader.faults[0]


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
        if issuer.issuer and "|" in issuer.issuer:
            loader.fault(f"issuer `{issuer.name}`: `issuer` must not hold `|`, which parts the ids of subjects", "issuers", "issuer", at)
    _check_reference(loader, made.get("keys", Keys()).pepper, "keys", "pepper")
    limits: Limits = made.get("limits", Limits())
    _check_reference(loader, limits.password, "limits", "password")
    if limits.password is not None and limits.store != "redis":
        loader.fault("[limits] `password` means nothing for store `memory`", "limits", "password")
    if limits.store == "redis" and not limits.url:
        loader.fault("[limits] store `redis` needs `url`", "limits", "store")
    for key, message in redis_faults(limits.url) if limits.store == "redis" and limits.url else ():
        loader.fault(message, "limits", key)
    if made["server"].workers > 1 and limits.store != "redis":
        loader.fault("several workers need [limits] store `redis`: in-memory limits would multiply by their number", "server", "workers")
    _check_values(loader, made)


def _check_values(loader: _Loader, made: dict[str, Any]) -> None:
    """Check what a type cannot say: ranges, networks, names."""
    for section in (*_SINGLE, *_MANY):
        items = made.get(section) or ()
        for at, item in enumerate(items if section in _MANY else (items,)):
            for key, message in number_faults(section, item) if item else ():
                loader.fault(message, section, key, at)
    for at, route in enumerate(made["routes"]):
        for key, message in route_faults(route):
            loader.fault(f"route `{route.model}`: {message}", "routes", key, at)
    for zone, networks in made.get("network", Network()).zones.items():
        for message in network_faults(networks, f"zone `{zone}`"):
            loader.fault(message, "network", zone)
    telemetry: Telemetry = made.get("telemetry", Telemetry())
    for message in network_faults(telemetry.scrapers, "`telemetry.scrapers`", anyone=False):
        loader.fault(message, "telemetry", "scrapers")
    if telemetry.otlp_endpoint is not None and (fault := collector_fault(telemetry.otlp_endpoint)):
        loader.fault(f"`telemetry.otlp_endpoint`: {fault}", "telemetry", "otlp_endpoint")
    if not origin_is_name(made["audit"].origin):
        loader.fault("`audit.origin` must be printable, without blanks and `+`, at most 256 characters", "audit", "origin")
    keys: Keys = made.get("keys", Keys())
    if keys.enabled and not keys.file:
        loader.fault("[keys] `enabled` needs `file`, where the keys' digests are", "keys", "enabled")


def _check_sinks(loader: _Loader, made: dict[str, Any], environ: Mapping[str, str]) -> None:
    """Check where evidence goes beside the log, and where traces go."""
    seen: set[str] = set()
    for at, sink in enumerate(made["audit_sinks"]):
        who = f"audit sink `{sink.name}`: "
        if not _NAME.fullmatch(sink.name) or sink.name in seen:
            loader.fault(f"{who}its name must be letters, digits, `.`, `_`, `-` and stand once", "audit_sinks", "name", at)
        seen.add(sink.name)
        for key, message in (*sink_faults(sink, made["audit"].directory), *identity_faults(sink, environ)):
            loader.fault(f"{who}{message}", "audit_sinks", key, at)
        for key in ("connection", "client_secret", "client_certificate"):
            _check_reference(loader, getattr(sink, key), "audit_sinks", key, at)
    telemetry: Telemetry = made.get("telemetry", Telemetry())
    _check_reference(loader, telemetry.appinsights, "telemetry", "appinsights")
    if telemetry.appinsights is not None and not has("azure.monitor.opentelemetry.exporter"):
        extra = "pip install 'secure-inference-gateway[appinsights]'"
        loader.fault(f"`telemetry.appinsights`: the appinsights extra is not installed: {extra}", "telemetry", "appinsights")


def _check_secrets(loader: _Loader, made: dict[str, Any], environ: Mapping[str, str]) -> None:
    """Check who opens the vaults that references name, and who judges texts in the cloud."""
    for key, message in secrets_faults(made.get("secrets"), references(made), environ):
        loader.fault(f"[secrets] {message}", "secrets", key)
    for key, message in content_safety_faults(made.get("content_safety"), environ):
        loader.fault(f"[content_safety] {message}", "content_safety", key)
    for section in ("secrets", "content_safety"):
        for key in ("key", "client_secret", "client_certificate"):
            _check_reference(loader, getattr(made.get(section), key, None), section, key)


def _check_identities(loader: _Loader, made: dict[str, Any], environ: Mapping[str, str]) -> None:
    """Check what concerns Entra ID: the identities the gateway shows, and the rules for callers that come from there."""
    directories: set[str] = {d for issuer in made["issuers"] if issuer.type == "entra" for d in issuer.directories}
    shown = [("backends", at, f"backend `{b.name}`: ", b) for at, b in enumerate(made["backends"])]
    directory: Directory | None = made.get("directory")
    if directory is not None:
        shown.append(("directory", 0, "[directory] ", directory))
        if directory.identity in (None, "on_behalf_of"):
            loader.fault("[directory] needs an `identity` of the gateway's own to ask with", "directory", "identity")
        if fault := origin_fault("/".join(directory.url.split("/")[:3])):
            loader.fault(f"[directory] the host of `url` {fault}", "directory", "url")
    for section, at, who, item in shown:
        for key, message in identity_faults(item, environ):
            loader.fault(f"{who}{message}", section, key, at)
        _check_reference(loader, item.client_secret, section, "client_secret", at)
        _check_reference(loader, item.client_certificate, section, "client_certificate", at)
        if item.identity is not None and getattr(item, "credential", None) is not None:
            loader.fault(f"{who}`credential` and `identity` exclude each other", section, "identity", at)
        if item.identity == "on_behalf_of" and item.identity_tenant and item.identity_tenant not in directories:
            loader.fault(f"{who}no Entra issuer trusts `identity_tenant`: there is nobody to speak for", section, "identity_tenant", at)
    for at, issuer in enumerate(made["issuers"]):
        _check_entra(loader, issuer, at, directory)


def _check_entra(loader: _Loader, issuer: Issuer, at: int, directory: Directory | None) -> None:
    who = f"issuer `{issuer.name}`: "
    for tenant in issuer.directories:
        if not GUID.fullmatch(tenant):
            loader.fault(f"{who}`{tenant}` must be a directory id: a lower-case GUID, never `common`", "issuers", "directories", at)
        if tenant == PERSONAL_ACCOUNTS:
            loader.fault(f"{who}the directory of personal accounts cannot be trusted: anyone is in it", "issuers", "directories", at)
    for application in issuer.applications if issuer.type == "entra" else ():
        if not GUID.fullmatch(application):
            loader.fault(f"{who}application `{application}` must be a client id, a lower-case GUID", "issuers", "applications", at)
    if issuer.applications and issuer.type == "kubernetes":
        loader.fault(f"{who}service accounts have no calling application", "issuers", "applications", at)
    if issuer.type != "entra":
        for key in ("guests", "groups_overage", "authority", "sts_authority"):
            if getattr(issuer, key) != _ISSUER_DEFAULTS[key]:
                loader.fault(f"{who}`{key}` is for Entra issuers", "issuers", key, at)
        return
    for key in ("authority", "sts_authority"):
        if fault := origin_fault(getattr(issuer, key)):
            loader.fault(f"{who}`{key}` {fault}", "issuers", key, at)
    if issuer.groups_overage == "resolve" and directory is None:
        loader.fault(f"{who}groups_overage `resolve` needs [directory], which says whom to ask", "issuers", "groups_overage", at)


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
        # SECURITY: `|` and `/` part the ids of subjects in policies and roles; a tenant that held one could look like another.
        if not _TENANT.fullmatch(tenant.id):
            loader.fault(f"tenant `{tenant.id}`: `id` must be lower-case letters, digits, `-`, `_`", "tenants", "id", at)
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
        if name == "control" and not is_loopback(host) and server.tls is None:
            # The terminator vouches for the data port alone; people's tokens are shown on this one.
            loader.fault("`server.control` is plaintext beyond loopback: give [server.tls], which serves both", "server", name)
    if server.terminator is not None and not server.terminator.peers:
        loader.fault("[server.terminator] needs `peers`, the addresses it connects from", "server.terminator")
    for message in network_faults(server.terminator.peers, "[server.terminator] `peers`", anyone=False) if server.terminator else ():
        loader.fault(message, "server.terminator", "peers")


def _check_reference(loader: _Loader, reference: str | None, section: str, key: str, item: int = 0) -> None:
    if reference is not None and (fault := reference_fault(reference)):
        loader.fault(f"`{section}.{key}` {fault}", section, key, item)
