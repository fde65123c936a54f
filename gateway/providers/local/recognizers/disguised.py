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
from gateway.providers.local.recognizers.identifiers import IBAN_LENGTHS
from gateway.providers.local.recognizers.numbers import CARD_WORDS, PHONE_WORDS, is_card

_D = "[0-9OoQlIiSsBZzGgq]"  # the first sign is a digit: words would wait in streams for what they cannot become
_DIGIT_OF = bytes.maketrans(b"OoQlIiSsBZzGgq", b"00011155822699")
_GAP = r"[^0-9A-Za-z]{1,5}"
_NEAR = r"[^0-9A-Za-z]{0,3}"
_OTHER = re.compile(rb"[^0-9A-Za-z]+")
_BLANKS = bytes.maketrans(b"\t\r\n", b"   ")
_LISTS = frozenset(b",;|\n\r\t+:=")  # between the numbers of a list or of a table as well
_SSN_WORDS = compiled(r"(?:\bssn\b|social[ -]{0,2}sec[a-z]*|soc\.? sec|\bss ?#)[^0-9]{0,24}$")
_IP_WORDS = compiled(r"\bip\b|address|\bhost|server|\bping\b")
_IBAN_HEAD = compiled(r"\b[A-Za-z](?:[A-Za-z][0-9]{2}|[ ._-][A-Za-z](?:[ ._-][0-9]){2})")
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_DOMAINS = "com|org|net|edu|gov|mil|int|info|io|co|me|eu|uk|us|ca|au|de|fr|es|it|nl|pt|ch|at|be|pl|se|no|dk|fi|ie|in|br|jp|cn"
_NO_NAMES = frozenset(b"look us me here online blog site page website live now it is found".split())
_LOCAL = "[A-Za-z0-9][A-Za-z0-9._%+-]{0,62}"
_LABEL = "[A-Za-z0-9][A-Za-z0-9-]{0,40}"


def _digits(data: bytes, start: int, end: int) -> tuple[bytes, int]:
    """Return the digits of a stretch, letters read as such, and how many of them were letters."""
    signs = _OTHER.sub(b"", data[start:end])
    digits = signs.translate(_DIGIT_OF)
    return digits, sum(a != b for a, b in zip(signs, digits, strict=True))


def _card(reading: Reading, start: int, end: int) -> bool:
    said = reading.data[start:end]
    digits, letters = _digits(reading.data, start, end)
    gaps = _OTHER.findall(said)
    if letters > 5 or len({gap.translate(_BLANKS) for gap in gaps}) > 1:
        return False
    context = reading.before(start)
    shape = tuple(len(part) for part in _OTHER.split(said))
    named = CARD_WORDS.search(context) is not None
    if not named and (not gaps or not _LISTS.isdisjoint(b"".join(gaps)) or (letters and gaps[0] not in {b" ", b"-"})):
        return False
    return is_card(digits, shape, context)


def _social(reading: Reading, start: int, end: int) -> bool:
    digits, letters = _digits(reading.data, start, end)
    if letters > 3 or digits[:3] in {b"000", b"666"} or digits[3:5] == b"00" or digits[5:] == b"0000":
        return False
    return _SSN_WORDS.search(reading.before(start)) is not None


def _phone(reading: Reading, start: int, end: int) -> bool:
    digits, letters = _digits(reading.data, start, end)
    return 0 < letters <= 3 and digits[0] not in b"01" and PHONE_WORDS.search(reading.before(start)) is not None


class DisguisedIban:
    """Reads exactly as many signs as the country's IBAN has, over more separators than are usual, and checks it as it is and as misread."""

    name = "disguised_iban"
    trigger = r"\b[A-Za-z](?:[A-Za-z][0-9]{2}|[ ._-][A-Za-z](?:[ ._-][0-9]){2})"
    phrase = rf"{trigger}(?:[ ._/:-]{{0,3}}[0-9A-Za-z]){{0,30}}"

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
        elif sign not in b" ._/:-" or gap == 3:
            return -1
        else:
            gap += 1
        if len(signs) >= 2 and not size:
            return -1
    return -1


def _is_iban(signs: bytearray) -> bool:
    plain = signs.decode("ascii").upper()
    if iban.is_valid(plain):
        return True
    read = plain[:2] + signs[2:].translate(_DIGIT_OF).decode("ascii").upper()
    return sum(a != b for a, b in zip(plain, read, strict=True)) <= 5 and iban.is_valid(read)


def _bracketed(reading: Reading, start: int, end: int) -> bool:
    return any(opened in reading.data[start:end] for opened in (b"[", b"(", b"{", b"<"))


def _apart(reading: Reading, start: int, end: int) -> bool:
    said = reading.data[start:end]
    return b" @" in said or b"@ " in said


def _misread_ip(reading: Reading, start: int, end: int) -> bool:
    said = reading.data[start:end]
    if said.isdigit() or not all(any(48 <= sign <= 57 for sign in octet) for octet in said.split(b".")):
        return False
    try:
        ipaddress.IPv4Address(said.translate(_DIGIT_OF).decode("ascii"))
    except ValueError:
        return False
    return any(sign > 57 for sign in said) and _IP_WORDS.search(reading.before(start, 24)) is not None


