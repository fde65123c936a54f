"""Which numbers has a state or a register given to a person or a firm? Those with letters, and those that only a label tells apart.

The checks are python-stdnum's where there is one. Every type names its country (`country_of`), so that a deployment can choose; types
with nine to fifteen bare digits that are common anywhere are in `numbers`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from stdnum import luhn
from stdnum.ar import cuit
from stdnum.at import vnr
from stdnum.au import acn
from stdnum.bg import egn
from stdnum.cl import rut
from stdnum.cz import rc
from stdnum.de import stnr
from stdnum.dk import cpr
from stdnum.ee import ik
from stdnum.es import ccc
from stdnum.eu import vat
from stdnum.hr import oib
from stdnum.ie import pps
from stdnum.in_ import epic, gstin
from stdnum.it import iva
from stdnum.kr import brn
from stdnum.mx import curp, rfc
from stdnum.no import fodselsnummer
from stdnum.nz import ird
from stdnum.pt import cc
from stdnum.ro import cnp
from stdnum.sg import uen
from stdnum.th import pin
from stdnum.tr import tckimlik
from stdnum.us import ein

from gateway.providers.local.recognizers.base import PROVEN, SHAPED, Check, Reading, Recognizer, Rule

_SPECIAL: Mapping[str, str] = MappingProxyType({"UK": "gb", "ABA": "us", "EU": "eu"})
_GENERAL = frozenset({"ID", "IP", "MEDICAL"})
COUNTRIES = (
    "ar", "at", "au", "be", "bg", "br", "ca", "ch", "cl", "cz", "de", "dk", "ee", "es", "eu", "fi", "fr", "gb", "hr", "ie", "in", "it",
    "kr", "mx", "ng", "nl", "no", "nz", "ph", "pl", "pt", "ro", "se", "sg", "th", "tr", "us", "za",
)  # fmt: skip
_JOIN = (
    r"(?:[ -]?(?:no|nr|num(?:ber|ero|mer)?|n[o\x27]|id|code)\b\.?)?[ ]{0,2}(?:\([a-z]{2,8}\)[ ]?)?(?:is\b|ist\b|[:=#.-]){0,2}[\"' ]{0,3}"
)


def country_of(kind: str) -> str | None:
    """Return the two letters of the country that gives identifiers of this type, None for types of no country."""
    head, _, rest = kind.partition("_")
    if not rest or head in _GENERAL:
        return None
    code = _SPECIAL.get(head, head.lower())
    return code if code in COUNTRIES else None


def _by(valid: Callable[[str], bool]) -> Check:
    def check(reading: Reading, start: int, end: int) -> bool:
        return bool(valid(reading.data[start:end].decode("ascii")))

    return check


def _health_insurance(text: str) -> bool:
    """German statutory insurance (KVNR): the letter's place in the alphabet as two digits, weights 1 and 2, sums of digits, modulo 10."""
    body = f"{ord(text[0].upper()) - 64:02d}{text[1:9]}"
    total = sum(sum(divmod(int(digit) * (1 + at % 2), 10)) for at, digit in enumerate(body))
    return total % 10 == int(text[9])


def _identity_card(text: str) -> bool:
    """German identity card and passport: weights 7, 3, 1 over letters and digits, modulo 10, where the check digit is given."""
    if len(text) < 10:
        return sum(char.isdigit() for char in text) >= 4
    total = sum(int(char, 36) * (7, 3, 1)[at % 3] for at, char in enumerate(text[:9]))
    return total % 10 == int(text[9])


def _pension(text: str) -> bool:
    """German pension insurance: the letter as two digits, weights 2 1 2 5 7 1 2 1 2 1 2 1, sums of digits, modulo 10."""
    plain = text.replace(" ", "").upper()
    body = f"{plain[:8]}{ord(plain[8]) - 64:02d}{plain[9:11]}"
    weights = (2, 1, 2, 5, 7, 1, 2, 1, 2, 1, 2, 1)
    total = sum(sum(divmod(int(digit) * weight, 10)) for digit, weight in zip(body, weights, strict=True))
    return total % 10 == int(plain[11])


