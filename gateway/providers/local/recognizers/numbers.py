"""Which groups of digits are cards, phone numbers, social-security or national numbers? One walk over the digit groups.

From each group of digits the following groups are chained over single separators, up to 19 digits; each chain is offered to the
validators of its length. `phonenumbers` (the data of the E.164 numbering plans) only ever sees such chains. Keywords count on the
left only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

import phonenumbers
import re2
from stdnum import verhoeff
from stdnum.au import abn, tfn
from stdnum.be import nn
from stdnum.br import cnpj, cpf
from stdnum.ca import sin
from stdnum.ch import ssn as ahv
from stdnum.de import idnr
from stdnum.fr import nir
from stdnum.gb import nhs
from stdnum.kr import rrn
from stdnum.nl import bsn
from stdnum.pl import pesel
from stdnum.pt import nif
from stdnum.se import personnummer
from stdnum.us import rtn
from stdnum.za import idnr as za_id

from gateway.providers.local.recognizers.base import PROVEN, SHAPED, WEAK, Found, Reading, compiled, found

MAX_DIGITS = 19
MAX_SPAN = 48
_RUN = re.compile(rb"[0-9]+")
_GAPS = frozenset({b" ", b"-", b".", b"/", b") ", b")-", b")", b" (", b"-(", b"(", b" - ", b" / ", b"  ", b"_"})
_EXTENSION = re.compile(rb" ?(?:x|ext\.? ?|#)[0-9]{2,6}(?![0-9A-Za-z])", re.IGNORECASE)
_DASHES = (b"", b" ", b"-")
_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)

PHONE_WORDS = compiled(
    r"(?:phone|telephone|mobile|cell|\btel|\bfax|\bmob\b|\bph\b|call|dial|desk|whatsapp|sms|text(?: me)?|contact|answering at|"
    r"reach(?:ed)?|hotline|"
    r"messages to|tfno|telf|telefon|handy|rufnummer|cellulare|\bmovil|portable|contato|celular|gsm|mobiel|\bring\b|number is)[^0-9]{0,24}$"
)
CARD_WORDS = compiled(r"card|\bcc\b|visa|maestro|master|amex|debit|credit|karte|carte|tarjeta|carta|kaart|cartao")
_SSN_WORDS = compiled(r"ssn|social|security|\bss ?#|taxpayer|\bitin\b|\btin\b")

_NANP = frozenset({(b"-", b"-"), (b".", b"."), (b") ", b"-"), (b")", b"-"), (b") ", b" "), (b")-", b"-"), (b") ", b"."), (b")", b".")})
_REGIONS = ("US", "GB", "FR", "DE", "ES", "IT", "NL", "PT", "CH", "AT", "BE", "SE", "AU", "IN", "BR", "PL")


class Chain:
    """Consecutive digit groups: `groups`, the `gaps` between them, and the ends of each."""

    __slots__ = ("digits", "end", "gaps", "shape", "start")

    def __init__(self, start: int, end: int, digits: bytes, shape: tuple[int, ...], gaps: tuple[bytes, ...]) -> None:
        self.start = start
        self.end = end
        self.digits = digits
        self.shape = shape
        self.gaps = gaps

    @property
    def even(self) -> bool:
        """All separators alike, and of the kind that only joins."""
        return not self.gaps or (len(set(self.gaps)) == 1 and self.gaps[0] in _DASHES)


def _valid(check: Callable[[str], bool]) -> Callable[[bytes], bool]:
    return lambda digits: bool(check(digits.decode("ascii")))


# length -> (type, validator, keyword that must be near, shapes that need no keyword)
_National = tuple[str, Callable[[bytes], bool], re2._Regexp, frozenset[tuple[int, ...]]]
_NONE: frozenset[tuple[int, ...]] = frozenset()
_NATIONAL: Mapping[int, tuple[_National, ...]] = MappingProxyType(
    {
        8: (("AU_TFN", _valid(tfn.is_valid), compiled(r"tax file|\btfn\b"), _NONE),),
        9: (
            ("CA_SIN", _valid(sin.is_valid), compiled(r"\bsin\b|social insurance|assurance sociale"), _NONE),
            ("AU_TFN", _valid(tfn.is_valid), compiled(r"tax file|\btfn\b"), _NONE),
            ("NL_BSN", _valid(bsn.is_valid), compiled(r"\bbsn\b|burgerservice|sofi"), _NONE),
            ("PT_NIF", _valid(nif.is_valid), compiled(r"\bnif\b|contribuinte|\bnipc\b"), _NONE),
            ("ABA_ROUTING_NUMBER", _valid(rtn.is_valid), compiled(r"routing|\baba\b|\brtn\b"), _NONE),
        ),
        10: (
            ("UK_NHS", _valid(nhs.is_valid), compiled(r"\bnhs\b|health service"), _NONE),
            (
                "SE_PERSONNUMMER",
                _valid(personnummer.is_valid),
                compiled(r"personnummer|personal (?:identity )?n|svensk"),
                frozenset({(6, 4)}),
            ),
            ("AU_MEDICARE", lambda digits: digits[:1] in b"23456", compiled(r"medicare"), _NONE),
        ),
        11: (
            ("DE_TAX_ID", _valid(idnr.is_valid), compiled(r"steuer|identifikationsnummer|\bidnr|tax id|\btin\b"), _NONE),
            ("PL_PESEL", _valid(pesel.is_valid), compiled(r"pesel"), _NONE),
            ("BR_CPF", _valid(cpf.is_valid), compiled(r"\bcpf\b"), frozenset({(3, 3, 3, 2)})),
            (
                "BE_NATIONAL_NUMBER",
                _valid(nn.is_valid),
                compiled(r"rijksregister|registre national|national num"),
                frozenset({(2, 2, 2, 3, 2)}),
            ),
            ("AU_ABN", _valid(abn.is_valid), compiled(r"\babn\b|business number"), _NONE),
            ("AU_MEDICARE", lambda digits: digits[:1] in b"23456", compiled(r"medicare"), _NONE),
        ),
        12: (
            (
                "IN_AADHAAR",
                lambda d: d[:1] not in b"01" and verhoeff.is_valid(d.decode()),
                compiled(r"aadha+r|\buid(?:ai)?\b"),
                frozenset({(4, 4, 4)}),
            ),
            ("SE_PERSONNUMMER", _valid(personnummer.is_valid), compiled(r"personnummer"), frozenset({(8, 4)})),
        ),
        13: (
            ("ZA_ID_NUMBER", _valid(za_id.is_valid), compiled(r"south africa|\bid\b|identity"), _NONE),
            ("KR_RRN", _valid(rrn.is_valid), compiled(r"resident|\brrn\b"), frozenset({(6, 7)})),
            ("CH_AHV", lambda d: d[:3] == b"756" and ahv.is_valid(d.decode()), compiled(r"ahv|avs"), frozenset({(3, 4, 4, 2), (13,)})),
        ),
        14: (("BR_CNPJ", _valid(cnpj.is_valid), compiled(r"cnpj"), frozenset({(2, 3, 3, 4, 2)})),),
        15: (
            (
                "FR_NIR",
                lambda d: d[:1] in b"1234" and nir.is_valid(d.decode()),
                compiled(r"s.curit|nir\b|insee"),
                frozenset({(15,), (13, 2), (1, 2, 2, 2, 3, 3, 2), (1, 2, 2, 2, 3, 3, 2)}),
            ),
        ),
    }
)


_QUIET_SHAPES = frozenset({(3, 2, 4), (3, 3, 4), (1, 3, 3, 4)}).union(*(shapes for rows in _NATIONAL.values() for *_, shapes in rows))
_ANY_WORD = compiled(
    "|".join(
        keyword.pattern.decode("ascii")
        for keyword in [PHONE_WORDS, CARD_WORDS, _SSN_WORDS, *(row[2] for rows in _NATIONAL.values() for row in rows)]
    )
)


class Numbers:
    """Every digit group is a possible start."""

    name = "numbers"
    trigger = r"[0-9](?:[ ./()_-]{0,3}[0-9]){6}"
    phrase = r"(?:\+ ?|\(\+?|\+\()?[0-9]+(?:[ ./()_-]{1,3}[0-9]+)*(?: ?(?:[xX]|[eE][xX][tT]\.? ?|#)[0-9]{2,6})?"

    def find(self, reading: Reading, start: int) -> list[Found]:
        data = reading.data
        runs = [match.span() for match in _RUN.finditer(data, start)]
        if runs and runs[0][0] == start and start and 48 <= data[start - 1] <= 57:
            runs = runs[1:]
        out: list[Found] = []
        for index in range(len(runs)):
            if _spaced_out(data, runs, index):
                _spaced_card(data, runs, index, out)
                continue
            chains = _chains(reading, runs, index)
            if chains:
                _judge(reading, chains, out)
        return [candidate for candidate in out if candidate.start >= start]


def _chains(reading: Reading, runs: list[tuple[int, int]], index: int) -> list[Chain]:
    """Return every admissible chain that begins with group `index`, the longest first."""
    data = reading.data
    start, end = runs[index]
    total = end - start
    if total > MAX_DIGITS or not _opens(data, start):
        return []
    quiet = b"+" not in data[max(0, start - 2) : start] and _ANY_WORD.search(reading.before(start)) is None
    gaps: list[bytes] = []
    shape = [total]
    chains: list[Chain] = []
    while True:
        if total >= 7 and (not quiet or _promising(shape, gaps, total, data[start])) and _closes(data, end):
            digits = b"".join(data[b:e] for b, e in runs[index : index + len(shape)])
            chains.append(Chain(start, end, digits, tuple(shape), tuple(gaps)))
        index_next = index + len(shape)
        if index_next >= len(runs):
            break
        begin, following = runs[index_next]
        gap = data[end:begin]
        total += following - begin
        if total > MAX_DIGITS or following - start > MAX_SPAN or gap not in _GAPS:
            break
        gaps.append(gap)
        shape.append(following - begin)
        end = following
    chains.reverse()
    return chains


def _promising(shape: list[int], gaps: list[bytes], total: int, first: int) -> bool:
    """Tell whether digits that no keyword announces can be anything: the check is cheap, tables of numbers are long."""
    if tuple(shape) in _QUIET_SHAPES:
        return True
    if first == 48:
        return total >= 9 and len(shape) <= 5
    return total >= 12 and len(set(gaps)) < 2 and (len(shape) == 1 or (min(shape[:-1]) >= 3 and max(shape) <= 6))


def _spaced_out(data: bytes, runs: list[tuple[int, int]], index: int) -> bool:
    """Tell whether a chain of twelve or more single digits over one separator begins here: only a card is written so."""
    start = runs[index][0]
    if index + 12 > len(runs) or runs[index + 11][1] - start > 12 + 11:
        return False
    window = data[start : start + 23]
    return window[0::2].isdigit() and window[1] in b" -./_" and len(set(window[1::2])) == 1 and len(window) == 23


def _spaced_card(data: bytes, runs: list[tuple[int, int]], index: int, out: list[Found]) -> None:
    start = runs[index][0]
    if data[start] not in b"23456" or not _opens(data, start):
        return
    gap = data[start + 1 : runs[index + 1][0]]
    size = 1
    while size < MAX_DIGITS and index + size < len(runs):
        begin, end = runs[index + size]
        if end - begin != 1 or data[begin - len(gap) : begin] != gap or runs[index + size - 1][1] != begin - len(gap):
            break
        size += 1
    digits = bytes(data[runs[index + at][0]] for at in range(size))
    for length in range(size, 11, -1):
        end = runs[index + length - 1][1]
        if _closes(data, end) and is_card(digits[:length], (1,) * length, b""):
            out.append(found(start, end, "CREDIT_CARD", "card", 0.98, PROVEN))


def _opens(data: bytes, start: int) -> bool:
    if start == 0:
        return True
    before = data[start - 1 : start]
    if before.isalpha() or before == b"_":
        return data[start - 2 : start - 1] == b"\\" and before in {b"n", b"t", b"r"}
    return not (before in {b".", b"-", b"/", b","} and start > 1 and data[start - 2 : start - 1].isdigit())


def _closes(data: bytes, end: int) -> bool:
    after = data[end : end + 2]
    if after[:1].isalpha() or after[:1] == b"_":
        return _EXTENSION.match(data, end) is not None
    return not (after[:1] in {b"-", b".", b"/", b":", b",", b"%"} and (after[1:].isdigit() or after[:1] == b"%"))


def _judge(reading: Reading, chains: list[Chain], out: list[Found]) -> None:
    phone = date = False
    context = b""
    for chain in chains:
        if not context:
            context = reading.before(chain.start)
        date = _is_date(chain)
        if chain.even and len(chain.digits) >= 12 and is_card(chain.digits, chain.shape, context):
            out.append(found(chain.start, chain.end, "CREDIT_CARD", "card", 0.98, PROVEN))
        if not date:
            _social(chain, context, out)
            _nationals(chain, context, out)
        if not phone and not date:
            candidate = _phone(reading, chain, context)
            if candidate is not None:
                out.append(candidate)
                phone = True


def _is_date(chain: Chain) -> bool:
    if len(chain.shape) < 3 or chain.gaps[0] not in {b"-", b"/", b"."} or chain.gaps[0] != chain.gaps[1]:
        return False
    year, month, day = (int(part) for part in _parts(chain)[:3])
    if chain.shape[0] == 4:
        return 1800 <= year <= 2199 and 1 <= month <= 12 and 1 <= day <= 31
    return chain.shape[:3] in {(2, 2, 4), (1, 2, 4), (2, 1, 4), (1, 1, 4)} and 1800 <= day <= 2199 and year <= 31 and month <= 31


def _parts(chain: Chain) -> list[bytes]:
    parts: list[bytes] = []
    at = 0
    for size in chain.shape:
        parts.append(chain.digits[at : at + size])
        at += size
    return parts


def _luhn(digits: bytes) -> bool:
    total = sum(digits[-1::-2]) - 48 * len(digits[-1::-2])
    return (total + sum(_DOUBLED[digit - 48] for digit in digits[-2::-2])) % 10 == 0


def is_card(digits: bytes, shape: tuple[int, ...], context: bytes) -> bool:
    """Luhn, the issuer's prefix and length, a plausible grouping. Twelve to fourteen digits of Maestro need a keyword."""
    if len(shape) > 1 and not (set(shape) == {1} or all(3 <= size <= 6 for size in shape[:-1])):
        return False
    if len(set(digits)) == 1 or not _luhn(digits):
        return False
    size = len(digits)
    two, three, four = int(digits[:2]), int(digits[:3]), int(digits[:4])
    if digits[:1] == b"4":
        return size in {13, 16, 19} and (size != 13 or CARD_WORDS.search(context) is not None)
    if 51 <= two <= 55 or 2221 <= four <= 2720 or 2200 <= four <= 2204:
        return size == 16
    if two in {34, 37}:
        return size == 15
    if 300 <= three <= 305 or three == 309 or two in {36, 38, 39}:
        return 14 <= size <= 19
    if four in {2131, 1800}:
        return size == 15
    if 3528 <= four <= 3589 or four == 6011 or 644 <= three <= 649 or two in {62, 65, 81, 60}:
        return 16 <= size <= 19
    if two in {50, 56, 57, 58} or digits[:1] == b"6":
        return size >= 16 or CARD_WORDS.search(context) is not None
    return size >= 13 and CARD_WORDS.search(context) is not None


