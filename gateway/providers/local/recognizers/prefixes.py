"""Which texts could still grow into a match of this pattern? Derives a pattern of all proper prefixes, so that none is written by hand.

The input is a small subset of RE2 syntax: characters, escapes, classes, `(?:...)` and `(?i:...)` groups, alternation, greedy quantifiers
and `\\b`. For a sequence `ab` the proper prefixes are those of `a`, and `a` followed by those of `b`; for `x*` any number of `x` and a
proper prefix of one; for one character the empty text. Counted repetitions are loosened to `*` or `+`, which keeps the automaton small
and only ever holds a text back a little longer. INVARIANT: every proper prefix of a match of a pattern matches `prefix_of(pattern)`; so
it matches `unfinished(pattern)`, as does every match followed by non-blanks.
"""

from __future__ import annotations

import re

_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?[a-z]*:|\(|\)|\||[?*+]|\{[0-9]+(?:,[0-9]*)?\}|.", re.DOTALL)
_COUNTED = re.compile(r"\{[0-9]+(?:,[0-9]*)?\}")
_EXACT = re.compile(r"\{[1-4]\}")


def prefix_of(pattern: str) -> str:
    """Return an RE2 pattern matching at least the proper prefixes (the empty one included) of the matches of `pattern`."""
    return _parsed(pattern)[0]


def unfinished(pattern: str) -> str:
    """Return an RE2 pattern matching at least the texts that more text could turn into a match or change as one."""
    prefix, whole = _parsed(pattern)
    return rf"(?:{prefix}|{whole}[^\s]*)"


def _parsed(pattern: str) -> tuple[str, str]:
    tokens = _TOKEN.findall(pattern)
    prefix, whole, at = _alternation(tokens, 0)
    if at != len(tokens):
        raise ValueError("unbalanced pattern")
    return prefix, whole


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
    prefix = items[-1][0] if items else ""
    for item_prefix, item_whole in reversed(items[:-1]):
        prefix = f"(?:{item_prefix}|{item_whole}{prefix})"
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
    if _EXACT.fullmatch(quantifier):
        size = int(quantifier[1:-1])
        return (f"{whole}{{0,{size - 1}}}{prefix}" if size > 1 else prefix), whole + quantifier
    least = "*" if quantifier[0] == "*" or quantifier.startswith("{0,") else "+"
    return f"{whole}*{prefix}", whole + least
