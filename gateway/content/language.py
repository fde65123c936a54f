"""Which language is this text in? Enough to keep an English model away from German, no more.

Function words decide between languages of the Latin script, character ranges between scripts. Pure; looks at the first `SAMPLE`
characters and at a bounded number of places after them.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType

COVERED = ("en", "de", "fr", "es", "it", "nl", "pt")
SAMPLE = 1_000
PASSAGE = 400  # code points of a passage: enough function words to tell, few enough not to hide another language
PLACES, PLACE = 12, 400  # of a long text, beside its beginning
MIN_WORDS = 4  # fewer known words than two of so many say nothing
_WORD = re.compile(r"(?<![\w.@/:&=%-])[^\W\d_]+(?:['\u2019][^\W\d_]+)?(?![\w@/=%]|\.\w)")  # no parts of addresses, links or code
_BEYOND_LATIN = re.compile("[\u0370-\U0002ffff]")

_FUNCTION_WORDS: Mapping[str, str] = MappingProxyType(
    {
        "en": "the of and to in is that it was for on are with as his they at be this have from or had by not but what all "
        "were we when your can said "
        "there an which she do their if will about how been would who its my has me more than then him some could these may "
        "you i a he no please "
        "write what's i'm don't why tell give make explain does between should using create list",
        "de": "der die und das den von zu mit sich des auf f\u00fcr ist im dem nicht ein eine als auch es an werden aus er "
        "hat dass sie nach wird bei einer um am "
        "sind noch wie einem \u00fcber einen so zum war haben nur oder aber vor zur bis mehr durch wurde ich wir ihr mein "
        "kann bitte warum sein seine",
        "fr": "le la les de des et en un une du que est pour qui dans pas plus par sur ne se ce il sont au avec son aux a ou "
        "elle je nous vous mais cette ses "
        "leur comme fait \u00e9t\u00e9 tout ont m\u00eame bien d'un d'une c'est l'on qu'il j'ai mon votre sans peut tr\u00e8s o\u00f9 deux",
        "es": "el la los las de que y en un una ser se no por con para del al lo como m\u00e1s pero sus le ya o este s\u00ed "
        "porque esta entre cuando muy sin sobre "
        "tambi\u00e9n me hasta hay donde quien desde todo nos durante su es fue son yo tu mi est\u00e1 ha era a\u00f1os puede "
        "qu\u00e9 c\u00f3mo",
        "it": "il lo la i gli le di che e \u00e8 un una in per non sono con si da come del della dei delle nel nella al alla "
        "anche pi\u00f9 ma ha questo questa mi ti "
        "ci suo sua o se io tu lui lei quando dove perch\u00e9 stato stata era tra dal dalla essere fu degli sul sulla cosa ho",
        "nl": "de het een en van in is dat op te zijn met voor niet aan er om ook als dan maar bij of uit nog naar heeft ze "
        "door over je ik hij wordt zich "
        "hebben kan deze was werd worden meer al wat haar geen mijn we dit zo jij onder moet hun tot die waar",
        "pt": "o a os as de que e do da em um uma para com n\u00e3o se na no por mais dos das como mas foi ao ele ela \u00e0 "
        "seu sua ou ser quando muito h\u00e1 nos j\u00e1 "
        "est\u00e1 eu tamb\u00e9m s\u00f3 pelo pela at\u00e9 isso entre era depois sem mesmo aos seus quem nas me esse eles "
        "voc\u00ea s\u00e3o tem uma foram num",
        # Languages no enabled detector reads, so that they are recognised for what they are: Indonesian, Swahili, Turkish, Polish, Czech,
        # Swedish, Danish, Finnish, Hungarian, Romanian, Croatian, Tagalog, Vietnamese.
        "other:latin": "yang dan di ini itu dengan untuk tidak dari dalam akan pada saya anda adalah oleh sebagai juga atau kami "
        "ya wa na kwa ni katika za hii kama yake cha kuwa hiyo lakini pia watu sana "
        "ve bir bu i\u00e7in ile \u00e7ok ama olarak daha kadar gibi olan var ben sen nas\u0131l de\u011fil "
        "w i z nie si\u0119 jest \u017ce jak ale po od za przez czy tak by\u0142o mo\u017ce tylko jego kt\u00f3ry kt\u00f3re "
        "v je \u017ee ale jako jsem byl jsou kter\u00fd kdy\u017e bylo tak\u00e9 nebo "
        "och att det som p\u00e5 \u00e4r av f\u00f6r med inte jag har ett om var och h\u00e4r kan "
        "og til ikke jeg har af er vi kan hvad hvor denne "
        "ja ei ett\u00e4 se mutta niin kuin oli h\u00e4n olen mit\u00e4 ovat my\u00f6s t\u00e4m\u00e4 "
        "az \u00e9s hogy nem egy ez meg volt csak mint m\u00e1r vagy lehet "
        "\u0219i s\u0103 nu pe mai care din este sunt pentru dar \u00een "
        "u su se koji koja kao ali iz bio ili sam "
        "ang ng sa mga ay ako siya hindi ito ka mo ko "
        "kh\u00f4ng c\u1ee7a v\u00e0 l\u00e0 c\u00f3 cho \u0111\u01b0\u1ee3c t\u00f4i ng\u01b0\u1eddi nh\u1eefng n\u00e0y "
        "m\u1ed9t v\u1edbi",
    }
)
_SIGNS: Mapping[str, str] = MappingProxyType(
    {
        "de": "\u00e4\u00f6\u00fc\u00df",
        "fr": "\u00e7\u00e8\u00ea\u0153\u00f9",
        "es": "\u00f1\u00bf\u00a1",
        "it": "\u00f2\u00ec",
        "nl": "",
        "pt": "\u00e3\u00f5",
        "en": "",
        "other:latin": "\u0142\u017c\u0105\u0119\u0159\u016f\u011b\u0131\u015f\u011f\u0219\u021b\u0151\u0111\u01a1\u01b0\u010d\u0161",
    }
)
_WEIGHTS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        word: MappingProxyType({code: 1.0 / shared[word] for code, words in _FUNCTION_WORDS.items() if word in words.split()})
        for shared in [Counter(word for words in _FUNCTION_WORDS.values() for word in set(words.split()))]
        for word in shared
    }
)
FEWEST_LETTERS = 4  # of a script that none of the seven is written in: fewer are a name or a sign
_FEWEST: Mapping[str, int] = MappingProxyType({"greek": 12})
# First words of the names of letters beyond Latin's blocks that are Latin all the same, or belong to no script.
_STILL_LATIN = frozenset({
    "", "latin", "fullwidth", "mathematical", "modifier", "superscript", "subscript", "double-struck", "script", "black-letter", "kelvin",
    "ohm", "angstrom", "turned", "inverted", "reversed", "rotated", "information", "alef", "bet", "gimel", "dalet",
})  # fmt: skip
_SCRIPTS = (
    ("hangul", 0x1100, 0x11FF),  # taken apart
    ("cyrillic", 0x400, 0x52F),
    ("greek", 0x370, 0x3FF),
    ("arabic", 0x600, 0x77F),
    ("hebrew", 0x590, 0x5FF),
    ("devanagari", 0x900, 0x97F),
    ("thai", 0xE00, 0xE7F),
    ("hangul", 0xAC00, 0xD7AF),
    ("kana", 0x3040, 0x30FF),
    ("han", 0x3400, 0x9FFF),
    ("han", 0x20000, 0x2FFFF),
    ("armenian", 0x530, 0x58F),
    ("georgian", 0x10A0, 0x10FF),
    ("bengali", 0x980, 0x9FF),
    ("tamil", 0xB80, 0xBFF),
)


def language(text: str) -> str:
    """Return "en", "de", "fr", "es", "it", "nl" or "pt"; "other:latin" or "other:<script>"; "und" when there is too little to tell.

    SECURITY: of a long text several places are looked at, and one of them in a language of none of the seven makes all of it foreign:
    else an English beginning would carry anything past the models that read English.
    """
    found = _language(text[:SAMPLE])
    if len(text) <= SAMPLE or found.startswith("other:"):
        return found
    step = max(PLACE, (len(text) - SAMPLE) // PLACES)
    for at in range(SAMPLE, len(text), step):
        other = _language(text[at : at + PLACE], guess=False)
        if other.startswith("other:"):
            return other
        if found == "und":
            found = other
    return found


def _language(sample: str, *, guess: bool = True) -> str:
    """`guess`: take many words of which none is known for a language of none of the seven; lists of nouns have none either."""
    if not sample.isascii():
        script = _script(sample)
        if script != "latin":
            return f"other:{script}"
    words = _WORD.findall(sample.lower())
    if len(words) < MIN_WORDS:
        return "und"
    scores: dict[str, float] = dict.fromkeys(_FUNCTION_WORDS, 0.0)
    for word in words:
        weights = _WEIGHTS.get(word)
        if weights is not None:
            for code, weight in weights.items():
                scores[code] += weight
    if not sample.isascii():
        for code, signs in _SIGNS.items():
            scores[code] += 0.5 * min(6, sum(sample.count(sign) for sign in signs))
    ranked = sorted(scores, key=lambda code: -scores[code])
    best, second = scores[ranked[0]], scores[ranked[1]]
    if best < 2.0 or best < 0.05 * len(words):
        return "other:latin" if guess and len(words) >= 40 and not sample.isascii() else "und"
    return ranked[0] if best >= 1.25 * second else "und"


def passages(text: str) -> list[tuple[int, int, str]]:
    """Return (start, end, language) of consecutive stretches that together are the whole text; neighbours of one language are one.

    A stretch too short to tell gets the language of the text if that is covered, else "und".
    """
    if len(text) <= PASSAGE:
        return [(0, len(text), _language(text, guess=False))] if text else []
    whole = language(text)
    if whole not in COVERED:
        whole = "und"
    out: list[tuple[int, int, str]] = []
    at = 0
    while at < len(text):
        end = _border(text, at)
        code = _language(text[at:end], guess=False)
        code = whole if code == "und" else code
        if out and out[-1][2] == code:
            out[-1] = (out[-1][0], end, code)
        else:
            out.append((at, end, code))
        at = end
    return out


def _border(text: str, at: int) -> int:
    """Return where a passage from `at` ends: after a line or sentence if one ends in its second half, else at a blank."""
    limit = at + PASSAGE
    if limit >= len(text):
        return len(text)
    for mark in ("\n", ". ", "! ", "? ", " "):
        found = text.rfind(mark, at + PASSAGE // 2, limit)
        if found > 0:
            return found + len(mark)
    return limit


def short_language(text: str) -> str:
    """Return "other:<script>" where letters alone say that a text too short for its words to tell is in none of the seven, else "und".

    SECURITY: half a dozen characters of Chinese are an instruction. A few Greek letters are a formula.
    """
    if text.isascii():
        return "und"
    script, count = _most_letters(text)
    return f"other:{script}" if script and count >= _FEWEST.get(script, FEWEST_LETTERS) else "und"


def _script(sample: str) -> str:
    return _most_letters(sample)[0] or "latin"


def _most_letters(sample: str) -> tuple[str, int]:
    """Return the script that more than half of the letters are of and how many those are; "" where they are Latin or mixed."""
    counts: Counter[str] = Counter()
    for char in _BEYOND_LATIN.findall(sample):
        code = ord(char)
        for script, begin, end in _SCRIPTS:
            if begin <= code <= end:
                counts[script] += 1
                break
        else:
            if char.isalpha() and (script := unicodedata.name(char, "").partition(" ")[0].lower()) not in _STILL_LATIN:
                counts[script] += 1
    if not counts:
        return "", 0
    # Japanese is written in two scripts and Korean may be: what counts is that none is Latin.
    script, count = counts.most_common(1)[0]
    total = counts.total()
    return (script, total) if 2 * total > sum(char.isalpha() for char in sample) else ("", count)