_AT = r"(?: ?[\[({<] ?(?i:at|@) ?[\])}>] ?)"
_DOT = r"(?: ?[\[({<] ?(?i:dot|\.) ?[\])}>] ?|\.)"


def _not_a_place(reading: Reading, start: int, end: int) -> bool:
    """`lunch at example dot com` is no address; nobody has a mailbox by such a name."""
    first = reading.data[start:end].split(b" ", 1)[0].lower()
    return first not in _NO_NAMES


def _rule(
    name: str, kind: str, span: str, check: Check | None, trigger: str, *, score: float = 0.9, rank: int = SHAPED, phrase: bool = True
) -> Rule:
    return Rule(name, kind, span, trigger=trigger, score=score, rank=rank, check=check, phrase=phrase, token=True)


def recognizers() -> list[Recognizer]:
    return [*_numbers(), *_mailboxes(), *_machines()]


def _numbers() -> list[Recognizer]:
    fours = rf"[2-6]{_D}{{3}}(?:{_GAP}{_D}{{4}}){{3}}"
    grouped = rf"[2-6]{_D}{{3}}{_GAP}{_D}{{4}}{_GAP}{_D}{{4}}{_GAP}{_D}"
    amex = rf"3[47]{_D}{{2}}{_GAP}{_D}{{6}}{_GAP}{_D}{{5}}"
    phone = rf"[0-9]{_D}{{2}}\)?[ .-]{{1,2}}{_D}{{3}}[ .-]{_D}{{4}}"
    return [
        _rule("disguised_card", "CREDIT_CARD", fours, _card, grouped, score=0.95, rank=PROVEN),
        _rule("disguised_long_card", "CREDIT_CARD", rf"{fours}{_GAP}{_D}{{3}}", _card, grouped, score=0.95, rank=PROVEN),
        _rule("disguised_amex", "CREDIT_CARD", amex, _card, amex, score=0.95, rank=PROVEN),
        _rule("misread_card", "CREDIT_CARD", rf"[2-6]{_D}{{14,15}}", _card, rf"[2-6]{_D}{{14}}", rank=PROVEN, phrase=False),
        _rule("disguised_ssn", "US_SSN", rf"[0-9](?:{_NEAR}{_D}){{8}}", _social, r"(?i:\bssn|social|soc\.? sec|\bss ?#)", rank=PROVEN),
        _rule("misread_phone", "PHONE_NUMBER", rf"\(?{phone}", _phone, phone, score=0.8),
        DisguisedIban(),
    ]


def _mailboxes() -> list[Recognizer]:
    spelled = rf"{_LOCAL} (?i:at) {_LABEL}(?: (?i:dot) {_LABEL}){{0,3}} (?i:dot) (?i:{_DOMAINS})"
    joined = rf"[A-Za-z0-9.+]{{1,40}}[_-]at[_-]{_LABEL}[_-]dot[_-](?:{_DOMAINS})"
    apart = rf"{_LOCAL} ?@ ?{_LABEL}(?: ?\. ?{_LABEL}){{0,4}} ?\. ?(?:{_DOMAINS})"
    spaced = r"(?:[A-Za-z0-9._-] ){2,40}@(?: [A-Za-z0-9-]){1,40}(?: \.(?: [A-Za-z0-9-]){2,40}){1,4}"
    domain = rf"{_LABEL}(?:{_DOT}{_LABEL}){{1,5}}"
    return [
        _rule("bracketed_email", "EMAIL_ADDRESS", f"{_LOCAL}{_AT}{domain}", None, r"[\[({<] ?(?i:at|@) ?[\])}>]"),
        _rule("half_bracketed_email", "EMAIL_ADDRESS", f"{_LOCAL}@{domain}", _bracketed, r"[\[({<] ?(?i:dot|\.) ?[\])}>]"),
        _rule("spelled_email", "EMAIL_ADDRESS", spelled, _not_a_place, " (?i:dot) "),
        _rule("joined_email", "EMAIL_ADDRESS", joined, None, "[_-]dot[_-]", phrase=False),
        _rule("apart_email", "EMAIL_ADDRESS", apart, _apart, "@ | @", score=0.8),
        _rule("spaced_email", "EMAIL_ADDRESS", spaced, None, " @ "),
    ]


def _machines() -> list[Recognizer]:
    defanged = rf"{_OCTET}(?:(?:\.|\[\.\]|\(\.\)|\[dot\]|\(dot\)){_OCTET}){{3}}"
    apart = rf"{_OCTET}(?: \. {_OCTET}){{3}}|{_OCTET}(?: (?i:dot) {_OCTET}){{3}}"
    misread = r"[0-9OoIl]{1,3}(?:\.[0-9OoIl]{1,3}){3}"
    return [
        _rule("defanged_ip", "IP_ADDRESS", defanged, _bracketed, r"[0-9][\[(](?:\.|dot)[\])][0-9]", phrase=False),
        _rule("apart_ip", "IP_ADDRESS", apart, None, r"[0-9] (?:\.|(?i:dot)) [0-9]"),
        _rule("misread_ip", "IP_ADDRESS", misread, _misread_ip, misread, score=0.8, phrase=False),
    ]
