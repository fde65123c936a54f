"""Numbers and addresses that were written to be read by people and missed by patterns: odd separators, spaced signs, look-alike digits.

`4111.1111.1111.1111`, `4l11 1111 1111 1111`, `D E 8 9 ...`, `jane[at]example[dot]com`, `203[.]0[.]113[.]57`. What proves itself by a check
number needs no more where the separators only join; in what might as well be a list, and without such a proof, a keyword on the left is
asked for. Digits may be letters that look like them, as text recognition and people in a hurry write them: fewer than half.
"""

from __future__ import annotations

import ipaddress
import re

from stdnum import iban

from gateway.providers.local.recognizers.base import MAX_PHRASE, PROVEN, SHAPED, Check, Found, Reading, Recognizer, Rule, compiled, found
from gateway.providers.local.recognizers.identifiers import IBAN_COUNTRIES, IBAN_LENGTHS
from gateway.providers.local.recognizers.numbers import CARD_WORDS, PHONE_WORDS, is_card

_D = "[0-9OoQlIiSsBZzGgq]"  # the first sign is a digit, or words would wait in streams for what they cannot become
_DIGIT_OF = bytes.maketrans(b"OoQlIiSsBZzGgq", b"00011155822699")
_GAP = r"[^0-9A-Za-z]{1,5}"
_NEAR = r"[^0-9A-Za-z]{0,3}"
_OTHER = re.compile(rb"[^0-9A-Za-z]+")
_LISTS = frozenset(b",;|\n\r\t+:=")  # between the numbers of a list or of a table as well
_SSN_WORDS = r"(?i:(?:\b|_)ssns?\b|\bs\.s\.n\.|\bs s n\b|social[ -]{0,2}sec[a-z]*|\bsoc\.? sec|\bss ?(?:#|no\b))[^0-9]{0,24}"
_IP_WORDS = compiled(r"\bip\b|address|\bhost|server|\bping\b")
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"


# --- numbers


def _digits(data: bytes, start: int, end: int) -> tuple[bytes, bytes]:
    """Return the digits of a stretch, letters read as such, and the letters."""
    signs = _OTHER.sub(b"", data[start:end])
    digits = signs.translate(_DIGIT_OF)
    return digits, bytes(a for a, b in zip(signs, digits, strict=True) if a != b)


def _card(reading: Reading, start: int, end: int) -> bool:
    data = reading.data
    said = data[start:end]
    digits, letters = _digits(data, start, end)
    gaps = _OTHER.findall(said)
    if gaps.count(b"\n") == 1 and len(gaps) > 1:
        gaps = [b" " if gap == b"\n" else gap for gap in gaps]  # a line ends within it
    if len(letters) > 5 or len(set(gaps)) > 1 or (gaps and _goes_on(data, start, end, gaps[0])):
        return False
    context = reading.before(start)
    if CARD_WORDS.search(context) is None:
        listed = not gaps or b"\n" in said or (gaps[0].isspace() and len(gaps[0]) > 1) or not _LISTS.isdisjoint(gaps[0])
        if listed or (letters and (gaps[0] not in {b" ", b"-", b"."} or len(letters) > 3 or set(letters) == {66})):
            return False
    return is_card(digits, tuple(len(part) for part in _OTHER.split(said)), context)


def _goes_on(data: bytes, start: int, end: int, gap: bytes) -> bool:
    """Tell whether these are some of more numbers: the same separator stands before them, or behind them with no blank in it."""
    before = data[max(0, start - len(gap) - 1) : start]
    if (before.endswith(gap) and before[:1].isdigit()) or before[-1:] in {b".", b"/", b"-"}:
        return True
    after = data[end : end + len(gap) + 1]
    return not any(chr(sign).isspace() for sign in gap) and after.startswith(gap) and after[len(gap) :].isalnum()


def _social(reading: Reading, start: int, end: int) -> bool:
    said = reading.data[start:end]
    digits, letters = _digits(reading.data, start, end)
    gaps = set(_OTHER.findall(said))
    if len(letters) > 3 or len(gaps) > 2 or any(b"," in gap for gap in gaps):
        return False
    if not letters and not gaps:
        return False  # another recognizer's
    return digits[:3] not in {b"000", b"666"} and digits[:1] != b"9" and digits[3:5] != b"00" and digits[5:] != b"0000"


