"""Where does someone live? Street addresses with a number, post-office boxes and postal codes of the larger Western countries.

Precise before complete: a street word or a national code format is asked for. Names of towns and countries are the business of NER.
"""

from __future__ import annotations

from gateway.providers.local.recognizers.base import WEAK, Reading, Recognizer, Rule

_GAP = r"[ \n]{1,3}"
_CAP = r"[A-Z][A-Za-z'?.-]{0,24}"
_CAPS = rf"{_CAP}(?: {_CAP}){{0,3}}"
_US_STREET = (
    "(?:Street|St|Avenue|Ave|Av|Road|Rd|Boulevard|Blvd|Drive|Dr|Lane|Ln|Court|Ct|Way|Place|Pl|Terrace|Ter|Circle|Cir|Parkway|"
    "Pkwy|Highway|Hwy|"
    "Square|Sq|Trail|Crescent|Cres|Close|Grove|Gardens|Mews|Row|Alley|Plaza|Turnpike|Pike|Loop|Run|Ridge|Walk)"
)
_STATE = "(?:A[LKZR]|C[AOT]|D[CE]|FL|GA|HI|I[DLNA]|K[SY]|LA|M[EDAINSOT]|N[EVHJMYCD]|O[HKR]|PA|RI|S[CD]|T[NX]|UT|V[TA]|W[AVIY]|PR)"
_US_ZIP = "[0-9]{5}(?:-[0-9]{4})?"
_UK_CODE = "(?:[A-PR-UWYZ][0-9][0-9A-HJKPSTUW]?|[A-PR-UWYZ][A-HK-Y][0-9][0-9ABEHMNPRV-Y]?) [0-9][ABD-HJLNP-UW-Z]{2}"
_UNIT = rf"(?:,?{_GAP}(?i:apt|apartment|suite|ste|unit|flat|floor|room)\.? ?#?[0-9A-Za-z]{{1,6}}|,? #[0-9]{{1,5}})"
_TOWN = rf"(?:,{_GAP}|\n)[ ]{{0,3}}{_CAPS}"
_END = r"(?:$|[^0-9A-Za-z])"
_DIRECTION = r"(?:(?:N|S|E|W|NE|NW|SE|SW|North|South|East|West)\.? )?"
_NUMBER = r"[0-9]{1,4}(?: ?(?:bis|ter|[a-zA-Z]))?"
_SMALL = r"(?:(?:de|del|della|delle|di|da|do|dos|das|du|des|d'|la|las|los|le|les|l'|el|van|der|den|het|dei|i) ?){0,3}"
_NAMES = rf"{_SMALL}{_CAP}(?: {_SMALL}{_CAP}){{0,3}}"


def _not_year(reading: Reading, start: int, end: int) -> bool:
    """`In 1999 Main Street ...` starts with a year and has no more than a street word."""
    first = reading.data[start:end].split(b" ", 1)[0]
    return not (len(first) == 4 and first[:2] in {b"19", b"20"} and reading.before(start, 4).endswith((b"in ", b"by ")))


def _place(name: str, span: str, *, left: str = r"\b", score: float = 0.8) -> Rule:
    return Rule(name, "LOCATION", span, left=left, right=_END, phrase=True, score=score, rank=WEAK)


