"""What does this text say once disguise is taken off, and where in the original is each character of that?

`canonical` undoes what keeps the reader's text and hides it from patterns: ignorable characters, compatibility forms (NFKC), look-alike
letters (UTS #39), marks on Latin letters, percent, HTML and `\\u0040` escapes, those of escapes too. It is local: each canonical character
depends on at most `LOCALITY` original characters before it and `LOOKAHEAD` after, so a stream may be scanned piece by piece. `decoded`
undoes encodings a model would read (base64, hex, ROT13, tag characters ...); it has no offsets. `smuggling` names hidden-character attacks.

Views are for judging. They never replace the text that is forwarded, and they do no I/O.
"""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from urllib.parse import unquote

import msgspec
import re2

from gateway.content.confusables import CONFUSABLES

MAX_IGNORED_RUN = 32  # ignorable characters removed in a row; further ones read as blanks, which bounds how far a view looks back
LOCALITY = MAX_IGNORED_RUN + 18
LOOKAHEAD = 18
MAX_VIEWS = 16  # eight decoders give eleven at most, which leaves room for the likeliest readings of readings
MAX_DECODED = 16_384  # characters of one decoded view

_IGNORED_RANGES = (
    (0xAD, 0xAD), (0x300, 0x36F), (0x61C, 0x61C), (0x115F, 0x1160), (0x180B, 0x180F), (0x200B, 0x200F), (0x202A, 0x202E),
    (0x2060, 0x206F), (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0), (0x1D173, 0x1D17A),
    (0xE0000, 0xE007F), (0xE0100, 0xE01EF),
)  # fmt: skip
_COMPATIBLE_RANGES = (
    (0xA0, 0x24F), (0x1E00, 0x1EFF), (0x2000, 0x200A), (0x2024, 0x2024), (0x202F, 0x202F), (0x205F, 0x218F), (0x2460, 0x24FF),
    (0x3000, 0x3000), (0xFB00, 0xFB06), (0xFE50, 0xFE6F), (0xFF01, 0xFFEF), (0x1D400, 0x1D7FF), (0x1F100, 0x1F1FF),
)  # fmt: skip
_ZERO_DIGITS = (
    0x660, 0x6F0, 0x7C0, 0x966, 0x9E6, 0xA66, 0xAE6, 0xB66, 0xBE6, 0xC66, 0xCE6, 0xD66, 0xE50, 0xED0, 0xF20, 0x1040, 0x17E0, 0x1810,
)  # fmt: skip
_BY_HAND = {
    "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2013": "-", "\u2014": "-",
    "\u2015": "-", "\u2212": "-", "\u2044": "/", "\u2215": "/", "\u2024": ".", "\u3002": ".", "\u00df": "ss", "\u3000": " ", "\u2236": ":",
}  # fmt: skip


def _compatible(char: str) -> str | None:
    if unicodedata.category(char) == "Zs":
        return " "
    plain = "".join(c for c in unicodedata.normalize("NFKD", char) if not unicodedata.combining(c))
    plain = "".join(CONFUSABLES.get(c, c) for c in plain)
    return plain if plain.isascii() and 0 < len(plain) <= 4 and plain.isprintable() and plain.strip() and "..." not in plain else None


def _fold_table() -> dict[int, str]:
    table = {ord(source): target for source, target in CONFUSABLES.items()}
    for begin, end in _COMPATIBLE_RANGES:
        for code in range(begin, end + 1):
            plain = _compatible(chr(code))
            if plain is not None:
                table[code] = plain
    for zero in _ZERO_DIGITS:
        table.update({zero + digit: str(digit) for digit in range(10)})
    table.update({ord(source): target for source, target in _BY_HAND.items()})
    for begin, end in _IGNORED_RANGES:
        table.update(dict.fromkeys(range(begin, end + 1), ""))
    return table


def _char_class(codes: list[int]) -> str:
    ranges: list[list[int]] = []
    for code in sorted(codes):
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "[" + "".join(f"\\U{begin:08x}-\\U{end:08x}" for begin, end in ranges) + "]"


