"""May this pattern of a policy run on every text? Checked before a set is taken: RE2 alone, bounded, so short that a stream is not held up.

A pattern is characters, escapes, classes, `(?:...)` groups, alternatives and the quantifiers `?`, `{n}` and `{n,m}`. `*`, `+` and `{n,}`
have no bound, anchors have no meaning in a stream: whole words are asked for by `whole_words`, which is the default. Pure.
"""

from __future__ import annotations

import re

import re2

MAX_PATTERN = 256  # characters of the pattern
MAX_LENGTH = 64  # characters of a match: so much of a stream may have to wait for the next piece
_TOKEN = re.compile(r"\\[pP]\{[A-Za-z_]+\}|\\.|\[\^?\]?(?:\\.|\[:[a-z]+:\]|[^\]\\])*\]|\(\?[a-z]*:|.", re.DOTALL)
_COUNT = re.compile(r"\{([0-9]+)(?:,([0-9]*))?\}")
_ANCHORS = frozenset({"^", "$", r"\b", r"\B", r"\A", r"\z"})
_BLANKS = re.compile(r"[ \n\t\r]|\\[sWDPpntrx]|\[\^|\[\[:|(?<!\\)\.")


class PatternUnfit(Exception):
    """The pattern cannot be used; the text says why and what to do."""


def longest(pattern: str) -> int:
    """Return how many characters a match has at most. Raises `PatternUnfit`."""
    if not 0 < len(pattern) <= MAX_PATTERN:
        raise PatternUnfit(f"must have 1 to {MAX_PATTERN} characters")
    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        raise PatternUnfit("is no RE2 pattern: look-around and back-references do not exist there") from error
    if compiled.groups:
        raise PatternUnfit("must not capture: write `(?:...)` for a group")
    if compiled.search("") is not None:
        raise PatternUnfit("must not match the empty text")
    tokens = _tokens(pattern)
    length, at = _alternatives(tokens, 0)
    if at != len(tokens):
        raise PatternUnfit("has unbalanced parentheses")
    if length > MAX_LENGTH:
        raise PatternUnfit(f"may match up to {length} characters: at most {MAX_LENGTH} are allowed")
    return length


def may_hold_blanks(pattern: str) -> bool:
    """Tell whether a match could hold a blank; when in doubt, yes."""
    return _BLANKS.search(pattern) is not None


def _tokens(pattern: str) -> list[str]:
    tokens: list[str] = []
    at = 0
    while at < len(pattern):
        count = _COUNT.match(pattern, at)
        found = count if count is not None else _TOKEN.match(pattern, at)
        if found is None:
            raise PatternUnfit("is no pattern of the kinds that are allowed")
        tokens.append(found.group())
        at = found.end()
    return tokens


def _alternatives(tokens: list[str], at: int) -> tuple[int, int]:
    best = 0
    while True:
        length, at = _sequence(tokens, at)
        best = max(best, length)
        if at >= len(tokens) or tokens[at] != "|":
            return best, at
        at += 1


def _sequence(tokens: list[str], at: int) -> tuple[int, int]:
    total = 0
    while at < len(tokens) and tokens[at] not in {"|", ")"}:
        token = tokens[at]
        if token in _ANCHORS:
            raise PatternUnfit(f"must not use `{token}`: matches are whole words unless `whole_words = false`")
        if token.startswith("(?"):
            length, at = _alternatives(tokens, at + 1)
            if at >= len(tokens):
                raise PatternUnfit("has unbalanced parentheses")
        else:
            length = 1
        at += 1
        factor, at = _repeats(tokens, at)
        total += length * factor
    return total, at


def _repeats(tokens: list[str], at: int) -> tuple[int, int]:
    if at >= len(tokens):
        return 1, at
    if tokens[at] in {"*", "+"}:
        raise PatternUnfit(f"has no bound: write `{{1,20}}` where it has `{tokens[at]}`")
    if tokens[at] == "?":
        return 1, at + 1
    count = _COUNT.fullmatch(tokens[at])
    if count is None:
        return 1, at
    least, most = count.group(1), count.group(2)
    if most == "":
        raise PatternUnfit(f"has no bound: give `{{{least},}}` an upper one")
    return int(most or least), at + 1
