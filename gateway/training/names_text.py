"""Sentences in seven languages with made-up persons, places and organizations: practice text for the names head. Seeded.

Each line of `name_sentences/<language>.txt` is a sentence written for this project; `{P}` is a full name, `{G}` a given name, `{S}` a
surname, `{HS}` a surname after a title, `{C}` a city, `{L}` a country, `{A}` a street address, `{O}` an organization. Lines without any
teach what is no name. Names come from the lists of `gateway.training.name_lists`.
"""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from random import Random
from typing import NamedTuple

from gateway.providers.local.ner_features import LISTS

SENTENCES = Path(__file__).parent / "name_sentences"
LANGUAGES = ("en", "de", "fr", "es", "it", "nl", "pt")
_SLOT = re.compile(r"\{([A-Z]+)\}")
_TITLES = {
    "en": ("Mr", "Mrs", "Ms", "Dr.", "Professor", "Mr."),
    "de": ("Herr", "Frau", "Herr Dr.", "Frau Professor"),
    "fr": ("M.", "Mme", "Monsieur", "Madame", "Docteur"),
    "es": ("Sr.", "Sra.", "Don", "Dra."),
    "it": ("Sig.", "Signora", "Dott.", "Avv."),
    "nl": ("heer", "mevrouw", "dhr.", "mevr."),
    "pt": ("Sr.", "Sra.", "Dr.", "Senhor"),
}
_STREETS = {
    "en": ("{n} {s} Street", "{n} {s} Avenue", "{n} {s} Rd", "{n} {s} Lane, Apt {n}"),
    "de": ("{s}straße {n}", "{s}weg {n}", "{s}-Platz {n}", "{s}gasse {n}a"),
    "fr": ("{n} rue {s}", "{n}, avenue de {s}", "{n} bis boulevard {s}", "{n} place {s}"),
    "es": ("Calle {s}, {n}", "Avenida de {s} {n}", "Plaza {s}, {n}, 2º B", "Paseo {s}, {n}"),
    "it": ("Via {s} {n}", "Piazza {s}, {n}", "Viale {s} {n}", "Corso {s} {n}"),
    "nl": ("{s}straat {n}", "{s}laan {n}", "{s}gracht {n}", "{s}plein {n}"),
    "pt": ("Rua {s}, {n}", "Avenida {s} {n}", "Travessa {s}, {n}", "Praça {s} {n}"),
}
_ANY_STREET = ("{n} {n} {s} Road", "{n} Via {s} {n}", "{n} ul. {s} {n}", "{n} Rue {s} {n}", "{n} {s}weg {n}", "{n} Avda. {s} {n}",
               "{n} {s}straat {n}",
               "{n} {s}", "{n} {t} {s}", "{n} Rua {s} {n}", "{s} {n}", "P.O. Box {n}{n}")  # fmt: skip
_TAILS = (", {c}", "\n{c}", ", {c} {z}", "\n{z} {c}", ", {z} {c}", " {c}", "\n Apt. {n}\n {c}\n {l}",
          " Suite {n}, {c}, {l} {z}", " Apt. {n}\n{c}, {l}", ", {c}, {l}",
          "\n{c}\n{l} {z}", " Apt. {n} {c} {z}", ", {z}")  # fmt: skip
_FIRMS = ("{s} GmbH", "{s} AG", "{s} Ltd", "{s} Inc.", "{s} & {t}", "{s} S.A.",
          "{s} S.p.A.", "{s} B.V.",
          "{s} Lda", "Bank {s}", "{s} Group",
          "{t} {s} LLP", "University of {c}", "FC {c}", "{c} Airlines", "{s}bank", "{s} Energy",
          "{s} Technologies", "{c} Times")  # fmt: skip
_LABEL = {
    "P": "PERSON",
    "G": "PERSON",
    "S": "PERSON",
    "HS": "PERSON",
    "C": "LOCATION",
    "L": "LOCATION",
    "A": "LOCATION",
    "O": "ORGANIZATION",
}


class Practice(NamedTuple):
    """A text with its names as (start, end, label)."""

    text: str
    code: str
    spans: list[tuple[int, int, str]]


