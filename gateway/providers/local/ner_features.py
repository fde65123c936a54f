"""What can be told of each word before any model has thought? Shape, the lists of names and places, and what stands between words.

Pure. A word's bits depend on its letters alone, a gap's bits on the characters between two words alone, so both are looked up once
for each distinct form. The lists are made by `gateway.training.name_lists`; their licences are in `docs/model-card-names.md`.
"""

from __future__ import annotations

import gzip
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

LISTS = Path(__file__).parent / "weights" / "names.txt.gz"
MAX_FORMS = 50_000  # distinct words remembered; the memory is emptied when full
MAX_LOOKUP = 40  # letters; longer words are on no list
WORD = re.compile(r"[^\W_]+")

WORD_BITS = (
    "given", "surname", "city", "country", "everyday", "function", "place_begin", "honorific", "street", "company", "locative", "greeting",
    "particle", "first_capital", "all_capitals", "lower", "mixed_case", "digits", "single", "short", "long", "speech", "role", "weekday",
)  # fmt: skip
GAP_BITS = ("none", "blank", "line", "stop", "comma", "dash", "apostrophe", "dot", "colon", "at", "quote", "bracket", "slash", "other")
_BIT: Mapping[str, int] = MappingProxyType({name: 1 << at for at, name in enumerate((*WORD_BITS, "in_place"))})
IN_PLACE = len(WORD_BITS)
WORD_WIDTH = len(WORD_BITS) + 1
GAP_WIDTH = len(GAP_BITS)

_CUES: Mapping[str, str] = MappingProxyType(
    {
        "honorific": "mr mrs ms miss dr prof professor sir madam judge justice officer captain sgt lt col rev father sister lord lady "
        "president senator minister herr herrn frau fraulein doktor monsieur madame mme mlle m maitre docteur senor senora "
        "senorita don dona sr sra srta dott dottor dottoressa signor signora signore sig avv ing meneer mevrouw mijnheer dhr "
        "mevr dokter senhor senhora exmo doutor doutora",
        "street": "street st avenue ave road rd boulevard blvd drive dr lane ln court way place square highway strasse platz weg allee "
        "gasse ring ufer rue chemin impasse quai cours calle avenida avda plaza paseo carretera camino via viale piazza corso "
        "largo vicolo straat laan plein gracht kade rua travessa praca estrada apt suite unit floor",
        "company": "inc ltd llc corp corporation company co plc gmbh ag kg ohg ev mbh sa sas sarl srl spa snc sl slu bv nv cv lda group "
        "gruppe bank university universitat universite universidad universita universiteit universidade institute ministry "
        "department committee association foundation hospital college school club party council agency partei verein verband fc "
        "sv ministerium",
        "locative": "in at from near to into of via across around aus nach bei von bis zwischen a en de depuis vers chez dans desde hacia "
        "da nel nella presso per uit naar te bij tussen em no na nos nas para ate",
        "greeting": "hi hello hey dear thanks thank cheers regards hallo liebe lieber bonjour cher chere salut hola estimado estimada "
        "querida querido ciao caro cara gentile beste geachte ola prezado prezada obrigado merci gracias grazie danke bedankt",
        "particle": "van von de der den del della di da do dos das du la le ter ten zu zur bin ibn al el mc mac o d y",
        "speech": "says said asked wrote told replied called named sagt sagte fragte schrieb heisst dit disait ecrit appelle dijo dice "
        "escribio llamo llama disse chiama scrive scrisse zei zegt schreef heet diz escreveu chama is am name nome nombre nom "
        "naam",
        "role": "ceo cto manager director author patient client customer employee friend brother sister mother father wife husband son "
        "daughter colleague boss lawyer doctor nurse teacher uncle aunt bruder schwester mutter vater kollege kollegin "
        "patientin kunde frere soeur mere pere ami collegue hermano hermana madre padre amigo amiga fratello sorella amico "
        "collega broer zus moeder vader vriend irmao irma mae pai medico paciente plaintiff defendant witness applicant user "
        "contact",
        "weekday": "monday tuesday wednesday thursday friday saturday sunday january february march april may june july august september "
        "october november december montag dienstag mittwoch donnerstag freitag samstag sonntag januar februar marz mai juni "
        "juli oktober dezember lundi mardi mercredi jeudi vendredi samedi dimanche janvier fevrier mars avril juin juillet aout "
        "septembre octobre novembre decembre lunes martes miercoles jueves viernes sabado domingo enero febrero marzo abril "
        "mayo junio julio agosto septiembre octubre noviembre diciembre lunedi martedi mercoledi giovedi venerdi sabato "
        "domenica gennaio febbraio aprile maggio giugno luglio settembre ottobre dicembre maandag dinsdag woensdag donderdag "
        "vrijdag zaterdag zondag januari februari maart mei augustus segunda terca quarta quinta sexta janeiro fevereiro marco "
        "maio junho julho setembro outubro dezembro",
    }
)
FUNCTION_WORDS = frozenset(
    """
the of and to in is that it was for on are with as his they at be this have from or had by not but what all were we when your can said
there an which she do their if will about how been would who its my has me more than then him some could these you i a he no please our
der die und das den von zu mit sich des auf fur ist im dem nicht ein eine als auch es an werden aus er hat dass sie nach wird bei einer um
am sind noch wie einem uber einen so zum war haben nur oder aber vor zur bis mehr durch wurde ich wir ihr mein kann man wenn schon
le la les des et un une du que est pour qui dans pas plus par sur ne se ce il sont au avec son aux ou elle je nous vous mais cette ses
leur comme fait ete tout ont meme bien mon votre sans peut tres deux el los las y una ser no con para del al lo como mas pero sus este si
porque esta entre cuando muy sobre tambien me hasta hay donde quien desde todo nos durante su es fue son yo tu mi ha era puede
che e per non sono da come della dei delle nel nella alla anche piu ma questo questa ti ci suo sua io lui lei quando dove perche stato
de het een van dat op te zijn met voor niet aan om ook dan maar bij of uit nog naar heeft ze door over je ik hij wordt hebben deze
o os as do em uma nao na mais dos das mas foi ao ela seu ou muito ja eu tambem so pelo pela ate isso depois sem mesmo voce sao tem
""".split()
)
_GAP_OF: Mapping[str, str] = MappingProxyType({
    **dict.fromkeys(".!?\u2026", "stop"), ",": "comma", ";": "comma", **dict.fromkeys("-\u2010\u2011\u2013\u2014", "dash"),
    "'": "apostrophe", "\u2019": "apostrophe", ":": "colon", "@": "at", **dict.fromkeys("\"\u201c\u201d\u201e\u00ab\u00bb", "quote"),
    **dict.fromkeys("()[]{}<>", "bracket"), **dict.fromkeys("/\\_#|=*", "slash"),
})  # fmt: skip


