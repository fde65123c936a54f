"""Which operation does a path name? One exact table over `scope["path"]`; everything else is not there.

Sans-I/O. Must never be given a URL: only the path that the edge checked byte by byte (`gateway/http/head.py`), so nothing here is
decoded. Deployment names are percent-decoded once by Azure's convention; ours fit letters, digits, `.`, `_` and `-`, which no
client encodes, so an encoded name is simply not a name.
"""

from __future__ import annotations

import re

import msgspec

from gateway.evidence import Dialect, Operation
from gateway.refusals import METHOD_NOT_ALLOWED, NOT_FOUND, Refusal


class Match(msgspec.Struct, frozen=True):
    """What a request line asks for. `model` is the name in the path, None where the path bears none."""

    operation: Operation
    dialect: Dialect
    model: str | None = None


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

# What follows every prefix: the rest of the path, its operation, its one method. GET operations take no body.
_REST: tuple[tuple[str, Operation], ...] = (
    ("chat/completions", Operation.CHAT),
    ("completions", Operation.COMPLETIONS),
    ("embeddings", Operation.EMBEDDINGS),
    ("moderations", Operation.MODERATIONS),
    ("models", Operation.MODELS_LIST),
)
_OF_REST: dict[str, Operation] = dict(_REST)
_GETS = frozenset({Operation.MODELS_LIST, Operation.MODELS_GET})
_PREFIXES: tuple[tuple[str, Dialect], ...] = (
    ("/v1/", Dialect.OPENAI),
    ("/openai/v1/", Dialect.OPENAI),
    ("/openai/", Dialect.AZURE),
)
_EXACT: dict[str, Match] = {prefix + rest: Match(operation, dialect) for prefix, dialect in _PREFIXES for rest, operation in _REST}


def match(method: str, path: str) -> Match:
    """Return what `method` and `path` ask for. Raises `Refusal` NOT_FOUND or METHOD_NOT_ALLOWED (with `allow`)."""
    found = _EXACT.get(path) or _named(path)
    if found is None:
        raise Refusal(NOT_FOUND)
    allowed = "GET" if found.operation in _GETS else "POST"
    if method != allowed:
        raise Refusal(METHOD_NOT_ALLOWED, headers=(("allow", allowed),))
    return found


def _named(path: str) -> Match | None:
    """Read a path that holds a name. Every pattern is a tuple of segments, so a name can never span or lend a slash."""
    match path.split("/"):
        case ["", "v1", "models", name] | ["", "openai", "v1", "models", name]:
            return _model(Dialect.OPENAI, name)
        case ["", "openai", "models", name]:
            return _model(Dialect.AZURE, name)
        case ["", "openai", "deployments", deployment, *rest]:
            return _deployment(deployment, rest)
        case ["", "v2", "models", name, "infer"] if _NAME.fullmatch(name):
            return Match(Operation.INFER, Dialect.PLAIN, name)
        case ["", "models", name, "score"] if _NAME.fullmatch(name):
            return Match(Operation.SCORE, Dialect.PLAIN, name)
    return None


def _model(dialect: Dialect, name: str) -> Match | None:
    return Match(Operation.MODELS_GET, dialect, name) if _NAME.fullmatch(name) else None


def _deployment(deployment: str, rest: list[str]) -> Match | None:
    if _NAME.fullmatch(deployment) is None:
        return None
    if len(rest) == 2 and rest[0] == "models":
        return _model(Dialect.AZURE, rest[1])
    operation = _OF_REST.get("/".join(rest))
    if operation is None:
        return None
    # Azure's clients put the deployment before every path, `models` too, where it names nothing.
    return Match(operation, Dialect.AZURE, None if operation is Operation.MODELS_LIST else deployment)