def _phone(reading: Reading, start: int, end: int) -> bool:
    _, letters = _digits(reading.data, start, end)
    return 0 < len(letters) <= 3 and PHONE_WORDS.search(reading.before(start)) is not None


class DisguisedIban:
    """Reads exactly as many signs as the country's IBAN has, over more separators than are usual, and checks it as it is and as misread."""

    name = "iban_disguised"
    trigger = rf"\b(?:{IBAN_COUNTRIES}[0-9]{{2}}|[A-Za-z][ ._-][A-Za-z](?:[ ._-][0-9]){{2}})"
    phrase = rf"{trigger}(?:[ ._/:|*-]{{0,3}}[0-9A-Za-z]){{0,30}}"

    def find(self, reading: Reading, start: int) -> list[Found]:
        out: list[Found] = []
        match = _IBAN_HEAD.search(reading.data, max(0, start - 1))
        while match is not None:
            begin = match.start()
            end = _iban_end(reading.data, begin) if begin >= start else -1
            if end > 0:
                out.append(found(begin, end, "IBAN_CODE", self.name, 0.97, PROVEN))
            match = _IBAN_HEAD.search(reading.data, begin + 1)
        return out


_IBAN_HEAD = compiled(DisguisedIban.trigger)


def _iban_end(data: bytes, begin: int) -> int:
    """Return where the IBAN that begins here ends, -1 where none does."""
    signs = bytearray()
    size = gap = 0
    for at in range(begin, min(len(data), begin + MAX_PHRASE)):
        sign = data[at : at + 1]
        if sign.isalnum():
            signs += sign
            gap = 0
            if len(signs) == 2:
                size = IBAN_LENGTHS.get(signs.decode("ascii").upper(), 0)
            if len(signs) == size:
                return at + 1 if not data[at + 1 : at + 2].isalnum() and _is_iban(signs) else -1
        elif sign not in b" ._/:|*-" or gap == 3:
            return -1
        else:
            gap += 1
        if len(signs) >= 2 and not size:
            return -1
    return -1


def _is_iban(signs: bytearray) -> bool:
    plain = signs.decode("ascii").upper()
    if sum(map(str.isdigit, plain)) < 8:
        return False
    if iban.is_valid(plain):
        return True
    read = plain[:2] + signs[2:].translate(_DIGIT_OF).decode("ascii").upper()
    return sum(a != b for a, b in zip(plain, read, strict=True)) <= 5 and iban.is_valid(read)


# --- mailboxes

_LOCAL = "[A-Za-z0-9][A-Za-z0-9._%+'-]{0,62}"
_LABEL = "[A-Za-z0-9][A-Za-z0-9-]{0,40}"
_DOMAINS = (
    "(?i:com|org|net|edu|gov|mil|int|info|biz|io|ai|dev|app|xyz|co|me|eu|uk|us|ca|au|nz|de|fr|es|it|nl|pt|ch|at|be|pl|se|no|dk|fi|ie|cz|hu|"
    "gr|ro|ru|ua|tr|il|in|jp|cn|kr|sg|hk|tw|br|mx|ar|cl|za|ng|ke|eg|ae|sa)"
)
_LARGE = "(?i:com|org|net|edu|gov)"
_IN_BRACKETS = r" ?[\[({<] ?(?i:dot|\.) ?[\])}>] ?"
_AT = r"(?: ?[\[({<] ?(?i:at|@) ?[\])}>] ?)"
_DOT = rf"(?:{_IN_BRACKETS}| (?i:dot) |\.)"
_ENDS = r"(?:$|[^0-9A-Za-z_])"
_WORDS_ALIKE = frozenset(b"in it at is me no us be".split())  # domains that are words
_NO_NAMES = frozenset(
    b"look looking us me here online blog site page website live now it is found point aim laughing money worked working work shop "
    b"shopping buy sell more register available".split()
)
_NO_DOMAINS = frozenset(b"the a an this that each every any one no some".split())