def _social(chain: Chain, context: bytes, out: list[Found]) -> None:
    digits = chain.digits
    if len(digits) != 9 or digits[3:5] == b"00" or digits[5:] == b"0000" or digits[:3] == b"000":
        return
    grouped = chain.shape == (3, 2, 4) and len(set(chain.gaps)) == 1
    if not grouped and chain.shape != (9,):
        return
    named = _SSN_WORDS.search(context) is not None
    if not named and (not grouped or chain.gaps[0] != b"-"):
        return
    taxpayer = digits[:1] == b"9" and (50 <= int(digits[3:5]) <= 65 or 70 <= int(digits[3:5]) <= 99) and b"ssn" not in context
    if taxpayer and (not named or b"itin" in context or b"taxpayer" in context):
        out.append(found(chain.start, chain.end, "US_ITIN", "itin", 0.85, SHAPED))
    else:
        out.append(found(chain.start, chain.end, "US_SSN", "ssn", 0.95 if named else 0.85, PROVEN))


def _nationals(chain: Chain, context: bytes, out: list[Found]) -> None:
    for kind, valid, keyword, shapes in _NATIONAL.get(len(chain.digits), ()):
        named = keyword.search(context) is not None
        if chain.gaps and kind == "BR_CPF" and chain.gaps[-1] == b".":
            continue
        if (named or (chain.shape in shapes and (len(chain.shape) > 1 or kind in {"FR_NIR", "CH_AHV"}))) and valid(chain.digits):
            out.append(found(chain.start, chain.end, kind, kind.lower(), 0.95 if named else 0.8, PROVEN))