def folded(word: str) -> str:
    """Return the form that the lists hold: lower case, no accents."""
    word = word.lower()
    if word.isascii():
        return word
    plain = "".join(c for c in unicodedata.normalize("NFD", word.replace("\u2019", "'")) if not unicodedata.combining(c))
    return plain.replace("\u00df", "ss").replace("\u00f8", "o").replace("\u0142", "l")


def _sections(path: Path) -> dict[str, list[str]]:
    sections: dict[str, list[str]] = {}
    for line in gzip.decompress(path.read_bytes()).decode().splitlines():
        if line.startswith("#"):
            current = sections[line[1:]] = []
        else:
            current.append(line)
    return sections


class Lexicon:
    """The lists in memory, with the bits of every form seen. One a process."""

    def __init__(self, path: Path = LISTS) -> None:
        bits: dict[str, int] = {}
        self._places: set[str] = set()
        for name, words in _sections(path).items():
            for word in words:
                parts = WORD.findall(word)
                if len(parts) == 1:
                    bits[parts[0]] = bits.get(parts[0], 0) | _BIT[name]
                elif len(parts) > 1 and name in {"city", "country"}:
                    self._places.add(" ".join(parts))
                    bits[parts[0]] = bits.get(parts[0], 0) | _BIT["place_begin"]
        for name, cues in [*_CUES.items(), ("function", " ".join(sorted(FUNCTION_WORDS)))]:
            for word in cues.split():
                bits[word] = bits.get(word, 0) | _BIT[name]
        self._bits = bits
        self._forms: dict[str, int] = {}
        self._gaps: dict[str, int] = {}

    def read(self, text: str) -> tuple[list[tuple[int, int]], list[str], NDArray[np.int64], NDArray[np.int64]]:
        """Return the bounds of each word, its folded form, its bits, and the bits of each gap (one more than words)."""
        bounds: list[tuple[int, int]] = []
        forms: list[int] = []
        gaps: list[int] = []
        last = 0
        for match in WORD.finditer(text):
            start, end = match.span()
            bounds.append((start, end))
            forms.append(self._form(match.group()))
            gaps.append(self._gap(text[last:start]))
            last = end
        gaps.append(self._gap(text[last:]))
        if gaps[0] == self._gap(""):
            gaps[0] |= 1 << GAP_BITS.index("line")
        plain = [folded(text[start:end]) for start, end in bounds]
        place = _BIT["place_begin"]
        for at, form in enumerate(forms):
            if form & place:
                self._mark(plain, forms, at)
        return bounds, plain, np.array(forms, np.int64), np.array(gaps, np.int64)

    def _mark(self, plain: list[str], forms: list[int], at: int) -> None:
        for size in (4, 3, 2):
            if " ".join(plain[at : at + size]) in self._places and at + size <= len(plain):
                for inner in range(at, at + size):
                    forms[inner] |= 1 << IN_PLACE
                return

    def _form(self, word: str) -> int:
        found = self._forms.get(word)
        if found is None:
            if len(self._forms) >= MAX_FORMS:
                self._forms.clear()
            found = self._forms[word] = self._judge(word)
        return found

    def _judge(self, word: str) -> int:
        bits = self._bits.get(folded(word), 0) if len(word) <= MAX_LOOKUP else 0
        if word.islower():
            bits |= _BIT["lower"]
        elif len(word) > 1 and word.isupper():
            bits |= _BIT["all_capitals"]
        elif word[0].isupper() and (len(word) == 1 or word[1:].islower()):
            bits |= _BIT["first_capital"]
        elif word.isalpha():
            bits |= _BIT["mixed_case"]
        if not word.isalpha():
            bits |= _BIT["digits"]
        size = len(word)
        return bits | (_BIT["single"] if size == 1 else _BIT["short"] if size <= 3 else _BIT["long"] if size >= 9 else 0)

    def _gap(self, gap: str) -> int:
        found = self._gaps.get(gap)
        if found is None:
            if len(self._gaps) >= MAX_FORMS // 10:
                self._gaps.clear()
            found = 0 if gap else 1
            for char in gap:
                name = "line" if char in "\r\n" else "blank" if char.isspace() else _GAP_OF.get(char, "other")
                found |= 1 << GAP_BITS.index(name)
            if gap.startswith(". ") or gap == ".":
                found |= 1 << GAP_BITS.index("dot")
            self._gaps[gap] = found
        return found


def unpacked(bits: NDArray[np.int64], width: int) -> NDArray[np.float32]:
    """Return one column a bit."""
    return ((bits[:, None] >> np.arange(width)) & 1).astype(np.float32)