def _bracketed(reading: Reading, start: int, end: int) -> bool:
    return any(opened in reading.data[start:end] for opened in (b"[", b"(", b"{", b"<"))


def _half_spelled(reading: Reading, start: int, end: int) -> bool:
    return _bracketed(reading, start, end) or b" dot " in reading.data[start:end].lower()


def _apart(reading: Reading, start: int, end: int) -> bool:
    return b" " in reading.data[start:end]


def _spelled(reading: Reading, start: int, end: int) -> bool:
    """`lunch at the dot`, `more at example dot org` are no addresses."""
    words = reading.data[start:end].replace(b".", b" ").split()
    lower = [word.lower() for word in words]
    at = lower.index(b"at", 1)
    if lower[0] in _NO_NAMES or lower[at + 1] in _NO_DOMAINS:
        return False
    return lower[-1] not in _WORDS_ALIKE or words[at] == b"AT" or words[-2] == b"DOT"


# --- machines


def _defanged(reading: Reading, start: int, end: int) -> bool:
    return _bracketed(reading, start, end) or b"\\" in reading.data[start:end]


def _apart_ip(reading: Reading, start: int, end: int) -> bool:
    data = reading.data
    if data[max(0, start - 3) : start] == b" . " or data[end : end + 3] == b" . ":
        return False
    octets = re.findall(rb"[0-9]+", data[start:end])
    return sum(len(octet) > 1 for octet in octets) > 1 or _IP_WORDS.search(reading.before(start, 24)) is not None


def _misread_ip(reading: Reading, start: int, end: int) -> bool:
    said = reading.data[start:end]
    if said.replace(b".", b"").isdigit() or sum(any(48 <= sign <= 57 for sign in octet) for octet in said.split(b".")) < 2:
        return False
    try:
        ipaddress.IPv4Address(said.translate(_DIGIT_OF).decode("ascii"))
    except ValueError:
        return False
    return _IP_WORDS.search(reading.before(start, 24)) is not None


# --- all of them


def _rule(
    name: str, kind: str, span: str, check: Check | None, trigger: str, *, left: str = "", right: str = "", score: float = 0.9,
    rank: int = SHAPED, phrase: bool = True,
) -> Rule:  # fmt: skip
    return Rule(
        name, kind, span, left=left, right=right, trigger=trigger, score=score, rank=rank, check=check, phrase=phrase, token=True
    )  # fmt: skip


def recognizers() -> list[Recognizer]:
    return [*_numbers(), *_mailboxes(), *_machines()]


def _numbers() -> list[Recognizer]:
    first = "[2-6SZG]"
    fours = rf"{first}{_D}{{3}}(?:{_GAP}{_D}{{4}}){{3}}"
    grouped = rf"{first}{_D}{{3}}{_GAP}{_D}{{4}}{_GAP}{_D}{{4}}{_GAP}{_D}"
    amex = rf"3{_D}{{3}}{_GAP}{_D}{{6}}{_GAP}{_D}{{4,5}}"
    ssn = rf"[0-9]{_D}{{2}}{_NEAR}{_D}{{2}}{_NEAR}{_D}{{4}}|[0-9](?:[^0-9A-Za-z]{{1,3}}{_D}){{2}}(?:(?:{_NEAR}{_D}){{3}}){{2}}"
    phone = rf"[0-9]{_D}{{2}}(?:\)[ .-]{{0,2}}|[ .-]{{0,2}}){_D}{{3}}[ .-]?{_D}{{4}}"
    whole_phone = rf"(?:\+?1[ .-]?)?\(?{phone}(?: ?(?:x|ext\.?) ?[0-9]{{2,5}})?"
    return [
        _rule("disguised_card", "CREDIT_CARD", fours, _card, grouped, score=0.95, rank=PROVEN),
        _rule("disguised_long_card", "CREDIT_CARD", rf"{fours}{_GAP}{_D}{{3}}", _card, grouped, score=0.95, rank=PROVEN),
        _rule("disguised_short_card", "CREDIT_CARD", amex, _card, amex, score=0.95, rank=PROVEN),
        _rule("misread_card", "CREDIT_CARD", rf"{first}{_D}{{14,15}}", _card, rf"{first}{_D}{{14}}", rank=PROVEN, phrase=False),
        _rule("ssn_disguised", "US_SSN", ssn, _social, _SSN_WORDS, left=_SSN_WORDS, rank=PROVEN),
        _rule("misread_phone", "PHONE_NUMBER", whole_phone, _phone, phone, score=0.8),
        DisguisedIban(),
    ]