FOLD: Mapping[int, str] = MappingProxyType(_fold_table())  # code -> what reads the same in ASCII; empty: nothing is seen of it
_RESIZING = re.compile(_char_class([code for code, target in FOLD.items() if len(target) != 1]))
_NON_ASCII = re.compile(r"[^\x00-\x7f]+")
_ENTITIES = MappingProxyType(
    {"commat": "@", "amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'", "nbsp": " ", "period": ".", "colon": ":", "lowbar": "_",
     "hyphen": "-", "dash": "-", "plus": "+", "equals": "=", "num": "#", "sol": "/", "lpar": "(", "rpar": ")"}
)  # fmt: skip
_ESCAPE = re.compile(
    r"%(?:25){0,2}(?:2[1-9A-Fa-f]|20(?=[0-9(+])|[3-6][0-9A-Fa-f]|7[0-9A-Ea-e])|&(?:amp;){0,2}(?:#[0-9]{1,6}|#[xX][0-9a-fA-F]{1,5}|"
    + "|".join(_ENTITIES)
    + r");|\\{1,4}(?:u[0-9A-Fa-f]{4}|x[2-7][0-9A-Fa-f])"
)
_PIECE = re.compile(r"[^\x00-\x7f]|" + _ESCAPE.pattern)


class View(msgspec.Struct, frozen=True):
    """A reading of a text. `offsets` and `ends` give each character's source range; None: the same positions as the original."""

    text: str
    offsets: list[int] | None = None
    ends: list[int] | None = None

    def original(self, start: int, end: int) -> tuple[int, int]:
        """Return the original range of the non-empty canonical range [start, end): whole characters and whole escapes."""
        if self.offsets is None or self.ends is None:
            return start, end
        return self.offsets[start], self.ends[end - 1]


def canonical(text: str) -> View:
    """Return the canonical reading. Plain ASCII is returned as it is; offsets are code points."""
    escaped = ("%" in text or "&" in text or "\\" in text) and _ESCAPE.search(text) is not None
    if text.isascii():
        return _with_offsets(text) if escaped else View(text)
    if escaped or _RESIZING.search(text) is not None:
        return _with_offsets(text)
    return View(_NON_ASCII.sub(lambda run: run.group().translate(FOLD), text))


def _with_offsets(text: str) -> View:
    parts: list[str] = []
    offsets: list[int] = []
    ends: list[int] = []
    at = ignored_to = ignored = 0
    for found in _PIECE.finditer(text):
        begin, end = found.span()
        if begin > at:
            parts.append(text[at:begin])
            offsets.extend(range(at, begin))
            ends.extend(range(at + 1, begin + 1))
        at = end
        piece = found.group()
        plain = _unescape(piece)
        if len(plain) == 1:
            plain = FOLD.get(ord(plain), plain)
        if not plain:
            ignored = ignored + 1 if ignored_to == begin else 1
            ignored_to = end
            if ignored <= MAX_IGNORED_RUN:
                continue
            plain = " "
        parts.append(plain)
        offsets.extend([begin] * len(plain))
        ends.extend([end] * len(plain))
    parts.append(text[at:])
    offsets.extend(range(at, len(text)))
    ends.extend(range(at + 1, len(text) + 1))
    return View("".join(parts), offsets, ends)


def _unescape(piece: str) -> str:
    if len(piece) == 1:
        return piece
    if piece[0] == "%":
        return chr(int(piece[-2:], 16))
    name = piece[1:-1].rpartition(";")[2]
    if piece[0] == "\\":
        code = int(piece.lstrip("\\")[1:], 16)
        if code in {0x9, 0xA, 0xD}:
            return " "
    elif name[0] != "#":
        return _ENTITIES[name]
    else:
        code = int(name[2:], 16) if name[1] in "xX" else int(name[1:])
    return chr(code) if 0x20 <= code < 0x110000 and not 0xD800 <= code < 0xE000 else "?"


# --- hidden-character attacks ---------------------------------------------------------------------------------------------------------

_EMOJI_FLAG = re.compile("\U0001f3f4[\U000e0030-\U000e007a]{1,7}\U000e007f")
_TAGS = re.compile("[\U000e0020-\U000e007e]")
_SELECTORS = "\ufe00-\ufe0f\U000e0100-\U000e01ef"
_SELECTOR_RUN = re.compile(f"[{_SELECTORS}]{{3,}}")
_OVERRIDE = re.compile("[\u202d\u202e]")
_DIRECTION = re.compile("[\u202a\u202b\u2066-\u2068]")
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
_ZERO_WIDTH = "\u200b-\u200d\u2060-\u2064\ufeff\u180e\u034f"
_SPLIT_WORD = re.compile(f"[0-9A-Za-z\u00c0-\u024f\u0370-\u052f][{_ZERO_WIDTH}]+(?=[0-9A-Za-z\u00c0-\u024f\u0370-\u052f])")
_LONG_ZERO_WIDTH = re.compile(f"[{_ZERO_WIDTH}]{{8,}}")


