"""Identifiers of letters and digits that prove themselves: IBAN (ISO 13616) and national numbers with check characters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from stdnum.es import cif, nie
from stdnum.es import nif as es_nif
from stdnum.fi import hetu
from stdnum.it import codicefiscale

from gateway.providers.local.recognizers.base import PROVEN, SHAPED, Check, Found, Reading, Recognizer, Rule, compiled, found

IBAN_LENGTHS: Mapping[str, int] = MappingProxyType(
    {
        code: size
        for size, codes in {
            15: "NO",
            16: "BE",
            18: "DK FO FI GL NL SD",
            19: "MK SI",
            20: "AT BA EE KZ LT LU MN XK",
            21: "CH HR LI LV",
            22: "BG BH CR DE GB GE IE ME RS VA",
            23: "AE GI IL IQ OM SO TL",
            24: "AD CZ ES MD PK RO SA SE SK TN VG",
            25: "LY PT ST",
            26: "IS TR",
            27: "BI DJ FR GR IT MC MR SM",
            28: "AL AZ BY CY DO GT HU LB NI PL SV",
            29: "BR EG PS QA UA",
            30: "JO KW MU YE",
            31: "MT SC",
            32: "LC",
            33: "RU",
        }.items()
        for code in codes.split()
    }
)
IBAN_COUNTRIES = f"(?i:{'|'.join(IBAN_LENGTHS)})"  # any two letters would hold back streams that count things
_IBAN_HEAD = compiled(rf"\b({IBAN_COUNTRIES}[0-9]{{2}})(?:[ -]{{0,2}}[0-9A-Za-z])")


class Iban:
    """Reads exactly as many characters as the country's IBAN has, over single blanks or dashes, and checks them modulo 97."""

    name = "iban"
    trigger = rf"\b{IBAN_COUNTRIES}[0-9]{{2}}(?:[ -]{{0,2}}[0-9A-Za-z]){{11}}"
    phrase = rf"\b{IBAN_COUNTRIES}[0-9]{{2}}(?:[ -]{{0,2}}[0-9A-Za-z]){{0,30}}"

    def find(self, reading: Reading, start: int) -> list[Found]:
        data = reading.data
        out: list[Found] = []
        match = _IBAN_HEAD.search(data, max(0, start - 1))
        while match is not None:
            begin = match.start(1)
            size = IBAN_LENGTHS.get(data[begin : begin + 2].decode("ascii").upper())
            end = _iban_end(data, begin, size) if size is not None and begin >= start else -1
            if end > 0:
                out.append(found(begin, end, "IBAN_CODE", self.name, 0.99, PROVEN))
            match = _IBAN_HEAD.search(data, match.start() + 1)
        return out


def _iban_end(data: bytes, begin: int, size: int) -> int:
    chars = bytearray()
    at = begin
    gap = 0
    while len(chars) < size and at < len(data):
        char = data[at]
        if chr(char).isalnum():
            chars.append(char)
            gap = 0
        elif char in b" -" and gap < 2:
            gap += 1
        else:
            return -1
        at += 1
    if len(chars) < size or data[at : at + 1].isalnum():
        return -1
    text = chars.decode("ascii").upper()
    return at if int("".join(str(int(c, 36)) for c in text[4:] + text[:4])) % 97 == 1 else -1


def _by(check: Callable[[str], bool]) -> Check:
    return lambda reading, start, end: bool(check(reading.data[start:end].decode("ascii")))


_EDGE = r"\b"
_NRIC = (2, 7, 6, 5, 4, 3, 2)


def _nric(text: str) -> bool:
    """Singapore NRIC and FIN: weighted sum modulo 11, offset by 4 for T and G and by 3 for M."""
    text = text.upper()
    total = sum(int(digit) * weight for digit, weight in zip(text[1:8], _NRIC, strict=True)) + {"T": 4, "G": 4, "M": 3}.get(text[0], 0)
    if text[0] == "M":
        return text[8] == "KLJNPQRTUWX"[10 - total % 11]
    return text[8] == ("JZIHGFEDCBA" if text[0] in "ST" else "XWUTRQPNMLK")[total % 11]


def recognizers() -> list[Recognizer]:
    return [Iban(), *_southern(), *_others()]


def _southern() -> list[Rule]:
    return [
        Rule(
            "es_nif",
            "ES_NIF",
            "[0-9]{8}[ -]?[A-HJ-NP-TV-Za-hj-np-tv-z]",
            left=_EDGE,
            right=_EDGE,
            rank=PROVEN,
            check=_by(es_nif.is_valid),
            phrase=True,
        ),
        Rule(
            "es_nie",
            "ES_NIE",
            "[XYZxyz]-?[0-9]{7}-?[A-HJ-NP-TV-Za-hj-np-tv-z]",
            left=_EDGE,
            right=_EDGE,
            rank=PROVEN,
            check=_by(nie.is_valid),
        ),
        Rule(
            "es_cif",
            "ES_CIF",
            "[ABCDEFGHJNPQRSUVW]-?[0-9]{7}[0-9A-J]",
            left=r"(?i:\b[cn]\.?i\.?f\.?[ :]{0,3})",
            right=r"\b",
            rank=PROVEN,
            check=_by(cif.is_valid),
        ),
        Rule(
            "it_fiscal_code",
            "IT_FISCAL_CODE",
            "(?i:[A-Z]{6}[0-9LMNPQRSTUV]{2}[ABCDEHLMPRST][0-9LMNPQRSTUV]{2}[A-Z][0-9LMNPQRSTUV]{3}[A-Z])",
            left=_EDGE,
            right=_EDGE,
            rank=PROVEN,
            check=_by(codicefiscale.is_valid),
        ),
    ]


def _others() -> list[Rule]:
    return [
        Rule(
            "fi_hetu",
            "FI_PERSONAL_IDENTITY_CODE",
            "[0-9]{6}[-+A-FU-Y][0-9]{3}[0-9A-Y]",
            left=_EDGE,
            right=_EDGE,
            rank=PROVEN,
            check=_by(hetu.is_valid),
        ),
        Rule(
            "uk_nino",
            "UK_NINO",
            "[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z](?: ?[0-9]{2}){3} ?[A-D]",
            left=_EDGE,
            right=_EDGE,
            phrase=True,
            score=0.85,
        ),
        Rule("in_pan", "IN_PAN", "[A-Z]{3}[ABCFGHJLPT][A-Z][0-9]{4}[A-Z]", left=_EDGE, right=_EDGE, score=0.85),
        Rule("sg_nric", "SG_NRIC_FIN", "[STFGM][0-9]{7}[A-Z]", left=_EDGE, right=_EDGE, rank=PROVEN, check=_by(_nric)),
        Rule(
            "us_mbi",
            "US_MBI",
            "[1-9][AC-HJKMNP-RT-Y][AC-HJKMNP-RT-Y0-9][0-9]-?[AC-HJKMNP-RT-Y][AC-HJKMNP-RT-Y0-9][0-9]-?[AC-HJKMNP-RT-Y]{2}[0-9]{2}",
            left=_EDGE,
            right=_EDGE,
            rank=SHAPED,
            score=0.8,
        ),
    ]
