"""What a decision may look at besides the subject: the route's facts, where the peer is, and what time it is.

Plain data and arithmetic; the clock is an argument. NIST SP 800-162 calls these the object and environment attributes.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Iterable, Mapping

import msgspec

from gateway.evidence import Subject

# From least to most sensitive; a subject's clearance and a model's data class are places in this row.
DATA_CLASSES = ("public", "internal", "confidential", "restricted")

_WEEKDAYS = ("thursday", "friday", "saturday", "sunday", "monday", "tuesday", "wednesday")  # 1970-01-01 was a Thursday

LOOPBACK = "loopback"
EXTERNAL = "external"  # an address in no configured network
UNKNOWN = "unknown"  # not an address at all

_ZONE_CACHE = 4096  # addresses: a flood of distinct peers costs parsing, not memory


class RouteFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What settings say about one client-facing model. `operations` holds values of `Operation`; empty means none are stated."""

    name: str
    operations: frozenset[str] = frozenset()
    data_class: str = "internal"
    region: str = ""
    owner: str = ""

    @property
    def data_level(self) -> int:
        """Return the place of the data class in `DATA_CLASSES`; an unknown class counts as the most sensitive."""
        return DATA_CLASSES.index(self.data_class) if self.data_class in DATA_CLASSES else len(DATA_CLASSES) - 1


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """The circumstances of one request, in the policy schema's names. Time is UTC in whole minutes."""

    zone: str
    data_class: str
    minute_of_day: int
    weekday: str
    token_age_minutes: int
    stream: bool
    kind: str
    region: str
    auth_context: frozenset[str] = frozenset()
    auth_methods: frozenset[str] = frozenset()
    client_auth: str = ""
    device: bool = False
    sign_in_state: frozenset[str] = frozenset()
    sign_in_zone: str = "unknown"

    def as_cedar(self) -> dict[str, object]:
        """Return the record the policy schema declares as `Context`."""
        level = DATA_CLASSES.index(self.data_class) if self.data_class in DATA_CLASSES else len(DATA_CLASSES) - 1
        return {
            "zone": self.zone,
            "data_class": self.data_class,
            "data_level": level,
            "hour": self.minute_of_day // 60,
            "minute_of_day": self.minute_of_day,
            "weekday": self.weekday,
            "token_age_minutes": self.token_age_minutes,
            "stream": self.stream,
            "kind": self.kind,
            "region": self.region,
            "auth_context": sorted(self.auth_context),
            "auth_methods": sorted(self.auth_methods),
            "client_auth": self.client_auth or UNKNOWN,
            "device": self.device,
            "sign_in_state": sorted(self.sign_in_state),
            "sign_in_zone": self.sign_in_zone,
        }


def context_at(
    subject: Subject, route: RouteFacts | None, zone: str, stream: bool, minute: int, *, sign_in_zone: str = "unknown"
) -> Context:
    """Return the context of a request by `subject` in the `minute` since the epoch. A token from the future has age 0."""
    return Context(
        zone=zone,
        data_class=route.data_class if route else DATA_CLASSES[0],
        minute_of_day=minute % 1440,
        weekday=_WEEKDAYS[minute // 1440 % 7],
        token_age_minutes=max(0, minute - subject.issued_at_s // 60),
        stream=stream,
        kind=subject.kind.value,
        region=route.region if route else "",
        auth_context=subject.auth_context,
        auth_methods=subject.auth_methods,
        client_auth=subject.client_auth,
        device=subject.device,
        sign_in_state=subject.sign_in_state,
        sign_in_zone=sign_in_zone,
    )


_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Zones:
    """Names for networks. The narrowest network that holds an address names its zone.

    `loopback` is always known and cannot be widened; a unix socket (no address) counts as loopback. Raises `ValueError` for a
    malformed network or a reserved name.
    """

    def __init__(self, networks: Mapping[str, Iterable[str]] | None = None) -> None:
        table: list[tuple[_Network, str]] = [
            (ipaddress.ip_network("127.0.0.0/8"), LOOPBACK),
            (ipaddress.ip_network("::1/128"), LOOPBACK),
        ]
        for name, blocks in (networks or {}).items():
            if name in (LOOPBACK, EXTERNAL, UNKNOWN):
                raise ValueError(f"zone name `{name}` is reserved")
            table.extend((ipaddress.ip_network(block), name) for block in blocks)
        table.sort(key=lambda row: -row[0].prefixlen)
        self._table = tuple(table)
        self._known: OrderedDict[str, str] = OrderedDict()

    @property
    def names(self) -> frozenset[str]:
        return frozenset({name for _, name in self._table} | {EXTERNAL, UNKNOWN})

    def of(self, peer: str) -> str:
        """Return the zone of a peer address."""
        zone = self._known.get(peer)
        if zone is None:
            zone = self._find(peer)
            self._known[peer] = zone
            if len(self._known) > _ZONE_CACHE:
                self._known.popitem(last=False)
        return zone

    def of_sign_in(self, address: str) -> str:
        """Return the zone of the address a token says the person signed in from; `unknown` where it says none."""
        zone = self.of(address) if address else UNKNOWN
        # SECURITY: nobody signs in to a directory from our own host; `loopback` opens doors and is for connections alone
        return UNKNOWN if zone == LOOPBACK else zone

    def _find(self, peer: str) -> str:
        if not peer:
            return LOOPBACK
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return UNKNOWN
        # SECURITY: a dual-stack listener reports IPv4 peers as ::ffff:a.b.c.d; they must meet the IPv4 rules
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        for network, name in self._table:
            if address.version == network.version and address in network:
                return name
        return EXTERNAL
