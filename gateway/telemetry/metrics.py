"""Which numbers does the gateway show, and which of them deserve an alert? Every metric is named here and nowhere else.

Labels are closed sets: operations, routes of the settings, refusal codes, entity types, backends. Never a subject, a model name
a caller made up, or text. Metrics marked `# ALERT` in their line are the ones a rule should watch.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144)


MAX_PENDING = 2_000  # counts and observations kept aside between scrapes


class Metrics:
    """The metrics of one process. Not shared between threads."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self._counted: dict[tuple[Counter, tuple[str, ...]], float] = {}
        self._observed: list[tuple[Histogram, tuple[str, ...], float]] = []
        self.exchanges = Counter("gateway_exchanges", "Finished exchanges", ["operation", "route", "outcome"], registry=r)
        self.refusals = Counter("gateway_refusals", "Refusals by code", ["code"], registry=r)  # ALERT: audit_unavailable, internal_error
        self.duration = Histogram(
            "gateway_exchange_seconds", "Whole exchange, to the last byte", ["operation", "route"], buckets=_LATENCY, registry=r
        )
        self.overhead = Histogram("gateway_overhead_seconds", "Time before forwarding", ["operation"], buckets=_LATENCY, registry=r)
        self.first_byte = Histogram(
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
        self.keys_age = Gauge("gateway_issuer_keys_age_seconds", "Since the last good key fetch", ["issuer"], registry=r)  # ALERT: old
        self.cache_entries = Gauge("gateway_finding_cache_entries", "Cached findings", registry=r)
        self.ner_pending = Gauge("gateway_ner_pending", "Texts waiting for the names detector", registry=r)

    def count(self, metric: Counter, amount: float = 1.0, *labels: str) -> None:
        """Add to a counter. Kept aside until the next scrape: the library's locks would be a tenth of an exchange."""
        key = (metric, labels)
        self._counted[key] = self._counted.get(key, 0.0) + amount
        if len(self._counted) > MAX_PENDING:
            self.settle()

    def observe(self, metric: Histogram, value: float, *labels: str) -> None:
        """Observe into a histogram; kept aside like counts."""
        self._observed.append((metric, labels, value))
        if len(self._observed) > MAX_PENDING:
            self.settle()

    def settle(self) -> None:
        """Hand everything kept aside to the library."""
        counted, self._counted = self._counted, {}
        observed, self._observed = self._observed, []
        for (counter, labels), amount in counted.items():
            (counter.labels(*labels) if labels else counter).inc(amount)
        for histogram, labels, value in observed:
            histogram.labels(*labels).observe(value)

    def render(self) -> bytes:
        """Return the page of every metric, up to date."""
        self.settle()
        return generate_latest(self.registry)
