"""Remembers what was worked out lately, and never more than so many things. No clock: what is used least goes first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """A bounded map that forgets what was used least recently."""

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._rows: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: K) -> V | None:
        row = self._rows.get(key)
        if row is not None:
            self._rows.move_to_end(key)
        return row

    def put(self, key: K, value: V) -> None:
        self._rows[key] = value
        if len(self._rows) > self._entries:
            self._rows.popitem(last=False)
