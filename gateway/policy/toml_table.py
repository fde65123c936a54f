"""Reads one strict TOML document and notes every fault with its line instead of stopping at the first.

Unknown keys are faults: a misspelt key in a policy file must not silently mean "no rule".
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterator
from typing import Any

from gateway.policy.faults import Fault, Path, line_of


class Table:
    """One table of a document, at `path`. Getters return a harmless value after noting a fault; the set is refused anyway."""

    def __init__(self, file: str, text: str, data: dict[str, Any], faults: list[Fault], path: Path = ()) -> None:
        self.file = file
        self.path = path
        self.data = data
        self._text = text
        self._faults = faults

    def fault(self, message: str, *key: str | int) -> None:
        path = (*self.path, *key)
        self._faults.append(Fault(self.file, line_of(self._text, path), message))

    @property
    def line(self) -> int:
        return line_of(self._text, self.path)

    def where(self) -> str:
        return ".".join(str(part) for part in self.path)

    def known(self, *keys: str) -> None:
        for key in self.data:
            if key not in keys:
                self.fault(f"unknown key `{key}`: known here are {', '.join(sorted(keys))}", key)

    def _get(self, key: str, kind: type | tuple[type, ...], words: str, default: Any) -> Any:
        if key not in self.data:
            if default is ...:
                self.fault(f"`{key}` is missing in [{self.where()}]")
                return None
            return default
        value = self.data[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            self.fault(f"`{key}` must be {words}", key)
            return None if default is ... else default
        return value

    def string(self, key: str, default: Any = ...) -> str:
        value = self._get(key, str, "a string", default)
        if value is None:
            return ""
        if default is ... and not value.strip():
            self.fault(f"`{key}` must not be empty", key)
        return str(value)

    def choice(self, key: str, choices: Collection[str], default: Any = ...) -> str:
        value = self._get(key, str, "a string", default)
        if value is not None and value not in choices:
            self.fault(f"`{key}` is `{value}`: use one of {', '.join(choices)}", key)
            value = None
        return str(value) if value is not None else next(iter(choices))

    def integer(self, key: str, low: int, high: int, default: Any = ...) -> int:
        value = self._get(key, int, "a whole number", default)
        if value is not None and not low <= value <= high:
            self.fault(f"`{key}` must be from {low} to {high}", key)
            value = None
        return low if value is None else int(value)

    def number(self, key: str, low: float, high: float, default: Any = ...) -> float:
        value = self._get(key, (int, float), "a number", default)
        if value is not None and not low <= value <= high:
            self.fault(f"`{key}` must be from {low} to {high}", key)
            value = None
        return low if value is None else float(value)

    def boolean(self, key: str, default: Any = ...) -> bool:
        return bool(self._get(key, bool, "true or false", default))

    def strings(self, key: str, default: Any = ()) -> tuple[str, ...]:
        value = self._get(key, list, "a list of strings", list(default) if default is not ... else ...)
        if not value:
            return ()
        if not all(isinstance(item, str) and item for item in value):
            self.fault(f"`{key}` must be a list of strings", key)
            return ()
        if len(set(value)) != len(value):
            self.fault(f"`{key}` names the same thing twice", key)
        return tuple(value)

    def table(self, key: str) -> Table:
        """Return the table under `key`, empty where absent."""
        value = self._get(key, dict, "a table", {})
        return Table(self.file, self._text, value or {}, self._faults, (*self.path, key))

    def tables(self) -> Iterator[tuple[str, Table]]:
        """Yield every member as a table."""
        for key in self.data:
            yield key, self.table(key)

    def array(self, key: str) -> Iterator[Table]:
        """Yield the members of an array of tables."""
        value = self._get(key, list, "an array of tables", [])
        for index, item in enumerate(value or []):
            if not isinstance(item, dict):
                self.fault(f"`{key}` must be an array of tables", key)
                return
            yield Table(self.file, self._text, item, self._faults, (*self.path, key, index))


def read_table(file: str, content: bytes, faults: list[Fault]) -> Table:
    """Parse a document; a syntax error is one fault and an empty table."""
    text = ""
    data: dict[str, Any] = {}
    try:
        text = content.decode("utf-8")
        data = tomllib.loads(text)
    except UnicodeDecodeError:
        faults.append(Fault(file, 0, "the file is not UTF-8"))
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        line = message.rpartition("(at line ")[2].partition(",")[0]
        faults.append(Fault(file, int(line) if line.isdigit() else 0, f"not TOML: {message[:1].lower()}{message[1:]}"))
    except RecursionError:
        faults.append(Fault(file, 0, "not TOML: nested too deeply"))
    return Table(file, text, data, faults)
