"""What does a scrape show that is not counted as it happens? Gauges read at the scrape, so that serving pays nothing for them.

Reads; changes nothing but metrics. One thing runs between scrapes: a heartbeat that tells how late the event loop wakes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from cryptography import x509

from gateway.audit.log import AuditLog
from gateway.audit.shipper import Shipper
from gateway.audit.store import read_file
from gateway.audit.tree import MAX_NOTE_BYTES
from gateway.content.inspect import Inspection
from gateway.house import House
from gateway.identity.keyset import KeySets
from gateway.providers.local.counters import MemoryCounters
from gateway.providers.local.ner import NerPool
from gateway.settings import Settings
from gateway.telemetry.metrics import Metrics

HEARTBEAT_S: Final = 0.25
_MAX_PEM_BYTES: Final = 1 << 20
_CGROUP: Final = Path("/sys/fs/cgroup/memory.max")


def memory_limit(path: Path = _CGROUP) -> int | None:
    """Return the container's memory limit in bytes, None where there is none."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) if text.isdigit() else None


def certificate_expiry_s(path: Path) -> float | None:
    """Return when the first certificate of a PEM file ends, in seconds since 1970, None where it cannot be read."""
    try:
        return x509.load_pem_x509_certificates(read_file(path, _MAX_PEM_BYTES))[0].not_valid_after_utc.timestamp()
    except (OSError, ValueError, IndexError):
        return None


def published_size(directory: Path) -> int | None:
    """Return the size of the published checkpoint, not verified, None where there is none."""
    try:
        return int(read_file(directory / "checkpoint", MAX_NOTE_BYTES).split(b"\n", 2)[1])
    except (OSError, ValueError, IndexError):
        return None


class Observed:
    """Refreshes the gauges of one process."""

    def __init__(
        self,
        settings: Settings,
        house: House,
        log: AuditLog,
        keysets: KeySets,
        shippers: Sequence[Shipper],
        readiness: Callable[[], Mapping[str, bool]],
        inspection: Inspection,
        ner: NerPool | None,
    ) -> None:
        self._settings = settings
        self._house = house
        self._log = log
        self._keysets = keysets
        self._shippers = shippers
        self._readiness = readiness
        self._inspection = inspection
        self._ner = ner
        self._limit = memory_limit()
        tls = settings.server.tls
        self._certificate = Path(tls.certificate) if tls is not None else None

    def refresh(self) -> None:
        """Bring every gauge up to date. Costs two small file reads and nothing of the hot path."""
        metrics, house, log = self._house.metrics, self._house, self._log
        for part, good in self._readiness().items():
            metrics.ready.labels(part).set(1 if good else 0)
        metrics.active.set(house.active.active)
        metrics.active_limit.set(house.max_exchanges)
        metrics.audit_size.set(log.size)
        metrics.audit_backlog.set(log.backlog)
        metrics.audit_healthy.set(1 if log.healthy else 0)
        metrics.audit_unclosed.set(log.recovery.unclosed)
        published = published_size(Path(self._settings.audit.directory))
        if published is not None:
            metrics.audit_published.set(published)
        metrics.reach(metrics.checkpoint_failures, log.sink_failures)
        metrics.policy_generation.set(house.policies.status.generation)
        metrics.policy_healthy.set(0 if house.policies.status.faults else 1)
        metrics.cache_entries.set(len(self._inspection.cache))
        for name, state in house.forwarder.states().items():
            metrics.backend_open.labels(name).set(1 if state == "open" else 0)
        for issuer, keys in self._keysets.status().items():
            metrics.keys_age.labels(issuer).set(keys.age_s)
        if self._ner is not None:
            metrics.ner_pending.set(self._ner.pending)
        self._machine(metrics)
        self._limits(metrics)
        self._shipping(metrics)

    def _machine(self, metrics: Metrics) -> None:
        metrics.wall_time.set(time.time())
        if self._limit is not None:
            metrics.memory_limit.set(self._limit)
        if self._certificate is not None and (ends_s := certificate_expiry_s(self._certificate)) is not None:
            metrics.certificate.labels("data").set(ends_s)

    def _limits(self, metrics: Metrics) -> None:
        counters = self._house.counters
        if isinstance(counters, MemoryCounters):
            metrics.leases.set(counters.held())
            for tenant, ratio in counters.quota_used(int(time.time() // 86_400)).items():
                metrics.quota_used.labels(tenant).set(ratio)

    def _shipping(self, metrics: Metrics) -> None:
        size, now_s = self._log.size, time.time()
        for shipper in self._shippers:
            name, standing = shipper.name, shipper.standing
            metrics.shipping_backlog.labels(name).set(standing.backlog(size))
            metrics.shipping_oldest.labels(name).set(standing.age_s(size, now_s))
            metrics.shipping_differs.labels(name).set(1 if standing.differs else 0)
            metrics.reach(metrics.shipping_failures, standing.failures, name)
            metrics.reach(metrics.shipped, standing.shipped, name)

    async def heartbeat(self) -> None:
        """Observe how late the loop wakes, until cancelled."""
        metrics = self._house.metrics
        while True:
            due_s = time.monotonic() + HEARTBEAT_S
            await asyncio.sleep(HEARTBEAT_S)
            metrics.observe(metrics.loop_lag, max(0.0, time.monotonic() - due_s))