def recognizers() -> list[Recognizer]:
    city = rf"(?:{_TOWN})"
    return [
        Rule(
            "us_street",
            "LOCATION",
            rf"[0-9]{{1,6}}[A-Za-z]? {_DIRECTION}{_CAP}(?: {_CAP}){{0,3}} {_US_STREET}\b\.?(?: (?:N|S|E|W|NE|NW|SE|SW)\b)?{_UNIT}?"
            rf"(?:{city})?(?:,?{_GAP}{_STATE}\b)?(?:,?{_GAP}(?:{_US_ZIP}|{_UK_CODE}))?",
            left=r"\b",
            right=_END,
            phrase=True,
            score=0.85,
            rank=WEAK,
            check=_not_year,
        ),
        _place(
            "de_street",
            r"[A-Z][A-Za-z?-]{2,30}(?:strasse|stra?e|str\.|weg|platz|allee|gasse|ring|damm|ufer|straat|laan|plein|gracht|kade|dijk|"
            rf"singel|gatan|vej|gade) [0-9]{{1,4}} ?[a-zA-Z]?\b(?:,?{_GAP}[0-9]{{4,5}}(?: ?[A-Z]{{2}})? {_CAPS})?",
        ),
        _place(
            "es_street",
            r"(?:(?i:calle|avda?\.?|avenida|plaza|pza\.?|paseo|ctra\.?|carretera|camino|ronda|traves?.a|glorieta|urbanizaci.n)|C/|c/) ?"
            rf"{_NAMES},? (?:n?[?o]?\.? ?)?[0-9]{{1,4}}(?:,? (?:[0-9]{{1,2}}|[A-Z]|bajo|Bajo)[?oa]?\b){{0,3}}",
        ),
        _place(
            "fr_street",
            rf"{_NUMBER},? (?i:rue|avenue|av\.|boulevard|bd|place|all.e|impasse|chemin|quai|route|cours|square) {_NAMES}"
            rf"(?:,?{_GAP}[0-9]{{5}} {_CAPS})?",
        ),
        _place("fr_street_after", rf"(?:Rue|Avenue|Boulevard|Place|Chemin|Quai|Route) {_NAMES} [0-9]{{1,4}}\b"),
        _place(
            "it_street",
            rf"(?:Via|Viale|Piazza|Piazzale|Corso|Largo|Vicolo|Strada|Rua|Avenida|Travessa|Pra?a) {_NAMES},? "
            rf"(?:n\.? ?)?[0-9]{{1,4}}[A-Za-z]?\b",
        ),
        _place("po_box", r"(?:P\.? ?O\.? ?Box|Postfach|Apartado|Casella [Pp]ostale) [0-9]{1,6}"),
        _place("unit", r"(?:Apt|Suite|Ste|Unit|Flat)\.? [0-9]{1,5}[A-Z]?", score=0.6),
        _place("us_city", rf"{_CAPS}, {_STATE} {_US_ZIP}"),
        _place("us_zip", rf"{_STATE} {_US_ZIP}", score=0.75),
        _place(
            "military",
            r"(?:[A-Z][A-Za-z]{2,8} [A-Z][a-z]+|PSC [0-9]{3,4}, Box [0-9]{3,5}|Unit [0-9]{3,5}(?: Box [0-9]{3,5})?)\n(?:APO|"
            r"FPO|DPO) A[AEP] [0-9]{5}",
        ),
        _place("military_post", r"(?:APO|FPO|DPO),? A[AEP] [0-9]{5}"),
        _place("uk_postcode", _UK_CODE),
        _place("ca_postcode", "[ABCEGHJ-NPRSTVXY][0-9][ABCEGHJ-NPRSTV-Z] [0-9][ABCEGHJ-NPRSTV-Z][0-9]"),
        _place("nl_postcode", "[1-9][0-9]{3} [A-Z]{2}(?:,? [A-Z][a-z]{2,20})", left=r"(?:,|\n)[ ]{0,2}", score=0.7),
        _place("es_code_town", rf"[0-5][0-9]{{4}}(?: -|,|\.)? {_CAPS}", left=r"(?:,|\.|-|\n|[0-9])[ ]{1,2}", score=0.6),
        _place(
            "postcode",
            r"[0-9]{4,5}(?:-[0-9]{3,4})?|[0-9]{3} [0-9]{2}",
            left=(
                r"(?i:\b(?:zip(?: ?code)?|postal code|post ?code|plz|cp|c\.p\.|codigo postal|code postal|cap))(?i: ?(?:is|:|=|"
                r"-)?[ ]{0,2})"
            ),
        ),
    ]