def _spanish_security(text: str) -> bool:
    """Spanish affiliation number: province, eight digits (seven where the first is 0), and all of it modulo 97."""
    digits = "".join(char for char in text if char.isdigit())
    body = digits[:2] + digits[3:10] if digits[2] == "0" else digits[:10]
    return int(body) % 97 == int(digits[10:])


def _npi(text: str) -> bool:
    """US provider number: Luhn over the number behind 80840."""
    return luhn.is_valid("80840" + text)


def _labelled(kind: str, words: str, span: str, valid: Callable[[str], bool] | None = None, *, phrase: bool = True) -> Rule:
    left = rf"(?i:\b(?:{words})){'(?i:' + _JOIN + ')'}"
    check = _by(valid) if valid is not None else None
    rank = PROVEN if valid is not None else SHAPED
    return Rule(kind.lower(), kind, span, left=left, right=r"(?:$|[^0-9A-Za-z])", check=check, rank=rank, phrase=phrase, score=0.9)


def _plain(kind: str, span: str, valid: Callable[[str], bool]) -> Rule:
    return Rule(kind.lower(), kind, span, left=r"\b", right=r"\b", check=_by(valid), rank=PROVEN, score=0.9)


def recognizers() -> list[Recognizer]:
    return [*_german(), *_european(), *_beyond()]


def _german() -> list[Rule]:
    return [
        _plain("DE_VAT_ID", "DE[0-9]{9}", vat.is_valid),
        _labelled("DE_TAX_NUMBER", "steuernummer|steuer-nr|st-?nr", "[0-9]{2,3}[/ ][0-9]{3}[/ ][0-9]{4,5}|[0-9]{13}", stnr.is_valid),
        _labelled("DE_HEALTH_INSURANCE", "krankenversicherten[a-z]{0,8}|kvnr|versichertennummer|krankenkasse[a-z]{0,8}",
                  "[A-Za-z][0-9]{9}", _health_insurance, phrase=False),
        _labelled("DE_SOCIAL_SECURITY", "sozialversicherungs[a-z]{0,8}|rentenversicherungs[a-z]{0,8}|sv-?nummer|rvnr|svnr",
                  "[0-9]{2} ?[0-9]{6} ?[A-Za-z] ?[0-9]{3}", _pension),
        _labelled("DE_ID_CARD", "personalausweis[a-z]{0,8}|ausweis[a-z]{0,8}", "[CFGHJKLMNPRTVWXYZ0-9]{9}[0-9]?",
                  _identity_card, phrase=False),
        _labelled("DE_HANDELSREGISTER", "handelsregister[a-z]{0,8}|amtsgericht [a-z]{2,20}",
                  "(?:HRA|HRB|GnR|VR|PR) ?[0-9]{1,6}(?: ?[A-Z]{1,2})?"),
    ]  # fmt: skip