def _titled(name: str, random: Random) -> str:
    small = {"of", "the", "de", "del", "la", "le", "and", "di", "do", "da", "du", "des", "y", "en"}
    words = [word if word in small and at else word.capitalize() for at, word in enumerate(name.split(" "))]
    text = " ".join("-".join(part[:1].upper() + part[1:] for part in word.split("-")) for word in words)
    return text if random.random() > 0.01 else text.upper()


class Writer:
    """Fills sentences. The same seed gives the same texts."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)  # noqa: S311 - practice text, not secrets
        self._lists: dict[str, list[str]] = {}
        for line in gzip.decompress(LISTS.read_bytes()).decode().splitlines():
            if line.startswith("#"):
                current = self._lists[line[1:]] = []
            else:
                current.append(line)
        self._everyday = set(self._lists["everyday"])
        self._lines = {code: (SENTENCES / f"{code}.txt").read_text(encoding="utf-8").splitlines() for code in LANGUAGES}

    def write(self, count: int) -> list[Practice]:
        """Return `count` texts of one to four sentences, equally many a language."""
        return [self._text(LANGUAGES[at % len(LANGUAGES)]) for at in range(count)]

    def _text(self, code: str) -> Practice:
        parts: list[str] = []
        spans: list[tuple[int, int, str]] = []
        size = 0
        for _ in range(self._random.randint(1, 4)):
            line = self._random.choice(self._lines[code]).replace("\\n", "\n")
            if parts:
                parts.append(self._random.choice((" ", " ", "\n")))
                size += 1
            last = 0
            for slot in _SLOT.finditer(line):
                parts.append(line[last : slot.start()])
                size += len(parts[-1])
                before, value = self._value(slot.group(1), code)
                parts += [before, value]
                spans.append((size + len(before), size + len(before) + len(value), _LABEL[slot.group(1)]))
                size += len(before) + len(value)
                last = slot.end()
            parts.append(line[last:])
            size += len(parts[-1])
        text = "".join(parts)
        style = self._random.random()
        changed = text.lower() if style < 0.12 else text.upper() if style < 0.14 else text
        return Practice(changed if len(changed) == len(text) else text, code, spans)

    def _pick(self, kind: str) -> str:
        name = self._random.choice(self._lists[kind])
        while name in self._everyday and self._random.random() < 0.7:
            name = self._random.choice(self._lists[kind])
        return _titled(name, self._random)

    def _made_up(self) -> str:
        """A name that is on no list: two syllables of two listed ones."""
        first, second = self._pick("surname"), self._pick("surname").lower()
        return first[: max(2, len(first) // 2)] + second[len(second) // 2 :]

    def _surname(self) -> str:
        name = self._made_up() if self._random.random() < 0.25 else self._pick("surname")
        return f"{name}-{self._pick('surname')}" if self._random.random() < 0.04 else name

    def _person(self) -> str:
        given = self._pick("given")
        style = self._random.random()
        if style < 0.08:
            return f"{given} {self._random.choice('ABCDEFGHJKLMPRSTW')}. {self._surname()}"
        if style < 0.14:
            return f"{given} {self._pick('given')} {self._surname()}"
        if style < 0.18:
            return f"{given[0]}. {self._surname()}"
        if style < 0.22:
            return f"{self._surname()}, {given}"
        if style < 0.27:
            return f"{given} {self._random.choice(('van', 'de', 'von', 'di', 'da', 'al', 'van der'))} {self._surname()}"
        return f"{given} {self._surname()}"

    def _value(self, slot: str, code: str) -> tuple[str, str]:
        if slot == "P":
            return "", self._person()
        if slot == "G":
            return "", self._pick("given")
        if slot == "S":
            return "", self._surname()
        if slot == "HS":
            return self._random.choice(_TITLES[code]) + " ", self._surname()
        if slot == "C":
            return "", self._pick("city")
        if slot == "L":
            return "", self._pick("country")
        if slot == "O":
            pattern = self._random.choice(_FIRMS)
        else:
            pattern = self._random.choice(_STREETS[code] if self._random.random() < 0.6 else _ANY_STREET)
            pattern += self._random.choice(_TAILS) if self._random.random() < 0.35 else ""
        number, post = str(self._random.randint(1, 980)), f"{self._random.randint(1000, 98_999):04d}"
        place = {"c": self._pick("city"), "l": self._pick("country"), "z": post}
        return "", pattern.format(n=number, s=self._surname(), t=self._pick("given"), **place)
