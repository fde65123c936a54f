"""What does serving work with? Every part of the house in one frozen value, made once by the composition root.

Parts only: nothing here decides anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from gateway.accounting.prices import TokenPrice
from gateway.audit.record import Pseudonymiser
from gateway.content.inspect import Inspection
from gateway.content.rules import Rules
from gateway.evidence import Dialect, Operation, Subject
from gateway.exchange import Exchange, Fingerprints
from gateway.identity.authenticate import Authenticator
from gateway.policy.holder import PolicyHolder
from gateway.ports import CounterStore, RecordLog
from gateway.schema.tokens import Tokenizer
from gateway.schema.validate import Specs
from gateway.telemetry.metrics import Metrics
from gateway.upstream.forward import Forwarder


class Match(Protocol):
    """What the path table says."""

    @property
    def operation(self) -> Operation: ...
    @property
    def dialect(self) -> Dialect: ...
    @property
    def model(self) -> str | None: ...


class Unauthenticated(Protocol):
    """Counts what is only summarised."""

    def count(self, reason: str) -> None: ...


class Gate:
    """The bulkhead: how many exchanges are in progress, whose bodies are still to come, and whether new ones are taken."""

    __slots__ = ("active", "draining", "uploads")

    def __init__(self) -> None:
        self.active = 0
        self.draining = False
        self.uploads: dict[tuple[str, str, str], int] = {}  # bodies under way, by tenant, issuer and id of the subject


class House(msgspec.Struct, frozen=True, kw_only=True):
    """Everything `serve` works with, made once by the composition root."""

    authenticator: Authenticator
    match: Callable[[str, str], Match]
    policies: PolicyHolder
    specs: Callable[[Any], Specs]
    tokenizer: Tokenizer | None
    counters: CounterStore
    inspection: Inspection
    rules: Callable[[Any, str], Rules]
    log: RecordLog
    prints: Pseudonymiser
    fingerprints: Callable[[Subject], Fingerprints]
    forwarder: Forwarder
    metrics: Metrics
    span: Callable[[Exchange], None] | None
    prices: Mapping[str, TokenPrice]
    unauthenticated: Unauthenticated
    wall_s: Callable[[], float]
    mono_s: Callable[[], float]
    new_id: Callable[[], str]
    nonce: Callable[[], str]
    categories: Callable[[dict[str, float]], tuple[dict[str, bool], dict[str, float]]]
    instance: str
    max_body_bytes: int
    max_exchanges: int
    active: Gate