def smuggling(text: str) -> frozenset[str]:
    """Return the names of hidden-character attacks in `text`; emoji sequences, flags and right-to-left or Indic prose are none.

    Thresholds: 3 tag characters outside a flag, 3 variation selectors in a row, 1 directional override or 3 embeddings in text without
    right-to-left letters, 3 words split by zero-width characters or 8 of these in a row.
    """
    if text.isascii():
        return frozenset()
    found: set[str] = set()
    if len(_TAGS.findall(_EMOJI_FLAG.sub("", text))) >= 3:
        found.add("unicode_tags")
    if _SELECTOR_RUN.search(text):
        found.add("variation_selectors")
    if _OVERRIDE.search(text) or (len(_DIRECTION.findall(text)) >= 3 and not _RIGHT_TO_LEFT.search(text)):
        found.add("bidi")
    if len(_SPLIT_WORD.findall(text)) >= 3 or _LONG_ZERO_WIDTH.search(text):
        found.add("zero_width")
    return frozenset(found)


_HIDDEN = re.compile(f"[{_ZERO_WIDTH}{_SELECTORS}\u202a-\u202e\u2066-\u2068\U000e0020-\U000e007f]+")


def traces(text: str, begin: int, end: int) -> str:
    """Return what `smuggling` looks at between two places of a long text: runs of hidden characters with their neighbours.

    `smuggling` of what consecutive stretches give, joined, is that of the whole text.
    """
    found = [text[max(0, run.start() - 1) : run.end() + 1] for run in _HIDDEN.finditer(text, begin, end)]
    if found and (written := _RIGHT_TO_LEFT.search(text, begin, end)) is not None:
        found.append(written.group())
    return " ".join((*found, ""))


# --- decoded views --------------------------------------------------------------------------------------------------------------------

