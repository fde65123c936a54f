"""Which policy set is served, and how another takes its place.

A candidate is read, built and tested aside and takes over by one assignment, or not at all. An exchange that began under one
generation ends under it, because its permit holds the set. A directory that vanished, is empty or is half written leaves the
served set as it was.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec

from gateway.policy.decide import PolicySet
from gateway.policy.facts import RouteFacts, Zones
from gateway.policy.faults import Fault, PolicyFaults
from gateway.policy.files import fingerprint, read_files
from gateway.policy.load import build, deny_all, read_invariants


class PolicyStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What readiness reports. `faults` are those of the last attempt; empty means that it was taken over."""

    generation: int
    digest: str
    ready: bool  # False while everything is denied for want of policies
    faults: tuple[Fault, ...] = ()

    @property
    def error(self) -> str:
        return "\n".join(str(fault) for fault in self.faults)


class PolicyHolder:
    """The served set. Raises `PolicyFaults` at construction for a set that is wrong; an absent or empty one denies everything.

    The invariants are read here, once: no later set can bring its own.
    """

    def __init__(
        self,
        directory: Path,
        *,
        routes: Mapping[str, RouteFacts],
        invariants: Path | None = None,
        zones: Zones | None = None,
        tenants: Collection[str] | None = None,
    ) -> None:
        self._directory = directory
        self._routes = dict(routes)
        self._zones = zones or Zones()
        self._tenants = tenants
        self._invariants = read_invariants(invariants) if invariants else None
        self._turn = threading.Lock()
        self._tried = self._seen = fingerprint(directory)
        if self._empty():
            nothing = Fault(directory.name, 0, "there are no policies: everything is denied")
            self.current = deny_all(self._routes, self._zones)
            self.status = PolicyStatus(generation=0, digest=self.current.digest, ready=False, faults=(nothing,))
        else:
            self.current = self._build()
            self.status = PolicyStatus(generation=1, digest=self.current.digest, ready=True)

    def _empty(self) -> bool:
        try:
            return not any(not entry.name.startswith(".") or entry.name == "..data" for entry in self._directory.iterdir())
        except FileNotFoundError:
            return True
        except OSError:
            return False  # it is there and cannot be read: that is a fault, reported by reading it

    def _build(self) -> PolicySet:
        files = read_files(self._directory)
        return build(files, routes=self._routes, zones=self._zones, tenants=self._tenants, invariants=self._invariants)

    @property
    def changed(self) -> bool:
        """Return whether the directory differs from the one last tried. Cheap: file facts only."""
        return fingerprint(self._directory) != self._tried

    def look(self) -> bool:
        """Return whether another set than the one last tried has stood still since the last look; only such a one is worth trying.

        SECURITY: a set that is being copied in may be whole by its own tests before its last forbid has arrived.
        """
        found = fingerprint(self._directory)
        still, self._seen = found == self._seen, found
        return still and found != self._tried

    def reload(self) -> bool:
        """Try the directory again; return whether a set was taken over. Slow: call it off the event loop.

        Safe to call from several threads; they take turns. The same set taken again stays the same generation.
        """
        with self._turn:
            self._tried = fingerprint(self._directory)
            before = self.status
            try:
                candidate = self._build()
            except PolicyFaults as refused:
                self.status = msgspec.structs.replace(before, faults=refused.faults)
                return False
            if candidate.digest != self.current.digest:
                # INVARIANT: complete and tested before this line; readers see the old set or the new one
                self.current = candidate
                before = PolicyStatus(generation=before.generation + 1, digest=candidate.digest, ready=True)
            self.status = msgspec.structs.replace(before, faults=())
            return True
