"""Is a place in this text inside a tag, a script or the target of a link, for anyone who might show the text?

Readers differ, and so do texts: what is JSON is shown after its escapes were undone. So a place is outside only where four readings say so:
the text as it is and with its escapes undone, each as the HTML standard cuts it into tokens, and as one that takes every quotation mark in
a tag for one and also knows the links of markdown. What never closes stays open; what readers part over, such as an element whose content
is no markup and holds a `<`, is never left again. Cut anywhere, the state is that of the whole: INVARIANT. Sans-I/O.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import re2

_PROSE, _TAG, _QUOTED, _APOSTROPHED, _LINK = 0, 1, 2, 3, 4  # from _LINK on: the depth of parentheses in a link's target
_OPENS = re2.compile(r"<[A-Za-z/!?]|\]\(")
_RUNS = re.compile(r"\\{2,}")  # an escape of an escape
_CODE = "([0-9a-fA-F]{2})"
_ESCAPED = re.compile(rf"\\(?:u\{{0{{0,4}}{_CODE}\}}|u00{_CODE}|U000000{_CODE}|x{_CODE}|([nrt])|([\"'/<>()\[\]]))")
_UNFINISHED = re.compile(r"\\(?:[uU]\{?0{0,6}[0-9a-fA-F]?|u\{0{0,4}[0-9a-fA-F]{2}|x[0-9a-fA-F]?)?\Z")
_LONGEST = 12  # signs of an escape at most

# Of the tokenizer of the HTML standard (13.2.5), the states that matter.
_DATA, _LESS, _CLOSING, _BANG, _BOGUS, _COMMENT, _NAME, _BETWEEN, _ATTRIBUTE, _NAMED, _VALUE = range(11)
_DOUBLE, _SINGLE, _BARE, _ENDED, _RAW, _OPENED, _SHUT = range(11, 18)
_UNTIL = {_DOUBLE: ('"', _ENDED), _SINGLE: ("'", _ENDED), _BOGUS: (">", _DATA)}
_NO_MARKUP = frozenset({"script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes", "noscript"})
_BLANKS = frozenset(" \t\n\r\f")
_COMMENT_ENDS = re.compile("--!?>")


class Markup(NamedTuple):
    """The state after a text. Begin with `Markup()`."""

    loose: tuple[int, str] = (_PROSE, "")
    strict: tuple[int, str] = (_DATA, "")
    loose_undone: tuple[int, str] = (_PROSE, "")
    strict_undone: tuple[int, str] = (_DATA, "")
    tail: str = ""  # half an escape

    @property
    def open(self) -> bool:
        """Tell whether what comes next may be part of markup."""
        return bool(self.loose[0] or self.strict[0] or self.loose_undone[0] or self.strict_undone[0])

    def after(self, text: str) -> Markup:
        """Return the state after more text."""
        undone, tail = self.tail + text, ""
        if "\\" in undone:
            undone = _RUNS.sub(r"\\", undone)
            near = max(0, len(undone) - _LONGEST)
            unfinished = _UNFINISHED.search(undone, near)
            if unfinished is not None:
                undone, tail = undone[: unfinished.start()], unfinished.group()
            undone = _ESCAPED.sub(_sign, undone)
        loose, strict = _loosely(*self.loose, text), _strictly(*self.strict, text)
        if undone == text and self.loose == self.loose_undone and self.strict == self.strict_undone:
            return Markup(loose, strict, loose, strict, tail)
        return Markup(loose, strict, _loosely(*self.loose_undone, undone), _strictly(*self.strict_undone, undone), tail)


def _sign(found: re.Match[str]) -> str:
    *codes, blank, sign = found.groups()
    code = next((code for code in codes if code), "")
    return chr(int(code, 16)) if code else " " if blank else sign


def _loosely(state: int, held: str, text: str) -> tuple[int, str]:
    """Every quotation mark in a tag opens or ends a quotation. `held`: a sign that may begin what opens a tag or a target."""
    text = held + text
    at = 0
    while at < len(text):
        if state == _PROSE:
            opened = _OPENS.search(text, at)
            if opened is None:
                return _PROSE, text[-1] if text[-1] in "<]" else ""
            state = _LINK if opened.group() == "](" else _TAG
            at = opened.end()
            continue
        sign = text[at]
        at += 1
        if state == _TAG:
            state = {">": _PROSE, '"': _QUOTED, "'": _APOSTROPHED}.get(sign, state)
        elif state in (_QUOTED, _APOSTROPHED):
            state = _TAG if sign == ('"' if state == _QUOTED else "'") else state
        elif sign == "(":
            state += 1
        elif sign == ")":
            state = state - 1 if state > _LINK else _PROSE
    return state, ""


def _strictly(state: int, held: str, text: str) -> tuple[int, str]:
    """As the standard says. `held`: the name of the tag, or what of a comment or an element without markup may begin its end."""
    at = 0
    while at < len(text) and state != _SHUT:
        if state == _DATA:
            at = text.find("<", at) + 1
            if not at:
                return _DATA, ""
            state, held = _LESS, ""
        elif state in _UNTIL:
            closing, then = _UNTIL[state]
            at = text.find(closing, at) + 1
            if not at:
                return state, held
            state = then
        elif state == _COMMENT:
            seen = held + text[at:]
            ended = _COMMENT_ENDS.search(seen)
            if ended is None:
                return _COMMENT, seen[-3:]
            at += ended.end() - len(held)
            state, held = _DATA, ""
        elif state == _RAW:
            name, _, before = held.partition(" ")
            seen = before + text[at:].lower()
            end = seen.find(f"</{name}>")
            less = seen.find("<")
            if 0 <= less < (end if end >= 0 else len(seen) - len(name) - 2):
                return _SHUT, ""
            if end < 0:
                return _RAW, f"{name} {seen[-len(name) - 2 :]}"
            at += end + len(name) + 3 - len(before)
            state, held = _DATA, ""
        else:
            state, held = _step(state, held, text[at])
            at += 1
    return state, held


def _step(state: int, held: str, sign: str) -> tuple[int, str]:
    if state == _LESS:
        if sign.isascii() and sign.isalpha():
            return _NAME, sign.lower()
        return {"/": _CLOSING, "!": _BANG, "?": _BOGUS, "<": _LESS}.get(sign, _DATA), ""
    if state == _CLOSING:
        if sign.isascii() and sign.isalpha():
            return _NAME, "/"
        return (_DATA if sign == ">" else _BOGUS), ""
    if state == _BANG:
        if sign == "-":
            return (_OPENED, "") if held else (_BANG, "-")
        return (_DATA if sign == ">" else _BOGUS), ""
    if state == _OPENED:
        if sign == ">":
            return _SHUT, ""  # `<!-->`: a comment without an end for some, none for others
        return (_OPENED, "-") if sign == "-" and not held else (_COMMENT, held + sign)
    if sign == ">":
        if held == "plaintext":
            return _SHUT, ""
        return (_RAW, held + " ") if held in _NO_MARKUP else (_DATA, "")
    if state == _NAME:
        if sign in _BLANKS or sign == "/":
            return _BETWEEN, held
        return _NAME, held if held == "/" or len(held) > 10 else held + sign.lower()
    return _in_tag(state, sign), held


def _in_tag(state: int, sign: str) -> int:
    blank = sign in _BLANKS
    if state == _BARE:
        return _BETWEEN if blank else _BARE
    if state == _VALUE:
        return _VALUE if blank else {'"': _DOUBLE, "'": _SINGLE}.get(sign, _BARE)
    if sign == "/":
        return _BETWEEN
    if state in (_ATTRIBUTE, _NAMED):
        if sign == "=":
            return _VALUE
        return _NAMED if blank else _ATTRIBUTE
    return _BETWEEN if blank else _ATTRIBUTE
