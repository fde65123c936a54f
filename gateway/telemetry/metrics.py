"""Which numbers does the gateway show, and which of them deserve an alert? Every metric is named here and nowhere else.

Labels are closed sets: operations, routes of the settings, refusal codes, entity types, backends. Never a subject, a model name
a caller made up, or text. Metrics marked `# ALERT` in their line are the ones a rule should watch.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest

from gateway.telemetry.distribution import Distribution

_LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_LAG = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144)


MAX_PENDING = 2_000  # counts and observations kept aside between scrapes


class Metrics:
    """The metrics of one process. Not shared between threads."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self._counted: dict[tuple[Counter, tuple[str, ...]], float] = {}
        self._reached: dict[tuple[Counter, tuple[str, ...]], float] = {}
        ProcessCollector(registry=r)  # memory, CPU, descriptors and start of this process, read at each scrape
        self.exchanges = Counter("gateway_exchanges", "Finished exchanges", ["operation", "route", "outcome"], registry=r)
        self.refusals = Counter("gateway_refusals", "Refusals by code", ["code"], registry=r)  # ALERT: audit_unavailable, internal_error
        self.duration = Distribution(
            "gateway_exchange_seconds", "Whole exchange, to the last byte", ["operation", "route"], buckets=_LATENCY, registry=r
        )
        self.overhead = Distribution("gateway_overhead_seconds", "Time before forwarding", ["operation"], buckets=_LATENCY, registry=r)
        self.first_byte = Distribution(
            "gateway_first_byte_seconds", "Until the backend's first byte", ["backend"], buckets=_LATENCY, registry=r
        )
        self.tokens = Counter("gateway_tokens", "Tokens by direction", ["route", "direction"], registry=r)
        self.cost = Counter("gateway_cost_microusd", "Cost in millionths of a US dollar", ["tenant"], registry=r)
        self.entities = Counter("gateway_entities", "Entities found", ["type", "direction"], registry=r)
        self.blocks = Counter("gateway_blocks", "Exchanges blocked by inspection", ["reason", "direction"], registry=r)
        self.degraded = Counter("gateway_degraded", "Decisions on a fallback", ["what"], registry=r)  # ALERT: any
        self.malformed = Counter("gateway_malformed_requests", "Requests refused before HTTP", ["fault"], registry=r)
        self.unauthenticated = Counter("gateway_unauthenticated", "Requests without a valid credential", registry=r)
        self.active = Gauge("gateway_active_exchanges", "Exchanges in progress", registry=r)  # ALERT: near server.max_exchanges
        self.leases = Gauge("gateway_active_leases", "Limit leases held", registry=r)
        self.audit_size = Gauge("gateway_audit_records", "Records in the audit log", registry=r)
        self.audit_backlog = Gauge("gateway_audit_backlog", "Records not durable yet", registry=r)  # ALERT: growing
        self.audit_healthy = Gauge("gateway_audit_healthy", "1 while the log can promise durability", registry=r)  # ALERT: 0
        self.policy_generation = Gauge("gateway_policy_generation", "Generation of the policy set in force", registry=r)
        self.policy_healthy = Gauge("gateway_policy_healthy", "0 while the newest policy set is refused", registry=r)  # ALERT: 0
        self.backend_open = Gauge("gateway_backend_open", "1 while a backend's breaker is open", ["backend"], registry=r)  # ALERT: 1
        self.secret_age = Gauge(
            "gateway_secret_age_seconds", "Since the source last confirmed a secret", ["reference"], registry=r
        )  # ALERT: old
        self.secret_healthy = Gauge(
            "gateway_secret_healthy", "0 while a secret's source does not answer for it", ["reference"], registry=r
        )  # ALERT: 0
        self.keys_age = Gauge("gateway_issuer_keys_age_seconds", "Since the last good key fetch", ["issuer"], registry=r)  # ALERT: old
        self.ready = Gauge("gateway_ready", "1 while a part is good, as /readyz names them", ["part"], registry=r)  # ALERT: 0
        self.active_limit = Gauge("gateway_active_exchanges_limit", "server.max_exchanges", registry=r)
        self.loop_lag = Distribution("gateway_loop_lag_seconds", "How late the event loop woke", [], buckets=_LAG, registry=r)
        self.wall_time = Gauge("gateway_wall_time_seconds", "This host's clock at the scrape", registry=r)  # ALERT: away from others
        self.memory_limit = Gauge("gateway_memory_limit_bytes", "Limit of the container, where there is one", registry=r)
        self.certificate = Gauge(
            "gateway_certificate_expiry_seconds", "End of the data port's certificate, since 1970", ["listener"], registry=r
        )
        self.quota_used = Gauge("gateway_quota_used_ratio", "Of the tenant's fullest daily quota", ["tenant"], registry=r)
        self.audit_published = Gauge("gateway_audit_published_records", "Records under the published checkpoint", registry=r)
        self.audit_unclosed = Gauge("gateway_audit_unclosed_at_start", "Exchanges whose end the last run did not record", registry=r)
        self.checkpoint_failures = Counter("gateway_checkpoint_failures", "Checkpoints that did not leave the host", registry=r)
        self.shipping_backlog = Gauge("gateway_shipping_backlog_records", "Durable records a sink lacks", ["sink"], registry=r)
        self.shipping_oldest = Gauge(
            "gateway_shipping_oldest_seconds", "Age of the oldest record a sink lacks", ["sink"], registry=r
        )  # ALERT: old
        self.shipping_differs = Gauge(
            "gateway_shipping_differs", "1 while the log contradicts what was shipped", ["sink"], registry=r
        )  # ALERT: 1
        self.shipping_failures = Counter("gateway_shipping_failures", "Attempts to ship that failed", ["sink"], registry=r)
        self.shipped = Counter("gateway_shipped_records", "Records shipped", ["sink"], registry=r)
        self.cache_entries = Gauge("gateway_finding_cache_entries", "Cached findings", registry=r)
        self.ner_pending = Gauge("gateway_ner_pending", "Texts waiting for the names detector", registry=r)

    def count(self, metric: Counter, amount: float = 1.0, *labels: str) -> None:
        """Add to a counter. Kept aside until the next scrape: the library's locks would be a tenth of an exchange."""
        key = (metric, labels)
        self._counted[key] = self._counted.get(key, 0.0) + amount
        if len(self._counted) > MAX_PENDING:
            self.settle()

    def observe(self, metric: Distribution, value: float, *labels: str) -> None:
        """Observe into a histogram."""
        metric.observe(value, labels)

    def reach(self, metric: Counter, total: float, *labels: str) -> None:
        """Bring a counter up to a total that is counted elsewhere. Never goes back."""
        key = (metric, labels)
        ahead = total - self._reached.get(key, 0.0)
        if ahead > 0:
            self._reached[key] = total
        self.count(metric, max(0.0, ahead), *labels)

    def settle(self) -> None:
        """Hand everything kept aside to the library."""
        counted, self._counted = self._counted, {}
        for (counter, labels), amount in counted.items():
            (counter.labels(*labels) if labels else counter).inc(amount)

    def render(self) -> bytes:
        """Return the page of every metric, up to date."""
        self.settle()
        return generate_latest(self.registry)
