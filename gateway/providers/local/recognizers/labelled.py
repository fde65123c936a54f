"""Which values are identifying because of the word before them? Record numbers, accounts, passports, licences, dates of birth.

The label is context on the left and never part of the span. A value must hold digits: words after a label are prose.
"""

from __future__ import annotations

from gateway.providers.local.recognizers.base import SHAPED, WEAK, Reading, Recognizer, Rule

_JOIN = (
    r"(?:[ ]?(?:no|nr|num(?:ber|ero)?|n[o\x27]|id|code|codigo)\b\.?)?[ ]{0,2}(?:\([a-z]{2,8}\)[ ]?|[a-z]{2,5} )?(?:is\b|"
    r"ist\b|es\b|was\b|[:=#?.-]){0,2}[\"' ]{0,3}"
)
_VALUE = r"[A-Za-z0-9](?:[A-Za-z0-9]|[-/._][A-Za-z0-9]){3,30}"


def _label(words: str) -> str:
    return rf"(?i:\b(?:{words})){'(?i:' + _JOIN + ')'}"


def _identifying(reading: Reading, start: int, end: int) -> bool:
    value = reading.data[start:end]
    digits = sum(48 <= byte <= 57 for byte in value)
    letters = sum(byte >= 65 for byte in value)
    following = reading.data[end : end + 1]
    if len(value) == 4 and value[:2] in {b"19", b"20"}:
        return False
    return digits >= 4 and letters <= digits + 6 and not following.isalnum() and following != b"@" and not _date(value)


def _misread(reading: Reading, start: int, end: int) -> bool:
    """Digits that text recognition took for letters."""
    return sum(48 <= byte <= 57 for byte in reading.data[start:end]) >= 5


def _date(value: bytes) -> bool:
    return len(value) == 10 and value[4:5] == value[7:8] == b"-" and value[:4].isdigit()


_MONTH = (
    "(?i:jan|feb|mar|apr|may|mai|jun|jul|aug|ago|sep|set|oct|okt|ott|nov|dec|dez|dic|ene|abr|fev|f.v|mrt|mei|gen|mag|giu|lug)[a-z?]{0,7}"
)
_DATE = (
    r"(?:[0-9]{1,2}[./-][0-9]{1,2}[./-](?:[0-9]{4}|[0-9]{2})|[0-9]{4}[./-][0-9]{2}[./-][0-9]{2}|"
    rf"[0-9]{{1,2}}(?:st|nd|rd|th|\.)? (?:de |of )?{_MONTH}\.?,? (?:de )?[0-9]{{4}}|{_MONTH}\.? [0-9]{{1,2}}(?:st|nd|rd|th)?,? [0-9]{{4}})"
)
_END = r"(?:$|[^0-9A-Za-z])"


def recognizers(*, dates: bool = False) -> list[Recognizer]:
    return [*_records(), *_persons(), *(_dates() if dates else ())]


def _records() -> list[Rule]:
    return [
        Rule(
            "medical_record",
            "MEDICAL_RECORD",
            _VALUE,
            check=_identifying,
            score=0.85,
            left=_label("mrn|medical record|patient (?:id|no|number)|health record|nhc|cipa|nass|historia clinica|episodio|chart"),
        ),
        Rule("mrn", "MEDICAL_RECORD", r"MRN[-:# ]?[0-9]{5,12}", left=r"\b", right=r"\b", score=0.9, phrase=True),
        Rule(
            "case",
            "ID",
            _VALUE + r"|[0-9]{1,2}:[0-9]{2}-[A-Za-z]{2}-[0-9]{3,6}(?:-[A-Z]{2,4}){0,3}",
            check=_identifying,
            score=0.8,
            left=_label(
                "case|docket|file|bar|claim|policy|customer|client|member(?:ship)?|employee|national id|id|identification|"
                "order|invoice|ticket|reference|"
                "ref|student|voter|badge|contract|certificate|registration|n[o?]col|colegiado|aktenzeichen|kundennummer|dossier|expediente"
            ),
        ),
        Rule("docket", "ID", r"[0-9]{1,2}:[0-9]{2}-[a-z]{2}-[0-9]{3,6}(?:-[A-Z]{2,4}){0,3}", left=r"\b", right=r"\b", score=0.85),
        Rule("case_number", "ID", r"(?:19|20)[0-9]{2}-[A-Z]{2,4}-[0-9]{3,6}", left=r"\b", right=r"\b", score=0.75),
        Rule(
            "grouped_id",
            "ID",
            r"[0-9]{2} [0-9]{2} [0-9]{5}|[0-9]{2} [0-9]{8} [0-9]{2}",
            right=_END,
            phrase=True,
            score=0.85,
            left=_label("n[o?]col|nass|colegiado"),
        ),
    ]


def _persons() -> list[Rule]:
    return [
        Rule(
            "bank_account",
            "US_BANK_NUMBER",
            r"[0-9]{6,17}",
            right=_END,
            check=_identifying,
            left=_label("bank account|account|acct|a/c|konto(?:nummer)?"),
            score=0.8,
        ),
        Rule(
            "ssn_misread",
            "US_SSN",
            "[0-9SOBIlZGo]{3}-[0-9SOBIlZGo]{2}-[0-9SOBIlZGo]{4}",
            right=_END,
            check=_misread,
            score=0.85,
            left=r"(?i:\b(?:ssn|social security(?: number)?))(?i:[ ]?(?:no\.?|number|is|:|=|#){0,2}[\"' ]{0,3})",
        ),
        Rule(
            "passport",
            "PASSPORT",
            r"[A-Za-z]{0,2}[0-9]{6,9}[A-Za-z]?",
            right=_END,
            check=_identifying,
            score=0.85,
            left=_label("passport|pasaporte|passeport|reisepass|passaporto|paspoort|passaporte"),
        ),
        Rule(
            "driver_license",
            "US_DRIVER_LICENSE",
            r"[A-Za-z]{0,2}-?[0-9]{5,14}[A-Za-z]?",
            right=_END,
            check=_identifying,
            score=0.8,
            left=_label(r"driver'?s?'? licen[cs]e|driving licen[cs]e|licen[cs]e|\bdl|f?hrerschein"),
        ),
        Rule(
            "birth_date",
            "DATE_TIME",
            _DATE,
            right=_END,
            phrase=True,
            score=0.85,
            rank=SHAPED,
            left=_label(
                r"dob|d\.o\.b\.?|date of birth|birth ?date|birthday|born(?: on)?|geb(?:oren|urtsdatum|\.)?(?: am)?|fecha de "
                r"nacimiento|nacid[oa](?: el)?|"
                "date de naissance|n.e? le|data di nascita|nat[oa] il|geboortedatum|data de nascimento"
            )
            + r"(?:[ ]?A:[ ])?",
        ),
    ]


def _dates() -> list[Rule]:
    time = r"(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2})?Z?)?"
    return [Rule("date", "DATE_TIME", _DATE + time, left=r"\b", right=_END, phrase=True, score=0.7, rank=WEAK)]
