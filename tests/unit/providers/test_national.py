"""National identifiers: found with their label or by their own shape, only with a right check digit, and only for chosen countries.

The numbers are made up: drawn at random until their check digits fitted.
"""

from __future__ import annotations

import pytest

from gateway.providers.local.recognizers.national import COUNTRIES, country_of
from gateway.providers.local.scanner import PatternScanner

SCANNER = PatternScanner()
EXAMPLES = [
    ("DE_VAT_ID", "DE907483378", "DE907483378"),
    ("DE_HEALTH_INSURANCE", "KVNR: A129040479", "A129040479"),
    ("DE_SOCIAL_SECURITY", "Sozialversicherungsnummer 12220966X846", "12220966X846"),
    ("DE_ID_CARD", "Personalausweisnummer: K947090054", "K947090054"),
    ("DE_TAX_NUMBER", "Steuernummer: 181/815/08155", "181/815/08155"),
    ("DE_HANDELSREGISTER", "Handelsregister: HRB 12345", "HRB 12345"),
    ("EU_VAT", "VAT NL853194130B01", "NL853194130B01"),
    ("IT_VAT_CODE", "P. IVA 82988790166", "82988790166"),
    ("AT_SOCIAL_SECURITY", "SVNR 7166230983", "7166230983"),
    ("DK_CPR", "CPR 010583-8567", "010583-8567"),
    ("NO_FODSELSNUMMER", "fnr 19066658247", "19066658247"),
    ("EE_ISIKUKOOD", "isikukood 39706273918", "39706273918"),
    ("IE_PPS", "PPS 3233906D", "3233906D"),
    ("HR_OIB", "OIB 40777270125", "40777270125"),
    ("BG_EGN", "EGN 7310142578", "7310142578"),
    ("RO_CNP", "CNP 1890403471481", "1890403471481"),
    ("CZ_RODNE_CISLO", "rodn\u00e9 \u010d\u00edslo 800702/1902", "800702/1902"),
    ("PT_CARTAO_CIDADAO", "cart\u00e3o de cidad\u00e3o 550124104ZZ9", "550124104ZZ9"),
    ("ES_CCC", "CCC 43820188868919038976", "43820188868919038976"),
    ("ES_SOCIAL_SECURITY", "NUSS 289542586518", "289542586518"),
    ("UK_DRIVING_LICENCE", "driving licence MORGA657054SM9IJ", "MORGA657054SM9IJ"),
    ("FR_CNI", "carte nationale d'identit\u00e9 880692310285", "880692310285"),
    ("US_NPI", "NPI 1756456699", "1756456699"),
    ("US_EIN", "EIN 12-3456789", "12-3456789"),
    ("AU_ACN", "ACN 700294426", "700294426"),
    ("NZ_IRD", "IRD 51584333", "51584333"),
    ("IN_GSTIN", "GST 27GLBPX5230C1Z4", "27GLBPX5230C1Z4"),
    ("IN_VOTER", "voter id KJK1167618", "KJK1167618"),
    ("SG_UEN", "UEN 11271752K", "11271752K"),
    ("KR_BRN", "BRN 959-35-15746", "959-35-15746"),
    ("TH_TNIN", "national ID 1991057877051", "1991057877051"),
    ("TR_TCKN", "TCKN 18497375228", "18497375228"),
    ("NG_NIN", "NIN 95438205323", "95438205323"),
    ("PH_TIN", "TIN 123-456-789-000", "123-456-789-000"),
    ("MX_CURP", "XAFC931124HDFGCD00", "XAFC931124HDFGCD00"),
    ("MX_RFC", "RFC GODE561231GR8", "GODE561231GR8"),
    ("AR_CUIT", "CUIT 20734074315", "20734074315"),
    ("CL_RUT", "RUT 12.409.669-3", "12.409.669-3"),
    ("IT_IDENTITY_CARD", "carta d'identit\u00e0 CA12345AA", "CA12345AA"),
]
UNCHECKED = {
    "DE_TAX_NUMBER", "DK_CPR", "KR_BRN", "US_EIN", "DE_HANDELSREGISTER", "UK_DRIVING_LICENCE", "FR_CNI", "NG_NIN", "PH_TIN",
    "IT_IDENTITY_CARD",
}  # fmt: skip


@pytest.mark.parametrize(("kind", "text", "value"), EXAMPLES)
def test_found_and_named(kind: str, text: str, value: str) -> None:
    whole = f"see {text} today"
    assert [(span.type, whole[span.start : span.end]) for span in SCANNER.scan(whole)] == [(kind, value)]


@pytest.mark.parametrize(("kind", "text", "value"), [example for example in EXAMPLES if example[0] not in UNCHECKED])
def test_one_changed_digit_is_no_such_number(kind: str, text: str, value: str) -> None:
    missed = 0
    for at, char in enumerate(value):
        if char.isdigit():
            changed = value[:at] + str((int(char) + 1) % 10) + value[at + 1 :]
            missed += kind not in {span.type for span in SCANNER.scan(f"see {text.replace(value, changed)} today")}
    assert missed >= 0.5 * sum(map(str.isdigit, value))


@pytest.mark.parametrize(("kind", "text", "value"), EXAMPLES)
def test_only_chosen_countries(kind: str, text: str, value: str) -> None:
    country = country_of(kind)
    assert country in COUNTRIES
    others = PatternScanner(countries=[code for code in COUNTRIES if code != country])
    assert kind not in {span.type for span in others.scan(f"see {text} today")}


def test_what_is_of_no_country_is_always_found() -> None:
    text = "mail bob@example.com, card 4111 1111 1111 1111, account DE89 3704 0044 0532 0130 00, MRN 2527147"
    types = [span.type for span in PatternScanner(countries=[]).scan(text)]
    assert types == ["EMAIL_ADDRESS", "CREDIT_CARD", "IBAN_CODE", "MEDICAL_RECORD"]


def test_types_name_their_country() -> None:
    assert country_of("US_SSN") == "us"
    assert country_of("UK_NHS") == "gb"
    assert country_of("ABA_ROUTING_NUMBER") == "us"
    assert [country_of(kind) for kind in ("ID", "IP_ADDRESS", "MEDICAL_RECORD", "CREDIT_CARD", "PHONE_NUMBER")] == [None] * 5
