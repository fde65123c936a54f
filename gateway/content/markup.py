"""Is a place in this text inside a tag, a script, a link's target or an address, for anyone who might show the text?

Readers differ, and so do texts: what is JSON is shown after its escapes were undone, once or more often. So a place is outside only where
all readings say so: the text as it is, with its escapes undone once, and with escapes of escapes undone as well, each of them read

- strictly, as the HTML standard cuts a text into tokens;
- loosely, where every quotation mark in a tag is one, and with the links of markdown;
- for addresses: one that begins within a string, brackets or the like goes on to their end, blanks or not, and so does what may be the
  target of a definition or a directive. A bare address in prose ends with its run.

What never closes stays open. What readers part over (a tag within a quotation, a `<` in an element whose content is no markup, forms,
an encoded backslash) is never left again. Cut anywhere, the state is that of the whole: INVARIANT. Linear in the text. Sans-I/O.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_SHUT = 99  # of every reading: never left again

# --- loosely
_PROSE, _TAG, _QUOTED, _APOSTROPHED, _LINK = 0, 1, 2, 3, 4  # from _LINK on: the depth of parentheses in a link's target
_DEEPEST = 90
_OPENING = "<[A-Za-z/!?]"
_NEXT = {
    _PROSE: re.compile(rf"{_OPENING}|\]\("),
    _TAG: re.compile(rf"{_OPENING}|[>\"']"),
    _QUOTED: re.compile(rf'{_OPENING}|"'),
    _APOSTROPHED: re.compile(rf"{_OPENING}|'"),
    _LINK: re.compile("[()<]"),  # `](<`: a target in brackets of its own
}
_MOVES = {
    (_PROSE, "]("): _LINK, (_TAG, ">"): _PROSE, (_TAG, '"'): _QUOTED, (_TAG, "'"): _APOSTROPHED, (_QUOTED, '"'): _TAG,
    (_APOSTROPHED, "'"): _TAG,
}  # fmt: skip

# --- strictly: of the tokenizer of the HTML standard (13.2.5), the states that matter
_DATA, _LESS, _CLOSING, _BANG, _BOGUS, _COMMENT, _NAME, _BETWEEN, _ATTRIBUTE, _NAMED, _VALUE = range(11)
_DOUBLE, _SINGLE, _BARE, _ENDED, _RAW, _OPENED = range(11, 17)
_UNTIL = {_DOUBLE: ('"', _ENDED), _SINGLE: ("'", _ENDED), _BOGUS: (">", _DATA)}
_NO_MARKUP = frozenset({"script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes", "noscript"})
_NEVER_LEFT = frozenset({"plaintext", "form", "select", "option", "button", "base", "meta", "object", "embed", "svg", "math"})
_BLANKS = frozenset(" \t\n\r\f")
_IN_RAW = re.compile(r"[<\\`]")  # markdown's escapes and code hide an end tag
_COMMENT_ENDS = re.compile("--!?>")

# --- for addresses
_CLEAR, _STRING, _LINE, _PARAGRAPH = range(4)
_BEGINS = re.compile(  # an address, or what introduces one: a definition, a directive
    r"\n|[/\\][ \t]{0,3}[/\\]|\]:|\.\.[ \t]|__[ \t]|::|(?i:\bwww\.)|"
    r"(?i:\b(?:https?|ftp|wss?|data|javascript|vbscript|mailto|blob|tel|sms|file):[^\s])"
)
_REACH = 16  # signs of `_BEGINS` at most
_SCHEME = "(?:[A-Za-z][A-Za-z0-9+.-]{0,15}:)"
_BARE_ADDRESS = re.compile(rf"[(*_]{{0,3}}{_SCHEME}?|<{_SCHEME}?|[^\s<]*\]\({_SCHEME}?")  # the other readings know the last two
_IN_STRING = re.compile(rf'(?:\S*[{{\[,:])?"{_SCHEME}?')
_DIRECTIVE = re.compile(r"[ \t>*+-]*(?:\.\.(?:[ \t]|\Z)|__[ \t]|\S*::|@)")
_MARGIN = re.compile(r"[ \t>*+-]*")
_MARGIN_WORD = re.compile(r"[ \t>*+-]*\S*")
_OWN = ("\x01", "\x02")
_MARKS = {1: "\x03", 2: "\x03"}  # signs that `_kept` uses for itself
_HEAD, _NEAR = 24, 160  # signs of a line that tell whether it is a directive, and of it before an address
_PARAGRAPH_ENDS = re.compile(r"\n[ \t]{0,60}\n")
_ENDING = re.compile(r"\n[ \t]{0,60}\Z")

# --- escapes
_CODE = "([0-9a-fA-F]{2})"
_CODES = rf"u\{{0{{0,4}}{_CODE}\}}|u00{_CODE}|U000000{_CODE}|x{_CODE}"
_ONCE = re.compile(rf"\\(?:{_CODES}|(.))", re.DOTALL)
_RUNS = re.compile(r"\\{2,}")
_UNFINISHED = re.compile(r"\\(?:[uU]\{?0{0,6}[0-9a-fA-F]?|u\{0{0,4}[0-9a-fA-F]{2}|x[0-9a-fA-F]?)?\Z")
_LONGEST = 12  # signs of an escape at most


class _Reading(NamedTuple):
    loose: tuple[int, str] = (_PROSE, "")
    strict: tuple[int, str] = (_DATA, "")
    address: tuple[int, str] = (_CLEAR, "")

    def after(self, text: str) -> _Reading:
        return _Reading(_loosely(*self.loose, text), _strictly(*self.strict, text), _addressed(*self.address, text))

    @property
    def open(self) -> bool:
        return bool(self.loose[0] or self.strict[0] or self.address[0])


class Markup(NamedTuple):
    """The state after a text. Begin with `Markup()`."""

    plain: _Reading = _Reading()
    once: _Reading = _Reading()
    again: _Reading = _Reading()
    tail: str = ""  # half an escape, of `once`
    tail_again: str = ""
    shut: bool = False

    @property
    def open(self) -> bool:
        """Tell whether what comes next may be part of markup or of an address."""
        return self.shut or self.plain.open or self.once.open or self.again.open

    def after(self, text: str) -> Markup:
        """Return the state after more text."""
        if self.shut:
            return self
        plain = self.plain.after(text)
        if "\\" not in text and not self.tail and not self.tail_again and self.plain == self.once == self.again:
            return Markup(plain, plain, plain)
        once, tail, shut = _undone(self.tail + text)
        again, tail_again, shut_again = _undone(_RUNS.sub(r"\\", self.tail_again + text))
        if shut or shut_again:
            return Markup(shut=True)
        return Markup(plain, self.once.after(once), self.again.after(again), tail, tail_again)


def _undone(text: str) -> tuple[str, str, bool]:
    """Return a text with its escapes undone, the half of one at its end, and whether one stands for a backslash."""
    tail = ""
    near = max(0, len(text) - _LONGEST)
    unfinished = _UNFINISHED.search(text, near)
    if unfinished is not None:
        at = unfinished.start()
        if (at - len(text[:at].rstrip("\\"))) % 2 == 0:  # else it is the second of two: an escape by itself
            text, tail = text[:at], unfinished.group()
    shut = False

    def sign(found: re.Match[str]) -> str:
        nonlocal shut
        *codes, other = found.groups()
        code = next((code for code in codes if code), "")
        if code.lower() == "5c":
            shut = True
        return chr(int(code, 16)) if code else {"n": "\n", "r": "\r", "t": "\t"}.get(other, other)

    return (_ONCE.sub(sign, text) if "\\" in text else text), tail, shut


def _loosely(state: int, held: str, text: str) -> tuple[int, str]:
    """`held`: a sign that may begin what opens a tag or a target."""
    text = held + text
    at = 0
    while state != _SHUT:
        found = _NEXT[min(state, _LINK)].search(text, at)
        if found is None:
            return state, text[-1] if text and (text[-1] == "<" or (text[-1] == "]" and state == _PROSE)) else ""
        sign = found.group()
        at = found.end()
        if sign[0] == "<":
            state = _TAG if state == _PROSE else _SHUT  # a tag within a quotation, for some readers
        elif state >= _LINK:
            state += 1 if sign == "(" else -1
            state = _PROSE if state < _LINK else _SHUT if state > _DEEPEST else state
        else:
            state = _MOVES[state, sign]
    return _SHUT, ""


def _strictly(state: int, held: str, text: str) -> tuple[int, str]:
    """`held`: the name of the tag, or what of a comment or an element without markup may begin its end."""
    at = 0
    while at < len(text) and state != _SHUT:
        if state == _DATA:
            at = text.find("<", at) + 1
            if not at:
                return _DATA, ""
            state, held = _LESS, ""
        elif state in _UNTIL:
            closing, then = _UNTIL[state]
            end = text.find(closing, at)
            if text.find("<", at, end if end >= 0 else len(text)) >= 0:
                return _SHUT, ""  # markup within, for those who see no quotation here
            if end < 0:
                return state, held
            at, state = end + 1, then
        elif state == _COMMENT:
            seam = _COMMENT_ENDS.search(held + text[at : at + 3])
            ended = _COMMENT_ENDS.search(text, at) if seam is None else None
            end = at + seam.end() - len(held) if seam is not None else ended.end() if ended is not None else -1
            if text.find("<", at, end if end >= 0 else len(text)) >= 0:
                return _SHUT, ""
            if end < 0:
                return _COMMENT, (held + text[max(at, len(text) - 3) :])[-3:]
            at, state, held = end, _DATA, ""
        elif state == _RAW:
            name, _, begun = held.partition(" ")
            if not begun:
                sign = _IN_RAW.search(text, at)
                if sign is None:
                    return _RAW, held
                at = sign.start()
            begun += text[at].lower()
            at += 1
            if not f"</{name}>".startswith(begun):
                return _SHUT, ""
            state, held = (_DATA, "") if begun.endswith(">") else (_RAW, f"{name} {begun}")
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
        if held in _NEVER_LEFT:
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


def _addressed(state: int, held: str, text: str) -> tuple[int, str]:
    """`held`: of a line what tells where an address in it begins (see `_kept`), or of a paragraph what may begin its end."""
    text = held + text.translate(_MARKS)
    done = len(held)  # what ends before was looked at
    at = max(0, done - _REACH) if state == _CLEAR else 0
    line = 0
    while True:
        if state == _CLEAR:
            found = _BEGINS.search(text, at)
            if found is None:
                return _CLEAR, _kept(text[line:])
            at = found.start() + 1
            if found.end() > done:
                if found.group() == "\n":
                    line = at
                else:
                    state = _kind(found.group(), _kept(text[line : found.start()]))
                    at = at if state == _CLEAR else found.end()
        elif state == _PARAGRAPH:
            ended = _PARAGRAPH_ENDS.search(text, at)
            if ended is None:
                ending = _ENDING.search(text, max(at, len(text) - 61))
                return _PARAGRAPH, ending.group() if ending is not None else ""
            at = line = ended.end()
            state = _CLEAR
        else:
            at = line = text.find('"' if state == _STRING else "\n", at) + 1
            if not at:
                return state, ""
            state = _CLEAR


def _kept(line: str) -> str:
    """Return what counts of the beginning of a line: all of it, or whether it is a directive (a control character) and its last signs."""
    if line[:1] in _OWN:
        return line[0] + line[1:][-_NEAR - _REACH :]
    if len(line) <= _HEAD + _NEAR + _REACH:
        return line
    return ("\x01" if _DIRECTIVE.match(line[:_HEAD]) else "\x02") + line[-_NEAR - _REACH :]


def _kind(begins: str, line: str) -> int:
    """Return where an address ends that begins behind `line`."""
    whole = line[:1] not in _OWN
    if begins[:2] in {"..", "__"}:
        return _PARAGRAPH if whole and _MARGIN.fullmatch(line) else _CLEAR
    if begins == "::":
        return _PARAGRAPH if whole and _MARGIN_WORD.fullmatch(line) else _CLEAR
    if begins[0] == "]" or line[:1] == "\x01" or (whole and _DIRECTIVE.match(line[:_HEAD])):
        return _PARAGRAPH
    line = line if whole else line[1:]
    line = line[-_NEAR:]
    at = len(line)
    while at and not line[at - 1].isspace():
        at -= 1
    run, before = line[at:], line[:at].rstrip()
    if len(run) == _NEAR:
        return _PARAGRAPH
    if _IN_STRING.fullmatch(run):
        return _STRING
    if not _BARE_ADDRESS.fullmatch(run):
        return _PARAGRAPH
    if before[-1:] == ":":
        return _LINE
    return _PARAGRAPH if before[-1:] and before[-1] in "([{<\"'`=|" else _CLEAR