_BASE64 = re.compile(r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{16,}={0,2}")
_HEX = re.compile(r"(?<![0-9A-Za-z])(?:(?:0x|\\x)?[0-9A-Fa-f]{2}[ :,]?){8,}(?![0-9A-Za-z])")
_ENCODED_AGAIN = re.compile(r"[0-9A-Fa-f \n]{16,}|(?:[A-Za-z0-9._~-]{0,24}%[0-9A-Fa-f]{2}){3,}[A-Za-z0-9._~-]{0,64}")
_MARKUP = re.compile(r"<!--.{0,200}?-->|</?[A-Za-z][^<>]{0,80}>")
_EMPHASIS = re.compile(r"(?<=[A-Za-z])[*_~`|^\\]{1,4}|[*_~`|^\\]{1,4}(?=[A-Za-z])")
_SPACED = re.compile(r"(?<![A-Za-z0-9])(?:[A-Za-z0-9][ .\-_*|/\u00b7]{1,2}){3,400}[A-Za-z0-9](?![A-Za-z0-9])")
_WORD_GAP = re.compile(r"(?<=[A-Za-z0-9])[ .\-_*|/\u00b7](?=[A-Za-z0-9])")
_LATIN = re.compile("[A-Za-z]")
_LEET = str.maketrans("013457@$!+|8", "oieastasitlb")
_LEET_WORD = re.compile(r"[A-Za-z0-9@$!+|]{1,40}")
_LEET_MIXED = re.compile(r"[A-Za-z][013457@$!+|8]+[A-Za-z]")
LEET_WORDS = 4  # words with digits among their letters from which a text counts as written so throughout
_LEET_SIGN = re.compile(r"[013457@$!+|8]")
_ROT13 = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", "NOPQRSTUVWXYZABCDEFGHIJKLMnopqrstuvwxyzabcdefghijklm")
_URL = re.compile(r"(?:%[0-9A-Fa-f]{2}){1,}")
QUOTED_RUNS = 3  # escapes in one word, as of blanks between words, from which it is a phrase and not a name with an odd letter

_ROT13_WORDS = "|".join(  # the commonest words of English and of requests, as ROT13 writes them
    "gur naq lbh gung jvgu ubj znxr jung lbhe guvf nyy vtaber cerivbhf vafgehpgvba vafgehpgvbaf sebz sbe bs perngr jevgr cebivqr tvir "
    "qrirybc rkcynva qrfpevor fbzrbar crbcyr fgrc uryc cyna thvqr".split()
)

# One linear set decides which decoders are worth running; a name may appear more than once.
_SHAPES = (
    ("base64", r"[A-Za-z0-9+/_-]{15}[A-Za-z0-9+/_=-]"),
    ("hex", r"\b[0-9A-Fa-f]{16}|(?:[0-9A-Fa-f]{2}[ :,]){7}[0-9A-Fa-f]{2}|(?:\\x[0-9A-Fa-f]{2}){4}|(?:0x[0-9A-Fa-f]{2}[ ,]+){4}"),
    ("rot13", rf"(?i)\b(?:{_ROT13_WORDS})\b"),
    ("url", r"%[0-9A-Fa-f]{2}"),
    ("entities", r"&(?:#[0-9xX]|[a-z]{2,6};)"),
    ("markup", r"[A-Za-z]<(?:/?[A-Za-z]|!--)|>[A-Za-z]{1,8}<"),
    ("emphasis", r"[A-Za-z][*_~`|^\\]{1,4}[A-Za-z]"),
    ("leet", r"(?is)(?:[a-z][013457@$!+|8]+[a-z]|\b[0134578@$!][a-z]{2}).*(?:[a-z][013457@$!+|8]+[a-z]|\b[0134578@$!][a-z]{2})"),
    ("spaced", r"\b(?:[A-Za-z0-9][ .\-_*|/]{1,2}){4}[A-Za-z0-9]\b"),
)


def _shape_set() -> re2.Set:
    options = re2.Options()
    options.log_errors = False
    shapes = re2.Set.SearchSet(options)
    for _, pattern in _SHAPES:
        shapes.Add(pattern)
    shapes.Add("zqxcanaryxqz")  # SECURITY: a set that runs out of memory answers with nothing; the canary tells that from "no shape"
    shapes.Compile()
    return shapes


_SHAPE_SET = _shape_set()
_CANARY = len(_SHAPES)


def _shapes(text: str) -> frozenset[str]:
    hits = _SHAPE_SET.Match(text + " zqxcanaryxqz")
    if _CANARY not in hits:
        return frozenset(name for name, _ in _SHAPES)
    return frozenset(_SHAPES[hit][0] for hit in hits if hit != _CANARY) if len(hits) > 1 else frozenset()


def _readable(raw: bytes) -> str:
    """Return the text of decoded bytes when it looks like language, else nothing."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return ""
    letters = sum(char.isalpha() or char == " " for char in text)
    if _ENCODED_AGAIN.fullmatch(text):
        return text[:MAX_DECODED]
    return text[:MAX_DECODED] if len(text) >= 8 and letters >= 0.75 * len(text) and text.isprintable() | ("\n" in text) else ""


def _base64(text: str) -> str:
    def decode(found: re.Match[str]) -> str:
        run = found.group().rstrip("=").replace("-", "+").replace("_", "/")
        try:
            plain = _readable(base64.b64decode(run + "=" * (-len(run) % 4), validate=True)) if len(run) % 4 != 1 else ""
        except binascii.Error:
            plain = ""
        return f" {plain} " if plain else found.group()

    return _BASE64.sub(decode, text)


def _alone(text: str, plain: str) -> str:
    """Return what decoding put into `plain` that `text` does not say: the words around a code must not water down what it hides."""
    known = set(text.split())
    return " ".join(word for word in plain.split() if word not in known)


def _hex(text: str) -> str:
    def decode(found: re.Match[str]) -> str:
        digits = re.sub(r"0x|\\x|[ :,]", "", found.group())
        plain = _readable(bytes.fromhex(digits)) if len(digits) % 2 == 0 else ""
        return f" {plain} " if plain else found.group()

    return _HEX.sub(decode, text)


def _rot13(text: str) -> str:
    return text.translate(_ROT13)


def _unquoted(text: str) -> str:
    once = unquote(text.replace("+", " ") if " " not in text else text, errors="replace")
    return unquote(once, errors="replace") if "%" in once else once


def _quoted_alone(text: str) -> str:
    """Return the decoded runs of a text that writes whole phrases in percent escapes, without the words around them."""
    runs = [word for word in text.split() if len(_URL.findall(word)) >= QUOTED_RUNS]
    return _unquoted(" ".join(runs)).strip() if runs else ""


def _respaced(text: str) -> str:
    def join(found: re.Match[str]) -> str:
        words = re.split(r" {2,}| ?[|/] ?", found.group())
        return " ".join(_WORD_GAP.sub("", word) for word in words)

    return _SPACED.sub(join, text)


def _unleet(text: str) -> str:
    several = len(_LEET_MIXED.findall(text)) >= LEET_WORDS  # then a lone digit is a letter too: 70 is `to`

    def read(found: re.Match[str]) -> str:
        word = found.group()
        core = word.rstrip("!")
        signs = _LEET_SIGN.search(core) is not None
        return core.translate(_LEET) + word[len(core) :] if signs and (several or _LATIN.search(core) is not None) else word

    return _LEET_WORD.sub(read, text)


def _tag_text(text: str) -> str:
    return "".join(chr(ord(char) - 0xE0000) for char in _TAGS.findall(text))


def _selector_text(text: str) -> str:
    if not _SELECTOR_RUN.search(text):
        return ""
    codes = [ord(char) for char in re.findall(f"[{_SELECTORS}]", text)]
    raw = bytes(code - 0xFE00 if code < 0xFE10 else code - 0xE0100 + 16 for code in codes)
    return _readable(raw)


_DECODERS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("url", _unquoted),
    ("markup", lambda text: _MARKUP.sub("", text)),
    ("emphasis", lambda text: _EMPHASIS.sub("", text)),
    ("base64", _base64),
    ("hex", _hex),
    ("spaced", _respaced),
    ("leet", _unleet),
    ("rot13", _rot13),
)


_RANKS = MappingProxyType({"base64": 2, "hex": 2, "rot13": 0, "leet": 0})


def _readings(text: str) -> Iterator[str]:
    """Yield what each decoder makes of `text`, then what each makes of that.

    SECURITY: in this order, and what was taken out of a code first, decoys that can be read in many ways keep nothing out.
    """
    again: list[tuple[int, str]] = []
    for plain, rank in _once(text):
        yield plain
        if rank:
            again.append((rank, plain))
    for _, reading in sorted(again, key=lambda one: -one[0]):
        for plain, _ in _once(reading):
            yield plain


def _once(text: str) -> Iterator[tuple[str, int]]:
    """Yield (reading, how likely it holds another code, 0 for not at all) for each decoder that makes something of `text`."""
    shapes = _shapes(text)
    for name, decode in _DECODERS:
        if name in shapes:
            plain = decode(text)
            if plain != text and plain.strip():
                if name in {"base64", "hex"} and len(alone := _alone(text, plain)) >= 8:
                    yield plain, 0
                    plain = alone
                yield plain, _RANKS.get(name, 1)
                if name == "url" and len(alone := _quoted_alone(text)) >= 8:
                    yield alone, 0


def decoded(text: str) -> list[View]:
    """Return further readings a model could make of `text`, two decodings deep, at most `MAX_VIEWS`, distinct, none equal to `text`."""
    return _decoded(text, canonical(text).text)


def _decoded(text: str, plain: str) -> list[View]:
    readings: list[str] = []
    if not text.isascii():
        readings += [hidden for hidden in (_tag_text(text), _selector_text(text)) if len(hidden) >= 4]
        text = plain
    elif plain != text:
        readings.append(plain)
    for reading in _readings(text[:MAX_DECODED]):
        readings.append(reading)
        if len(readings) >= MAX_VIEWS:
            break
    return [View(reading) for reading in dict.fromkeys(readings) if reading != text][:MAX_VIEWS]


def for_moderation(text: str) -> list[str]:
    """Return the distinct texts to judge, the original first; one element for ordinary prose."""
    readings = [text]
    plain = canonical(text).text
    if not text.isascii() and _disguised(text, plain):
        readings.append(plain)
    return list(dict.fromkeys([*readings, *(view.text for view in _decoded(text, plain))]))[: MAX_VIEWS + 2]


_MIXED_WORD = re.compile("[A-Za-z][\u0370-\u052f\u13a0-\u13ff\u0531-\u058f]|[\u0370-\u052f\u13a0-\u13ff\u0531-\u058f][A-Za-z]")
_STYLED = re.compile("[\u0300-\u036f\u2460-\u24ff\ua4d0-\ua4ff\uff01-\uff5e\U0001d400-\U0001d7ff\U0001f110-\U0001f189]")


def _disguised(text: str, plain: str) -> bool:
    """Tell prose that merely is not ASCII (accents, Cyrillic, CJK) from Latin text written with other characters."""
    if _MIXED_WORD.search(text) or _STYLED.search(text) or _RESIZING.search(text):
        return plain != text
    if len(_LATIN.findall(text, 0, 400)) > 20:
        return False
    return len(_LATIN.findall(plain)) > 4 * len(_LATIN.findall(text)) and not re.search("[\u0370-\u03ff\u0400-\u052f]", plain)
