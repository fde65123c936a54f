"""Ordinary text for measurements: deterministic, never the same twice within a run, no personal data."""

from __future__ import annotations

import random
from collections.abc import Iterator

WORDS = (
    """
    the of and to in is that for it as was with be by on not he this are or his from at which but have an had they you were
    their one all we can her has there been if more when will would who so no said what up its about into than them only
    some could time these two may then do first any my now such like our over man me even most made after also did many
    before must through years where much your way well down should because each just those people take day good how long
    little use work state very make world still own see men here get both between life being under never same another know
    while last might us great old year off come since against go came right used house report budget meeting project system
    network customer delivery question answer contract invoice schedule quarter analysis summary review support team
    """
).split()


def sentences(seed: int) -> Iterator[str]:
    """Yield sentences of 6 to 16 words for ever."""
    draw = random.Random(seed)
    while True:
        words = [draw.choice(WORDS) for _ in range(draw.randint(6, 16))]
        yield words[0].capitalize() + " " + " ".join(words[1:]) + "."


def text(seed: int, words: int) -> str:
    """Return about `words` words of prose."""
    parts: list[str] = []
    count = 0
    for sentence in sentences(seed):
        parts.append(sentence)
        count += sentence.count(" ") + 1
        if count >= words:
            return " ".join(parts)
    return ""