def _mailboxes() -> list[Recognizer]:
    domain = rf"{_LABEL}(?:{_DOT}{_LABEL}){{0,4}}(?:(?:{_IN_BRACKETS})[A-Za-z]{{2,24}}|(?:\.| (?i:dot) ){_DOMAINS})"
    bracketed = rf"{_LOCAL}(?:{_DOT}{_LABEL}){{0,3}}{_AT}{domain}"
    spelled = (
        rf"{_LOCAL}(?: (?i:dot|underscore|dash) {_LABEL}){{0,3}} (?i:at) {_LABEL}(?:(?: (?i:dot) |\.){_LABEL}){{0,3}} (?i:dot) {_DOMAINS}"
    )
    joined = rf"[A-Za-z0-9.+]{{1,40}}[_-](?i:at)[_-]{_LABEL}[_-](?i:dot)[_-]{_DOMAINS}"
    apart = (
        rf"{_LOCAL} ?@ ?{_LABEL}(?:\.{_LABEL}){{0,4}}\.{_DOMAINS}|{_LOCAL} @ {_LABEL}(?: \. {_LABEL}){{0,4}} \. {_DOMAINS}|"
        rf"{_LOCAL} ?@ ?{_LABEL}(?: ?\. ?{_LABEL}){{0,3}} ?\. ?{_LARGE}"
    )
    spaced = r"(?:[A-Za-z0-9._-] ){2,40}@(?: [A-Za-z0-9-]){1,40}(?: \.(?: [A-Za-z0-9-]){2,40}){1,4}"
    return [
        _rule("bracketed_email", "EMAIL_ADDRESS", bracketed, None, r"[\[({<] ?(?i:at|@) ?[\])}>]", right=_ENDS),
        _rule("half_spelled_email", "EMAIL_ADDRESS", rf"{_LOCAL}@{domain}", _half_spelled, "@", right=_ENDS),
        _rule("spelled_email", "EMAIL_ADDRESS", spelled, _spelled, " (?i:dot) ", right=_ENDS),
        _rule("joined_email", "EMAIL_ADDRESS", joined, None, "[_-](?i:dot)[_-]", right=_ENDS, phrase=False),
        _rule("apart_email", "EMAIL_ADDRESS", apart, _apart, "@", right=_ENDS, score=0.8),
        _rule("spaced_email", "EMAIL_ADDRESS", spaced, None, " @ ", right=_ENDS),
    ]


def _machines() -> list[Recognizer]:
    between = r"(?: ?[\[({] ?(?:\.|(?i:dot)) ?[\])}] ?|\[\.|\\\.|\.)"
    defanged = rf"{_OCTET}(?:{between}{_OCTET}){{3}}"
    apart = rf"{_OCTET}(?: \. {_OCTET}){{3}}|{_OCTET}(?: (?i:dot) {_OCTET}){{3}}"
    misread = r"[0-9OoIl]{1,3}(?:\.[0-9OoIl]{1,3}){3}"
    return [
        _rule("defanged_ip", "IP_ADDRESS", defanged, _defanged, r"[0-9](?: ?[\[({] ?(?:\.|(?i:dot))|\\\.)"),
        _rule("apart_ip", "IP_ADDRESS", apart, _apart_ip, r"[0-9] (?:\.|(?i:dot)) [0-9]"),
        _rule("misread_ip", "IP_ADDRESS", misread, _misread_ip, r"(?i:\bip\b|address|\bhost|server|\bping\b)", score=0.8, phrase=False),
    ]
