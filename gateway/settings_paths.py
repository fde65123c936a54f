"""Where is a relative path of settings? Beside the file it stands in, wherever the command was started.

Pure but for its argument: the tree as TOML gave it is changed in place, before anything is checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from gateway.settings_secrets import REFERENCES

_IDENTITY: Final = ("ca_file", "identity_ca_file", "federated_token_file")
_PATHS: Final[Mapping[str, tuple[str, ...]]] = {
    "policies": ("directory", "invariants"),
    "audit": ("directory", "checkpoint_file"),
    "keys": ("file",),
    "backends": _IDENTITY,
    "directory": _IDENTITY,
    "secrets": _IDENTITY,
    "content_safety": _IDENTITY,
    "audit_sinks": ("directory", *_IDENTITY),
}
_FILE: Final = "file:"


def anchor(raw: Mapping[str, Any], folder: Path) -> None:
    """Make each relative path, and each relative `file:` reference, one from `folder`. What has the wrong type is left to be refused."""
    if folder == Path():
        return
    for section, keys in _PATHS.items():
        for item in _tables(raw.get(section)):
            _each(item, keys, folder, "")
    for section, keys in REFERENCES.items():
        for item in _tables(raw.get(section)):
            _each(item, keys, folder, _FILE)
    server = raw.get("server")
    for item in _tables(server.get("tls")) if isinstance(server, dict) else ():
        _each(item, ("certificate", "key"), folder, "")


def _tables(part: object) -> list[dict[str, Any]]:
    return [item for item in (part if isinstance(part, list) else [part]) if isinstance(item, dict)]


def _each(item: dict[str, Any], keys: tuple[str, ...], folder: Path, prefix: str) -> None:
    for key in keys:
        value = item.get(key)
        if isinstance(value, str) and value.startswith(prefix) and value != prefix:
            item[key] = prefix + str(folder / value.removeprefix(prefix))