def _european() -> list[Rule]:
    digits = r"[0-9]{9,13}"
    return [
        _plain("EU_VAT", "(?:AT|BE|BG|CY|CZ|DK|EE|EL|ES|FI|FR|HR|HU|IE|IT|LT|LU|LV|MT|NL|PL|PT|RO|SE|SI|SK)[0-9A-Z]{8,12}", vat.is_valid),
        _labelled("IT_VAT_CODE", "partita iva|p\\. ?iva|p\\.i\\.", "(?:IT)?[0-9]{11}", iva.is_valid),
        _labelled("IT_IDENTITY_CARD", "carta d.identit.|carta identit.|c\\.i\\.", "[A-Z]{2} ?[0-9]{7}|[A-Z]{2}[0-9]{5}[A-Z]{2}"),
        _labelled("AT_SOCIAL_SECURITY", "sozialversicherungsnummer|svnr|sv-?nr", "[0-9]{4} ?[0-9]{6}", vnr.is_valid),
        _labelled("DK_CPR", "cpr|personnummer", "[0-9]{6}[- ]?[0-9]{4}", cpr.is_valid),
        _labelled("NO_FODSELSNUMMER", "f.dselsnummer|fnr|personnummer", "[0-9]{6} ?[0-9]{5}", fodselsnummer.is_valid),
        _labelled("EE_ISIKUKOOD", "isikukood|personal code", digits, ik.is_valid),
        _labelled("IE_PPS", "pps[a-z]?", "[0-9]{7}[A-Z]{1,2}", pps.is_valid, phrase=False),
        _labelled("HR_OIB", "oib", digits, oib.is_valid),
        _labelled("BG_EGN", "egn", "[0-9]{10}", egn.is_valid),
        _labelled("RO_CNP", "cnp|cod numeric personal", "[0-9]{13}", cnp.is_valid),
        _labelled("CZ_RODNE_CISLO", "rodn. ..slo|r\\. ?.\\.", "[0-9]{6}/?[0-9]{3,4}", rc.is_valid),
        _labelled("PT_CARTAO_CIDADAO", "cart.o (?:de|do) cidad.o|cc", "[0-9]{8} ?[0-9] ?[A-Z0-9]{2}[0-9]", cc.is_valid),
        _labelled("ES_CCC", "ccc|cuenta (?:corriente|bancaria)", "[0-9]{4}[ -]?[0-9]{4}[ -]?[0-9]{2}[ -]?[0-9]{10}", ccc.is_valid),
        _labelled("ES_SOCIAL_SECURITY", "seguridad social|nuss|nss", "[0-9]{2}[ /-]?[0-9]{8}[ /-]?[0-9]{2}", _spanish_security),
        _labelled("UK_DRIVING_LICENCE", "driving licen[cs]e|driver number", "[A-Z9]{5}[0-9]{6}[A-Z9]{2}[0-9A-Z]{3}", phrase=False),
        _labelled("FR_CNI", "carte (?:nationale )?d.identit.|cni", "[0-9]{12}|[0-9A-Z]{9}"),
    ]  # fmt: skip


def _beyond() -> list[Rule]:
    return [
        _labelled("US_NPI", "npi|national provider identifier", "[12][0-9]{9}", _npi, phrase=False),
        _labelled("US_EIN", "ein|employer identification|tax id", "[0-9]{2}-[0-9]{7}", ein.is_valid, phrase=False),
        _labelled("AU_ACN", "acn|company number", "[0-9]{3} ?[0-9]{3} ?[0-9]{3}", acn.is_valid),
        _labelled("NZ_IRD", "ird", "[0-9]{2,3}[- ]?[0-9]{3}[- ]?[0-9]{3}", ird.is_valid),
        _plain("IN_GSTIN", "[0-3][0-9][A-Z]{5}[0-9]{4}[A-Z][0-9A-Z]Z[0-9A-Z]", gstin.is_valid),
        _labelled("IN_VOTER", "voter|epic|elector", "[A-Z]{3}[0-9]{7}", epic.is_valid, phrase=False),
        _labelled("SG_UEN", "uen|registration", "[0-9]{8,9}[A-Z]|[TSR][0-9]{2}[A-Z]{2}[0-9]{4}[A-Z]", uen.is_valid, phrase=False),
        _labelled("KR_BRN", "brn|business registration", "[0-9]{3}-[0-9]{2}-[0-9]{5}", brn.is_valid, phrase=False),
        _labelled("TH_TNIN", "tnin|national id|thai id", "[0-9](?:[ -]?[0-9]){12}", pin.is_valid),
        _labelled("TR_TCKN", "tckn|tc kimlik|kimlik|t\\.c\\.", "[1-9][0-9]{10}", tckimlik.is_valid, phrase=False),
        _labelled("NG_NIN", "nin|national identification", "[0-9]{11}", phrase=False),
        _labelled("PH_TIN", "tin", "[0-9]{3}-[0-9]{3}-[0-9]{3}(?:-[0-9]{3,5})?", phrase=False),
        _plain("MX_CURP", "[A-Z]{4}[0-9]{6}[HMX][A-Z]{5}[0-9A-Z][0-9]", curp.is_valid),
        _labelled("MX_RFC", "rfc", "[A-Z&]{3,4}[0-9]{6}[0-9A-Z]{3}", rfc.is_valid, phrase=False),
        _labelled("AR_CUIT", "cui[tl]", "[0-9]{2}-?[0-9]{8}-?[0-9]", cuit.is_valid, phrase=False),
        _labelled("CL_RUT", "ru[tn]", "[0-9]{1,2}\\.?[0-9]{3}\\.?[0-9]{3}-?[0-9Kk]", rut.is_valid, phrase=False),
    ]
