"""Which operation does a path mean? One exact table over the raw path; whatever is not in it does not exist.

SECURITY: only `scope["path"]` is looked at, after the protocol refused `%`, `//` and dot segments; never a URL put together from
headers.
"""

from __future__ import annotations

import re

import msgspec

from gateway.evidence import Dialect, Operation
from gateway.refusals import METHOD_NOT_ALLOWED, NOT_FOUND, Refusal

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
_POST = {
    "chat/completions": Operation.CHAT,
    "completions": Operation.COMPLETIONS,
    "embeddings": Operation.EMBEDDINGS,
    "moderations": Operation.MODERATIONS,
}
_PREFIXES = (("/openai/v1/", Dialect.OPENAI), ("/v1/", Dialect.OPENAI), ("/openai/", Dialect.AZURE))
_DEPLOYMENTS = "/openai/deployments/"


class Match(msgspec.Struct, frozen=True):
    """What a path means. `model` is the name in the path, None where the body names it."""

    operation: Operation
    dialect: Dialect
    model: str | None = None


def _table() -> dict[str, dict[str, Match]]:
    table: dict[str, dict[str, Match]] = {}
    for prefix, dialect in _PREFIXES:
        for tail, operation in _POST.items():
            table[prefix + tail] = {"POST": Match(operation, dialect)}
        table[prefix + "models"] = {"GET": Match(Operation.MODELS_LIST, dialect)}
    return table


EXACT = _table()


def match(method: str, path: str) -> Match:
    """Return what to do. Raises `Refusal(NOT_FOUND)` and, for a known path, `Refusal(METHOD_NOT_ALLOWED)`."""
    methods = EXACT.get(path) or _named(path)
    if not methods:
        raise Refusal(NOT_FOUND)
    found = methods.get(method)
    if found is None:
        raise Refusal(METHOD_NOT_ALLOWED, headers=(("allow", ", ".join(sorted(methods))),))
    return found


def _named(path: str) -> dict[str, Match] | None:
    if path.startswith(_DEPLOYMENTS):
        name, _, tail = path[len(_DEPLOYMENTS) :].partition("/")
        operation = _POST.get(tail)
        if operation is None or operation is Operation.MODERATIONS or _NAME.fullmatch(name) is None:
            return None
        return {"POST": Match(operation, Dialect.AZURE, name)}
    for prefix, dialect in _PREFIXES:
        if path.startswith(prefix + "models/"):
            name = path[len(prefix) + 7 :]
            return {"GET": Match(Operation.MODELS_GET, dialect, name)} if _NAME.fullmatch(name) else None
    parts = path.split("/")
    if len(parts) == 5 and parts[:3] == ["", "v2", "models"] and parts[4] == "infer" and _NAME.fullmatch(parts[3]):
        return {"POST": Match(Operation.INFER, Dialect.PLAIN, parts[3])}
    if len(parts) == 4 and parts[:2] == ["", "models"] and parts[3] == "score" and _NAME.fullmatch(parts[2]):
        return {"POST": Match(Operation.SCORE, Dialect.PLAIN, parts[2])}
    return None