def _phone(reading: Reading, chain: Chain, context: bytes) -> Found | None:
    data, start, size = reading.data, chain.start, len(chain.digits)
    if size > 15 or b"_" in chain.gaps or (len(chain.shape) > 8 and max(chain.shape) > 1):
        return None
    opener = data[max(0, start - 3) : start]
    plus = opener.endswith((b"+", b"+ ", b"+("))
    if plus:
        start = data.rfind(b"+", 0, start)
        text = data[start : chain.end]
        if data[start - 1 : start] == b"(" and text.count(b")") > text.count(b"("):
            start -= 1
        ends_balanced = True
    elif opener.endswith(b"("):
        start -= 1
        ends_balanced = b")" in b"".join(chain.gaps)
    else:
        ends_balanced = b")" not in b"".join(chain.gaps) or b"(" in b"".join(chain.gaps)
    if not ends_balanced:
        return None
    score = _phone_score(chain, plus, opener, PHONE_WORDS.search(context) is not None)
    if score == 0.0:
        return None
    extension = _EXTENSION.match(data, chain.end)
    end = extension.end() if extension is not None else chain.end
    return found(start, end, "PHONE_NUMBER", "phone", score, SHAPED if score >= 0.9 else WEAK)


def _phone_score(chain: Chain, plus: bool, opener: bytes, named: bool) -> float:
    """Return how sure we are, 0 for no phone number. Without a plus, a keyword or a well-known grouping is asked for."""
    digits = chain.digits.decode("ascii")
    if plus:
        return _international(digits.replace("0", "", 1) if b" (" in chain.gaps and (chain.shape[1:2] == (1,)) else digits)
    if digits.startswith("00") and 10 <= len(digits) <= 15 and (len(chain.shape) > 1 or named):
        score = _international(digits[2:])
        if score:
            return score
    if digits.startswith("001") and len(digits) == 13 and chain.gaps[0] == b"-":
        return 0.85
    shape, gaps = chain.shape, chain.gaps
    if shape == (3, 3, 4) and gaps in _NANP and (gaps[0][:1] != b")" or opener.endswith(b"(")) and digits[0] not in "01":
        return 0.9 if _possible(digits, ("US",)) else 0.0
    if shape in {(1, 3, 3, 4)} and digits[0] == "1" and gaps[0] in {b"-", b" ", b".", b" ("}:
        return 0.85
    if named:
        if len(shape) == 1 and not 7 <= len(digits) <= 13:
            return 0.0
        return 0.85 if 7 <= len(digits) <= 13 and (len(digits) < 9 or _possible(digits, _REGIONS)) else 0.0
    grouped = 3 <= len(shape) <= 5 and len(set(gaps)) == 1 and gaps[0] in {b" ", b"."}
    if digits[0] == "0" and digits[1] != "0" and (grouped or (len(shape) == 2 and shape[0] in {3, 4, 5})) and 9 <= len(digits) <= 11:
        return 0.75 if _valid_in(digits, _REGIONS) else 0.0
    return 0.0


def _international(digits: str) -> float:
    if not 7 <= len(digits) <= 15:
        return 0.0
    try:
        number = phonenumbers.parse("+" + digits, None)
    except phonenumbers.NumberParseException:
        return 0.0
    if not phonenumbers.is_possible_number(number):
        return 0.0
    return 0.98 if phonenumbers.is_valid_number(number) else 0.9


def _possible(digits: str, regions: tuple[str, ...]) -> bool:
    return any(phonenumbers.is_possible_number(number) for number in _parsed(digits, regions))


def _valid_in(digits: str, regions: tuple[str, ...]) -> bool:
    return any(phonenumbers.is_valid_number(number) for number in _parsed(digits, regions))


def _parsed(digits: str, regions: tuple[str, ...]) -> list[phonenumbers.PhoneNumber]:
    numbers: list[phonenumbers.PhoneNumber] = []
    for region in regions:
        try:
            numbers.append(phonenumbers.parse(digits, region))
        except phonenumbers.NumberParseException:
            continue
    return numbers
