"""Which texts could still grow into a match of this pattern? Derives a pattern of all proper prefixes, so that none is written by hand.

The input is a small subset of RE2 syntax: characters, escapes, classes, `(?:...)` and `(?i:...)` groups, alternation, greedy quantifiers
and `\\b`. For a sequence `ab` the proper prefixes are those of `a`, and `a` followed by those of `b`; for `x{m,n}` up to n-1 whole `x` and a
proper prefix of one; for one character the empty text. INVARIANT: every proper prefix of a matching text matches `prefix_of(pattern)`.
"""

from __future__ import annotations

import re

_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?[a-z]*:|\(|\)|\||[?*+]|\{[0-9]+(?:,[0-9]*)?\}|.", re.DOTALL)
_COUNTED = re.compile(r"\{([0-9]+)(,?)([0-9]*)\}")


def prefix_of(pattern: str) -> str:
    """Return an RE2 pattern matching exactly the proper prefixes (the empty one included) of the matches of `pattern`."""
    tokens = _TOKEN.findall(pattern)
    prefix, _, at = _alternation(tokens, 0)
    if at != len(tokens):
        raise ValueError("unbalanced pattern")
    return prefix


def _alternation(tokens: list[str], at: int) -> tuple[str, str, int]:
    prefixes: list[str] = []
    wholes: list[str] = []
    while True:
        prefix, whole, at = _sequence(tokens, at)
        prefixes.append(prefix)
        wholes.append(whole)
        if at >= len(tokens) or tokens[at] != "|":
            return f"(?:{'|'.join(prefixes)})", f"(?:{'|'.join(wholes)})", at
        at += 1


def _sequence(tokens: list[str], at: int) -> tuple[str, str, int]:
    items: list[tuple[str, str]] = []
    while at < len(tokens) and tokens[at] not in {"|", ")"}:
        prefix, whole, at = _item(tokens, at)
        if at < len(tokens) and (tokens[at] in {"?", "*", "+"} or _COUNTED.fullmatch(tokens[at])):
            prefix, whole = _repeated(prefix, whole, tokens[at])
            at += 1
        items.append((prefix, whole))
    prefix = ""
    for item_prefix, item_whole in reversed(items):
        prefix = f"(?:{item_prefix}|{item_whole}{prefix})" if prefix else item_prefix
    return prefix, "".join(whole for _, whole in items), at


def _item(tokens: list[str], at: int) -> tuple[str, str, int]:
    token = tokens[at]
    if not token.startswith("("):
        return "", token, at + 1
    if token == "(":
        raise ValueError("capturing groups have no place here")
    prefix, whole, at = _alternation(tokens, at + 1)
    if at >= len(tokens):
        raise ValueError("unbalanced pattern")
    return f"{token}{prefix})", f"{token}{whole})", at + 1


def _repeated(prefix: str, whole: str, quantifier: str) -> tuple[str, str]:
    if quantifier == "?":
        return prefix, whole + quantifier
    if quantifier in {"*", "+"}:
        return f"{whole}*{prefix}", whole + quantifier
    counted = _COUNTED.fullmatch(quantifier)
    if counted is None:
        raise ValueError("not a quantifier")
    least, comma, most = counted.groups()
    if comma and not most:
        return f"{whole}*{prefix}", whole + quantifier
    limit = int(most or least) - 1
    return (f"{whole}{{0,{limit}}}{prefix}" if limit > 0 else prefix), whole + quantifier
